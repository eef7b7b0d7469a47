"""The text of the CUDA kernels, and its options: the same for CuPy and for tests."""

from __future__ import annotations

import functools
from importlib import resources

# In this order they are one text, without #include.
FILES = ("words.cu", "softmax.cu", "hinge.cu", "rows.cu", "columns.cu")
OPTIONS = ("--std=c++17", "--fmad=false")


@functools.cache
def text() -> str:
    """Return the kernels as one text."""
    folder = resources.files(__package__)
    return "\n".join((folder / name).read_text("utf-8") for name in FILES)
