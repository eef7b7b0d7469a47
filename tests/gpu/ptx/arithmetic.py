"""Instructions on integers and floats, exact and approximate."""

from __future__ import annotations

import numpy as np

from gpu.ptx import numbers
from gpu.ptx.forms import Build, Form, Function, Noise, Opcode, same
from gpu.ptx.types import DTYPES, Array, doubled, is_float


def _add(opcode: Opcode) -> Form:
    rounding = opcode.rounding
    if opcode.type != "f32" or rounding == "rn":
        return same(opcode, 2, np.add)
    return same(opcode, 2, lambda a, b: numbers.add32(a, b, rounding))


def _sub(opcode: Opcode) -> Form:
    rounding = opcode.rounding
    if opcode.type != "f32" or rounding == "rn":
        return same(opcode, 2, np.subtract)
    return same(opcode, 2, lambda a, b: numbers.add32(a, -b, rounding))


def _mul(opcode: Opcode) -> Form:
    type_, rounding = opcode.type, opcode.rounding
    if opcode.has("wide"):
        wide = DTYPES[doubled(type_)]
        return Form(
            doubled(type_),
            (type_, type_),
            lambda a, b: a.astype(wide) * b.astype(wide),
        )
    if opcode.has("hi"):
        return same(opcode, 2, numbers.high_product)
    if type_ != "f32" or rounding == "rn":
        return same(opcode, 2, np.multiply)
    return same(opcode, 2, lambda a, b: numbers.mul32(a, b, rounding))


def _mad(opcode: Opcode) -> Form:
    product = _mul(opcode)
    function = product.function
    return Form(
        product.result,
        (*product.sources, product.result),
        lambda a, b, c: function(a, b) + c,
    )


def _fma(opcode: Opcode) -> Form:
    if opcode.type == "f64":
        return same(opcode, 3, numbers.fma64)
    rounding = opcode.rounding
    return same(opcode, 3, lambda a, b, c: numbers.fma32(a, b, c, rounding))


def _div(opcode: Opcode) -> Form:
    if not is_float(opcode.type):
        return same(opcode, 2, numbers.quotient)
    return _approximate(opcode, 2, np.divide, _ulps(2))


def _rem(opcode: Opcode) -> Form:
    return same(opcode, 2, numbers.remainder)


def _extreme(opcode: Opcode) -> Form:
    largest, keep_nan = opcode.name == "max", opcode.has("NaN")
    if is_float(opcode.type):
        return same(opcode, 2, lambda a, b: numbers.extreme(a, b, largest, keep_nan))
    return same(opcode, 2, np.maximum if largest else np.minimum)


def _neg(opcode: Opcode) -> Form:
    return same(opcode, 1, np.negative)


def _abs(opcode: Opcode) -> Form:
    return same(opcode, 1, np.abs)


def _copysign(opcode: Opcode) -> Form:
    return same(opcode, 2, lambda sign, value: np.copysign(value, sign))


# Approximations


def _ulps(count: int, unit: int = 1) -> Noise:
    """Be off by up to so many units; a power of two, an infinity or a NaN stays."""

    def noise(rng: np.random.Generator, result: Array, source: Array) -> Array:
        bits = result.view(f"i{result.dtype.itemsize}")
        mantissa = np.frexp(result)[0]
        normal = np.abs(result) > 4 * np.finfo(result.dtype).tiny
        free = np.isfinite(result) & normal & (np.abs(mantissa) != 0.5)
        moved = bits + rng.integers(-count, count + 1, len(bits)) * unit
        return np.where(free, moved, bits).astype(bits.dtype).view(result.dtype)

    return noise


def _log_noise(rng: np.random.Generator, result: Array, source: Array) -> Array:
    """Between 1/2 and 2 the absolute error is up to 2^-22, elsewhere an ulp or so."""
    near = (source > 0.5) & (source < 2) & (source != 1)
    shift = rng.uniform(-(2.0**-22), 2.0**-22, len(result))
    moved = (result + shift).astype(result.dtype)
    return np.where(near, moved, _ulps(1)(rng, result, source))


def _approximate(opcode: Opcode, count: int, function: Function, noise: Noise) -> Form:
    exact = same(opcode, count, function)
    if opcode.has("rn"):
        return exact
    return Form(exact.result, exact.sources, exact.function, noise=noise)


def _through_float64(function: Function) -> Function:
    return lambda a: function(a.astype(np.float64)).astype(np.float32)


def _rcp(opcode: Opcode) -> Form:
    if opcode.type == "f64" and not opcode.has("rn"):
        return Form("f64", ("f64",), _rough_reciprocal, noise=_ulps(1, 1 << 32))
    return _approximate(opcode, 1, np.reciprocal, _ulps(1))


def _rough_reciprocal(a: Array) -> Array:
    """Give the upper 32 bits of 1/a; subnormals flush, the lower bits are zero."""
    tiny = np.finfo(np.float64).tiny
    a = np.where(np.abs(a) < tiny, np.copysign(0.0, a), a)
    result = 1.0 / a
    result = np.where(np.abs(result) < tiny, np.copysign(0.0, result), result)
    upper = result.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)
    return np.where(np.isnan(result), result, upper.view(np.float64))


def _sqrt(opcode: Opcode) -> Form:
    return _approximate(opcode, 1, np.sqrt, _ulps(1))


def _rsqrt(opcode: Opcode) -> Form:
    exact = _through_float64(lambda a: 1 / np.sqrt(a))
    return _approximate(opcode, 1, exact, _ulps(1))


def _ex2(opcode: Opcode) -> Form:
    return _approximate(opcode, 1, _through_float64(np.exp2), _ulps(2))


def _lg2(opcode: Opcode) -> Form:
    return _approximate(opcode, 1, _through_float64(np.log2), _log_noise)


FORMS: dict[str, Build] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "mad": _mad,
    "fma": _fma,
    "div": _div,
    "rem": _rem,
    "min": _extreme,
    "max": _extreme,
    "neg": _neg,
    "abs": _abs,
    "copysign": _copysign,
    "rcp": _rcp,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "ex2": _ex2,
    "lg2": _lg2,
}
