"""Sphinx builds these pages: make docs."""

from fastsoftmax import __version__ as release

project = "fastsoftmax"
author = copyright = "The fastsoftmax developers"
version = release

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "softmax for NumPy and CuPy: exact, fast"}

# Each heading can be linked to, as on the hosts of repositories.
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints = "none"
