"""Instructions that choose, copy, convert and compare."""

from __future__ import annotations

import numpy as np

from gpu.ptx import numbers
from gpu.ptx.forms import Build, Form, Function, Opcode
from gpu.ptx.memory import SHARED_WINDOW
from gpu.ptx.types import DTYPES, Array, is_float


def _selp(opcode: Opcode) -> Form:
    return Form(
        opcode.type,
        (opcode.type, opcode.type, "pred"),
        lambda a, b, chosen: np.where(chosen, a, b),
    )


def _mov(opcode: Opcode) -> Form:
    return Form(opcode.type, (opcode.type,), np.copy)


def _cvta(opcode: Opcode) -> Form:
    """Global addresses are generic ones; shared memory has a window of them."""
    if opcode.has("global"):
        return Form(opcode.type, (opcode.type,), np.copy)
    if opcode.type == "u32":
        raise ValueError("a generic address has 64 bits")
    window = np.uint64(SHARED_WINDOW)
    if opcode.has("to"):
        return Form("u64", ("u64",), lambda a: a - window)
    return Form("u64", ("u64",), lambda a: a + window)


def _mapa(opcode: Opcode) -> Form:
    """The upper 8 of 32 bits of a shared address name the block: its rank plus 1."""
    kind = DTYPES[opcode.type].type
    own = ~kind(0xFF000000)
    return Form(
        opcode.type,
        (opcode.type, "u32"),
        lambda a, rank: (a & own) | ((rank + np.uint32(1)).astype(kind) << kind(24)),
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
    if not is_float(source):
        function = _from_integer(opcode, result)
    elif not is_float(result):
        function = _float_to_integer(opcode, result, source)
    else:
        function = _float_to_float(opcode, result, source)
    return Form(result, (source,), function, wider=True)


def _from_integer(opcode: Opcode, result: str) -> Function:
    dtype, rounding = DTYPES[result], opcode.rounding
    if is_float(result):
        convert = _integer_to_float(result, rounding)
        if opcode.has("sat"):
            return lambda a: numbers.saturate(convert(a))
        return convert
    if opcode.has("sat"):
        limits = np.iinfo(dtype)
        return lambda a: _clamped(a, limits.min, limits.max).astype(dtype)
    return lambda a: a.astype(dtype)


def _clamped(a: Array, low: int, high: int) -> Array:
    own = np.iinfo(a.dtype)
    return np.clip(a, max(low, own.min), min(high, own.max))


def _integer_to_float(result: str, rounding: str) -> Function:
    if result == "f16":
        return lambda a: numbers.to_float16(a.astype(np.float64), rounding)
    if result == "f32" and rounding != "rn":
        return lambda a: numbers.to_float32(a.astype(np.float64), rounding)
    dtype = DTYPES[result]
    return lambda a: a.astype(dtype)


def _integral(opcode: Opcode) -> str:
    return next(word for word in opcode.words if word in ("rni", "rzi", "rmi", "rpi"))


def _float_to_integer(opcode: Opcode, result: str, source: str) -> Function:
    rounding, dtype = _integral(opcode), DTYPES[result]
    ftz = opcode.has("ftz") and source == "f32"

    def convert(a: Array) -> Array:
        a = numbers.flush(a) if ftz else a
        return numbers.to_integer(numbers.to_integral(a, rounding), dtype)

    return convert


def _float_to_float(opcode: Opcode, result: str, source: str) -> Function:
    convert = _between_floats(opcode, result)
    flush_in = opcode.has("ftz") and source == "f32"
    flush_out = opcode.has("ftz") and result == "f32"
    saturate = opcode.has("sat")

    def through(a: Array) -> Array:
        values = convert(numbers.flush(a) if flush_in else a)
        values = numbers.saturate(values) if saturate else values
        return numbers.flush(values) if flush_out else values

    return through


def _between_floats(opcode: Opcode, result: str) -> Function:
    rounding, dtype = opcode.rounding, DTYPES[result]
    if any(word in ("rni", "rzi", "rmi", "rpi") for word in opcode.words):
        integral = _integral(opcode)
        return lambda a: numbers.to_integral(a, integral)
    if rounding == "rn":
        return lambda a: a.astype(dtype)
    narrow = numbers.to_float16 if result == "f16" else numbers.to_float32
    return lambda a: narrow(a.astype(np.float64), rounding)


# Comparing


_ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(opcode: Opcode) -> Function:
    """Return what setp compares with; only `ne` needs care: NaN makes it false."""
    name = opcode.words[1]
    name = _UNSIGNED_NAMES.get(name, name)
    if not is_float(opcode.type):
        return _ORDERED[name]
    function = _float_comparison(name)
    if not opcode.has("ftz"):
        return function
    return lambda a, b: function(numbers.flush(a), numbers.flush(b))


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
    "mov": _mov,
    "cvta": _cvta,
    "mapa": _mapa,
    "cvt": _cvt,
}
