"""What gradients should be, in long double, and how far a result may be off."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from oracle import GRADIENTS
from oracle.arithmetic import (
    DTYPES,
    HALVES,
    Array,
    Judge,
    assert_right,
    assert_same_bits,
    needs_wide,
)

from fastsoftmax import log_softmax, log_softmax_vjp, softmax, softmax_vjp

FORWARD = {softmax_vjp: softmax, log_softmax_vjp: log_softmax}
of_both = pytest.mark.parametrize("function", FORWARD)
of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw(
    function: Any, shape: tuple[int, ...], dtype: Any = np.float64, axis: Any = -1
) -> tuple[Array, Array]:
    """A result of softmax or log_softmax, and a gradient with respect to it."""
    y, dy = _drawn(function, shape, axis)
    return y.astype(dtype), dy.astype(dtype)


@functools.lru_cache(maxsize=2)
def _drawn(function: Any, shape: tuple[int, ...], axis: Any) -> tuple[Array, Array]:
    rng = np.random.default_rng([len(shape), *shape])
    y = FORWARD[function](rng.normal(0, 3, shape), axis=axis)
    return y, rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-2, 1, shape)


def judge(
    function: Any,
    y: Array,
    dy: Any,
    axis: Any = None,
    temperature: Any = 1.0,
    dtype: Any = None,
) -> Judge:
    """The exact gradient, and how far a result of `dtype` (that of y) may be off."""
    dtype = y.dtype if dtype is None else np.dtype(dtype)
    of = GRADIENTS[function is log_softmax_vjp]
    given = y, np.broadcast_to(dy, y.shape)
    [judge] = of.judges(given, axis, temperature=temperature, dtype=dtype)
    return judge


assert_within = assert_right

__all__ = [
    "DTYPES",
    "FORWARD",
    "HALVES",
    "assert_same_bits",
    "assert_within",
    "draw",
    "judge",
    "needs_wide",
    "of_both",
    "of_every_dtype",
]
