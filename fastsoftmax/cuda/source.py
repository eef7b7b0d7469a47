"""The text of the CUDA kernels, and its options: the same for CuPy and for tests."""

from __future__ import annotations

import functools
from importlib import resources

# In this order they are one text, without #include.
HEADER = "kernels/math/coefficients.h"
OPERATIONS = ("softmax.cu", "hinge.cu", "entropy.cu")
FILES = ("words.cu", "exp.cu", *OPERATIONS, "rows.cu", "columns.cu", "losses.cu")
OPTIONS = ("--std=c++17", "--fmad=false")


@functools.cache
def text() -> str:
    """Return the kernels as one text, after the numbers that they share with C."""
    package = resources.files("fastsoftmax")
    parts = (HEADER, *(f"cuda/{name}" for name in FILES))
    return "\n".join((package / part).read_text("utf-8") for part in parts)
