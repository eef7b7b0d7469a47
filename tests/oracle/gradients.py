"""What the softmaxes' gradients should be: wide rows [B, n]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import WIDE, Array, Judge, computed, finfo, widened


def judge(
    name: str,
    y: Array,
    dy: Array,
    temperature: Any = 1.0,
    dtype: npt.DTypeLike | None = None,
) -> Judge:
    """Say what rounding costs a result of `dtype` (that of y), before 16 bits.

    With eps the distance from 1 to the next number, at most 3 eps of the result (for
    log_softmax_vjp: of the larger of its two terms), and what is lost of a sum of n
    terms in double: n roundings of at most 2^-53 of the sum of the moduli.

    Numbers below the smallest normal one are multiples of the smallest subnormal one,
    so that rounding may cost half of that: to softmax_vjp in the rest of the sum and in
    the product; to log_softmax_vjp in exp(y), in the rest of the sum and in two
    products; to both in the quotient, and the temperature divides all but the last.
    """
    number = computed(y.dtype if dtype is None else dtype)
    info = finfo(number)
    with np.errstate(all="ignore"):
        divisor = WIDE(number.type(temperature))
        y, dy = np.broadcast_arrays(widened(y), widened(dy))
        terms = _of_softmax if name == "softmax_vjp" else _of_log_softmax
        value, magnitude, spread, underflows = terms(y, dy)
        lost = y.shape[-1] * min(WIDE(2) ** -53, info.eps / 2) * spread
        subnormal = np.ldexp(WIDE(1), info.minexp - info.nmant)
        allowed = 3 * WIDE(info.eps) * magnitude + lost + underflows * subnormal / 2
        return Judge(value / divisor, allowed / divisor + subnormal / 2)


def _of_softmax(y: Array, dy: Array) -> tuple[Array, Array, Array, int]:
    products = y * dy
    value = y * (dy - products.sum(axis=-1, keepdims=True))
    spread = abs(y) * abs(products).sum(axis=-1, keepdims=True)
    return value, abs(value), spread, 2


def _of_log_softmax(y: Array, dy: Array) -> tuple[Array, Array, Array, int]:
    p = np.exp(y)
    product = p * dy.sum(axis=-1, keepdims=True)
    spread = p * abs(dy).sum(axis=-1, keepdims=True)
    return dy - product, np.maximum(abs(dy), abs(product)), spread, 4
