"""What the tests of the gradients share."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from oracle.arithmetic import Array

from fastsoftmax import log_softmax, log_softmax_vjp, softmax, softmax_vjp

FORWARD = {softmax_vjp: softmax, log_softmax_vjp: log_softmax}
of_both = pytest.mark.parametrize("function", FORWARD)


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
