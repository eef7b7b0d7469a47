"""The types of PTX as NumPy has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(scalar)
    for name, scalar in {
        "b8": np.uint8,
        "u8": np.uint8,
        "b16": np.uint16,
        "u16": np.uint16,
        "s16": np.int16,
        "b32": np.uint32,
        "u32": np.uint32,
        "s32": np.int32,
        "b64": np.uint64,
        "u64": np.uint64,
        "s64": np.int64,
        "f16": np.float16,
        "f32": np.float32,
        "f64": np.float64,
        "pred": np.bool_,
    }.items()
}
UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def size_of(type_: str) -> int:
    return DTYPES[type_].itemsize


def is_float(type_: str) -> bool:
    return type_[0] == "f"


def is_signed(type_: str) -> bool:
    return type_[0] == "s"


def storage(type_: str) -> np.dtype[Any]:
    """Return how a register of this type is kept: bits without a meaning, or bool."""
    return DTYPES[type_] if type_ == "pred" else UNSIGNED[size_of(type_)]


def doubled(type_: str) -> str:
    """Return the type of a wide product: s32 gives s64."""
    return f"{type_[0]}{size_of(type_) * 16}"
