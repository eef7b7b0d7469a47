"""Calls on CuPy arrays, their layouts, and how far results may be off."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from oracle.arithmetic import WIDE, unit
from oracle.arrays import Axes, as_rows
from oracle.softmaxes import exact

from gpu import stand_in

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
HALVES = DTYPES[:2]

# Units in the last place of the type computed in. The exponential is within 0.9 of its
# own, which may be 1.8 of a quotient in the next binade, and is rounded once more.
ULP = {np.float32: 4, np.float64: 2.4}


def computed(dtype: Any) -> Any:
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def draw(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Array:
    """Logits of which exp overflows float16, and most differences matter."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.normal(0, 4, shape) + 20).astype(dtype)


def reference(name: str, x: Array, axis: Axes) -> Array:
    """Result of the function called `name`, or `largest`, over any axes of finite x."""
    rows, back = as_rows(x, axis)
    return back(getattr(exact(rows), name))


def run(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function; return host arrays. The call itself must not wait."""
    waits = stand_in.machine.waits
    result = function(*args, **options)
    assert stand_in.machine.waits == waits, "the call waits for the device"
    return to_host(result)


def to_host(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(to_host, result))
    assert isinstance(result, sys.modules["cupy"].ndarray), type(result)
    return result.get()


def assert_close(result: Array, expected: Any, magnitude: Any = None) -> None:
    """Within ULP of the result, or of a larger magnitude; a half is rounded once more.

    float32 flushes subnormal numbers to 0.
    """
    expected = np.asarray(expected).astype(WIDE)
    assert result.shape == expected.shape
    compute = computed(result.dtype)
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float64).astype(result.dtype).astype(np.float64)
    wide = result.astype(np.float64)
    special = ~np.isfinite(rounded)
    np.testing.assert_array_equal(wide[special], rounded[special])
    ordinary = ~special
    wanted = expected[ordinary]
    size = abs(wanted)
    if magnitude is not None:
        size = np.maximum(size, np.broadcast_to(magnitude, expected.shape)[ordinary])
    allowed = ULP[compute] * unit(size, compute)
    if result.dtype in HALVES:
        allowed = allowed + unit(size, result.dtype) / 2
    if compute is np.float32:
        allowed = allowed + np.where(size < 2.0**-125, WIDE(2) ** -125, 0)
    error = abs(wide[ordinary] - wanted)
    assert np.all(error <= allowed), f"{np.max(error / allowed)} of what is allowed"


def _off_by_one(cupy: Any, x: Array) -> Any:
    flat = np.concatenate([np.zeros(1, x.dtype), x.ravel()])
    return cupy.asarray(flat)[1:].reshape(x.shape)


def _rotated(cupy: Any, x: Array) -> Any:
    last_first = np.ascontiguousarray(np.moveaxis(x, -1, 0))
    return cupy.asarray(last_first).transpose((*range(1, x.ndim), 0))


def _swapped(cupy: Any, x: Array) -> Any:
    """Dense, in neither of the orders that have a name."""
    axes = (1, 0, *range(2, x.ndim))
    return cupy.asarray(np.ascontiguousarray(x.transpose(axes))).transpose(axes)


LAYOUTS: dict[str, Callable[[Any, Array], Any]] = {
    "C": lambda cupy, x: cupy.asarray(np.ascontiguousarray(x)),
    "F": lambda cupy, x: cupy.asarray(np.asfortranarray(x)),
    "rotated": _rotated,
    "swapped": _swapped,
    "backwards": lambda cupy, x: cupy.asarray(x[..., ::-1].copy())[..., ::-1],
    "rows backwards": lambda cupy, x: cupy.asarray(x[::-1].copy())[::-1],
    "every third": lambda cupy, x: cupy.asarray(np.repeat(x, 3, -1))[..., ::3],
    "every second row": lambda cupy, x: cupy.asarray(np.repeat(x, 2, 0))[::2],
    "one element off": _off_by_one,
}
