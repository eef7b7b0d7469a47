"""Instructions that choose, copy, convert and compare."""

from __future__ import annotations

import numpy as np

from gpu.ptx.forms import Build, Form, Function, Opcode, flushing
from gpu.ptx.types import DTYPES, Array, is_float


def _selp(opcode: Opcode) -> Form:
    return Form(
        opcode.type,
        (opcode.type, opcode.type, "pred"),
        lambda a, b, chosen: np.where(chosen, a, b),
    )


def _copy(opcode: Opcode) -> Form:
    return Form(opcode.type, (opcode.type,), np.copy)


def _mapa(opcode: Opcode) -> Form:
    """The upper 8 of 32 bits of a shared address name the block: its rank plus 1."""
    own = np.uint32(0xFFFFFF)
    return Form(
        "u32", ("u32", "u32"), lambda a, rank: (a & own) | ((rank + 1) << np.uint32(24))
    )


def _two_halves(opcode: Opcode, result: str) -> Form:
    """Of two floats the first one goes to the upper half."""
    narrow = _to_bfloat16 if result == "bf16x2" else _to_float16

    def convert(upper: Array, lower: Array) -> Array:
        return narrow(upper) << np.uint32(16) | narrow(lower)

    return Form("b32", ("f32", "f32"), convert)


def _to_float16(a: Array) -> Array:
    return a.astype(np.float16).view(np.uint16).astype(np.uint32)


def _to_bfloat16(a: Array) -> Array:
    bits = a.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> np.uint32(16)
    return np.where(np.isnan(a), np.uint32(0x7FFF), nearest)


def _cvt(opcode: Opcode) -> Form:
    result, source = opcode.words[-2:]
    if result in ("f16x2", "bf16x2"):
        return _two_halves(opcode, result)
    dtype = DTYPES[result]
    convert = flushing(opcode, lambda a: a.astype(dtype))
    return Form(result, (source,), convert, wider=True)


# Comparing


_ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _setp(opcode: Opcode) -> Form:
    """Only `ne` needs care: NaN makes it false."""
    name, type_ = opcode.words[1], opcode.type
    compare = _float_comparison(name) if is_float(type_) else _ORDERED[name]
    return Form("pred", (type_, type_), flushing(opcode, compare))


def _float_comparison(name: str) -> Function:
    def unordered(a: Array, b: Array) -> Array:
        return np.isnan(a) | np.isnan(b)

    if name == "nan":
        return unordered
    if name == "num":
        return lambda a, b: ~unordered(a, b)
    compare = _ORDERED[name[:2]]
    if name.endswith("u") and len(name) == 3:
        return lambda a, b: compare(a, b) | unordered(a, b)
    if name == "ne":
        return lambda a, b: compare(a, b) & ~unordered(a, b)
    return compare


FORMS: dict[str, Build] = {
    "selp": _selp,
    "mov": _copy,
    "cvta": _copy,
    "mapa": _mapa,
    "cvt": _cvt,
    "setp": _setp,
}
