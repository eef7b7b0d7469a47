"""Small PTX programs for the tests of the interpreter, and exact rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu import ptx

Array = NDArray[Any]
HEADER = ".version 8.0\n.target sm_90\n.address_size 64\n"
REGISTERS = """
    .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %d<16>;
"""


SCHEDULES = (None, 0, 1, 2, 3, 4, 5)


def words(count: int = 64) -> Array:
    return np.arange(count, dtype=np.uint32)


def kernel(
    body: str, pointers: int = 1, outside: str = "", attributes: str = ""
) -> Any:
    """Return a kernel whose parameters are pointers, in %d8 and up.

    %r15 is the thread's number in the block, %d15 four times that.
    """
    parameters = ", ".join(f".param .u64 k_param_{i}" for i in range(pointers))
    loads = "".join(f"ld.param.u64 %d{8 + i}, [k_param_{i}];" for i in range(pointers))
    text = (
        f"{HEADER}{outside}.visible .entry k({parameters}) {attributes} {{{REGISTERS}"
        f"{loads} mov.u32 %r15, %tid.x; mul.wide.u32 %d15, %r15, 4;\n{body}\n ret; }}"
    )
    return ptx.parse(text).kernels["k"]


def launch(
    body: str,
    *buffers: Array | None,
    grid: int = 1,
    block: int = 32,
    outside: str = "",
    attributes: str = "",
    **options: Any,
) -> tuple[list[Array], ptx.Report]:
    """Run a body; a buffer of None is 4096 bytes that hold nothing yet."""
    memory, pointers = ptx.Memory(), []
    for number, buffer in enumerate(buffers):
        filled = buffer is not None
        array = buffer if filled else np.zeros(1024, np.uint32)
        pointers.append(memory.add(str(number), array, initialised=filled))
    program = kernel(body, len(buffers), outside, attributes)
    report = ptx.launch(program, memory, grid, block, pointers, **options)
    return [memory.array(str(number)) for number in range(len(buffers))], report


def bits_of(dtype: np.dtype[Any]) -> str:
    return f"b{max(8 * dtype.itemsize, 16)}"


def evaluate(code: str, inputs: Sequence[Array], result: str, **options: Any) -> Array:
    """Run an instruction on `{0}`, `{1}` ..., whose result is `{out}`, per element."""
    inputs = [np.ascontiguousarray(array) for array in inputs]
    count, output = len(inputs[0]), np.zeros(len(inputs[0]), result)
    arrays = [*inputs, output]
    names = [f"%v{i}" for i in range(len(inputs))]
    lines = [
        ".reg .b32 %n; .reg .b64 %i, %q; .reg .pred %over;",
        "mov.u32 %n, %ctaid.x; mad.lo.u32 %n, %n, 256, %r15;",
        f"setp.ge.u32 %over, %n, {count}; @%over ret; cvt.u64.u32 %i, %n;",
    ]
    for number, array in enumerate(arrays):
        name = names[number] if number < len(names) else "%out"
        lines.append(f".reg .{bits_of(array.dtype)} {name};")
        lines.append(f"mad.lo.u64 %q, %i, {array.itemsize}, %d{8 + number};")
        if name != "%out":
            lines.append(f"ld.global.b{8 * array.itemsize} {name}, [%q];")
    lines.append(code.format(*names, out="%out") + ";")
    lines.append(f"st.global.b{8 * output.itemsize} [%q], %out;")
    grid = -(-count // 256)
    results, _ = launch(
        "\n".join(lines), *arrays, grid=grid, block=min(count, 256), **options
    )
    return results[-1]


FORMATS = {"f2": (11, -14), "f4": (24, -126), "f8": (53, -1022)}


def rounded(exact: Fraction, result: str, mode: str = "rn") -> float:
    """Round an exact value that is not zero; doubles to nearest may overflow."""
    precision, smallest = FORMATS[result]
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, smallest) - precision + 1)
    steps = exact / quantum
    whole = steps.__floor__()
    rest = steps - whole
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
        "rz": rest > 0 and exact < 0,
    }[mode]
    exact_value = (whole + up) * quantum
    if abs(exact_value) >= Fraction(2) ** 1024:
        return float("inf") if exact > 0 else float("-inf")
    value = float(exact_value)
    return value if value else float(np.copysign(0.0, float(exact > 0) - 0.5))


def same_bits(left: Array, right: Array) -> None:
    """Compare bit by bit; one NaN is as good as another."""
    assert left.dtype == right.dtype
    if left.dtype.kind == "f":
        np.testing.assert_array_equal(np.isnan(left), np.isnan(right))
        left, right = (np.where(np.isnan(a), 0, a) for a in (left, right))
        unsigned = f"u{left.dtype.itemsize}"
        left, right = left.view(unsigned), right.view(unsigned)
    np.testing.assert_array_equal(left, right)


DTYPE = {"f16": "f2", "f32": "f4", "f64": "f8"}
NAN, INF = float("nan"), float("inf")


def dtype_of(type_: str) -> str:
    return DTYPE.get(type_) or f"{type_[0].replace('s', 'i')}{int(type_[1:]) // 8}"


def integers(type_: str, count: int = 200, seed: int = 0) -> Array:
    """Return random bits, small numbers and the ends of the range."""
    dtype = np.dtype(dtype_of(type_))
    ends = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    special = [ends.min, ends.max, ends.max - 1, 0, 1, 2, 7, 31, ends.max // 2 + 1]
    anywhere = rng.integers(ends.min, ends.max, count, dtype=dtype, endpoint=True)
    small = rng.integers(0, 40, count // 2, dtype=dtype)
    values = np.concatenate([np.array(special, dtype), anywhere, small])
    return rng.permutation(values)


def floats(type_: str, count: int = 400, seed: int = 0, spread: int = 40) -> Array:
    rng = np.random.default_rng(seed)
    scale = rng.integers(-spread, spread + 1, count)
    return np.ldexp(rng.standard_normal(count), scale).astype(dtype_of(type_))


def wrapped(value: int, dtype: str) -> int:
    bits = 8 * np.dtype(dtype).itemsize
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype[0] == "i" and value >> (bits - 1) else value


def expect_integers(
    code: str, inputs: list[Array], result: str, reference: Callable[..., int]
) -> None:
    rows = zip(*(map(int, array) for array in inputs), strict=True)
    expected = [wrapped(reference(*row), result) for row in rows]
    same_bits(evaluate(code, inputs, result), np.array(expected, result))


INTEGER_TYPES = ("u32", "s32", "u64", "s64")


def expect_floats(
    code: str,
    inputs: list[Array],
    result: str,
    exact: Callable[..., Fraction],
    mode: str = "rn",
) -> None:
    """Compare with the exact value, rounded once; the inputs must be finite."""
    rows = zip(*(map(Fraction, array.tolist()) for array in inputs), strict=True)
    values = [exact(*row) for row in rows]
    expected = [rounded(value, result, mode) if value else 0.0 for value in values]
    found = evaluate(code, inputs, result)
    wanted = np.array(expected, result)
    nonzero = np.array([value != 0 for value in values])
    assert nonzero.any()
    same_bits(found[nonzero], wanted[nonzero])
    assert (found[~nonzero] == 0).all()
