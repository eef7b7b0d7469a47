"""Instructions on integers and floats, exact and approximate."""

from __future__ import annotations

import numpy as np

from gpu.ptx import numbers
from gpu.ptx.forms import Build, Form, Noise, Opcode, plain, same
from gpu.ptx.types import DTYPES, Array, doubled, is_float


def _add(opcode: Opcode) -> Form:
    return same(opcode, 2, numbers.add_towards_zero if opcode.has("rz") else np.add)


def _mul(opcode: Opcode) -> Form:
    if not opcode.has("wide"):
        return same(opcode, 2, np.multiply)
    type_, result = opcode.type, doubled(opcode.type)
    wide = DTYPES[result]
    return Form(result, (type_, type_), lambda a, b: a.astype(wide) * b.astype(wide))


def _fma(opcode: Opcode) -> Form:
    return same(opcode, 3, numbers.fma64 if opcode.type == "f64" else numbers.fma32)


def _div(opcode: Opcode) -> Form:
    return same(opcode, 2, np.divide if is_float(opcode.type) else numbers.quotient)


def _extreme(opcode: Opcode) -> Form:
    largest, keep_nan = opcode.name == "max", opcode.has("NaN")
    if is_float(opcode.type):
        return same(opcode, 2, lambda a, b: numbers.extreme(a, b, largest, keep_nan))
    return same(opcode, 2, np.maximum if largest else np.minimum)


# Approximations


def _ulps(count: int, unit: int = 1) -> Noise:
    """Be off by up to so many units; a power of two, an infinity or a NaN stays."""

    def noise(rng: np.random.Generator, result: Array) -> Array:
        bits = result.view(f"i{result.dtype.itemsize}")
        mantissa = np.frexp(result)[0]
        normal = np.abs(result) > 4 * np.finfo(result.dtype).tiny
        free = np.isfinite(result) & normal & (np.abs(mantissa) != 0.5)
        moved = bits + rng.integers(-count, count + 1, len(bits)) * unit
        return np.where(free, moved, bits).astype(bits.dtype).view(result.dtype)

    return noise


def _rcp(opcode: Opcode) -> Form:
    if opcode.has("rn"):
        return same(opcode, 1, np.reciprocal)
    return Form("f64", ("f64",), _rough_reciprocal, noise=_ulps(1, 1 << 32))


def _rough_reciprocal(a: Array) -> Array:
    """Give the upper 32 bits of 1/a; subnormals flush, the lower bits are zero."""
    tiny = np.finfo(np.float64).tiny
    a = np.where(np.abs(a) < tiny, np.copysign(0.0, a), a)
    result = 1.0 / a
    result = np.where(np.abs(result) < tiny, np.copysign(0.0, result), result)
    upper = result.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)
    return np.where(np.isnan(result), result, upper.view(np.float64))


def _ex2(opcode: Opcode) -> Form:
    def power(a: Array) -> Array:
        exact: Array = np.exp2(numbers.flush(a).astype(np.float64))
        return numbers.flush(exact.astype(np.float32))

    return Form("f32", ("f32",), power, noise=_ulps(2))


FORMS: dict[str, Build] = {
    "add": _add,
    "sub": plain(2, np.subtract),
    "mul": _mul,
    "mad": plain(3, lambda a, b, c: a * b + c),
    "fma": _fma,
    "div": _div,
    "min": _extreme,
    "max": _extreme,
    "neg": plain(1, np.negative),
    "abs": plain(1, np.abs),
    "rcp": _rcp,
    "ex2": _ex2,
}
