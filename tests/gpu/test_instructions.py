"""Every instruction of the subset against Python's integers and fractions."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu import ptx
from gpu.ptx.subset import SUBSET, is_known
from gpu.ptx_programs import FORMATS, Array, evaluate, launch, rounded, same_bits

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


INTEGER_TYPES = ("u16", "s16", "u32", "s32", "u64", "s64")


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("type_", INTEGER_TYPES)
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("add", operator.add),
        ("sub", operator.sub),
        ("mul.lo", operator.mul),
        ("min", min),
        ("max", max),
        ("div", truncated),
        ("rem", lambda a, b: a - b * truncated(a, b)),
    ],
)
def test_integer_arithmetic(type_: str, name: str, reference: Any) -> None:
    a, b = integers(type_), integers(type_, seed=1)
    if name in ("div", "rem"):
        b[b == 0] = 3
    code = f"{name}.{type_} {{out}}, {{0}}, {{1}}"
    expect_integers(code, [a, b], dtype_of(type_), reference)


@pytest.mark.parametrize("type_", INTEGER_TYPES)
def test_upper_half_of_a_product(type_: str) -> None:
    bits = int(type_[1:])
    expect_integers(
        f"mul.hi.{type_} {{out}}, {{0}}, {{1}}",
        [integers(type_), integers(type_, seed=1)],
        dtype_of(type_),
        lambda a, b: a * b >> bits,
    )


@pytest.mark.parametrize("type_", ["u16", "s16", "u32", "s32"])
def test_wide_products(type_: str) -> None:
    wide = f"{type_[0]}{2 * int(type_[1:])}"
    a, b, c = integers(type_), integers(type_, seed=1), integers(wide, seed=2)
    expect_integers(
        f"mul.wide.{type_} {{out}}, {{0}}, {{1}}", [a, b], dtype_of(wide), operator.mul
    )
    expect_integers(
        f"mad.wide.{type_} {{out}}, {{0}}, {{1}}, {{2}}",
        [a, b, c],
        dtype_of(wide),
        lambda a, b, c: a * b + c,
    )


@pytest.mark.parametrize("type_", INTEGER_TYPES)
def test_multiply_and_add(type_: str) -> None:
    inputs = [integers(type_, seed=seed) for seed in range(3)]
    for half, shift in (("lo", 0), ("hi", int(type_[1:]))):
        expect_integers(
            f"mad.{half}.{type_} {{out}}, {{0}}, {{1}}, {{2}}",
            inputs,
            dtype_of(type_),
            lambda a, b, c, shift=shift: (a * b >> shift) + c,
        )


@pytest.mark.parametrize("type_", ["s16", "s32", "s64"])
def test_integers_of_one_operand(type_: str) -> None:
    a = integers(type_)
    expect_integers(f"neg.{type_} {{out}}, {{0}}", [a], dtype_of(type_), operator.neg)
    expect_integers(f"abs.{type_} {{out}}, {{0}}", [a], dtype_of(type_), abs)


@pytest.mark.parametrize("type_", ["b16", "b32", "b64"])
def test_logic_and_shifts(type_: str) -> None:
    bits = int(type_[1:])
    unsigned, signed = f"u{bits}", f"s{bits}"
    a, b = integers(unsigned), integers(unsigned, seed=1)
    by = np.resize(np.arange(0, bits + 5, dtype=np.uint32), len(a))
    result = dtype_of(unsigned)
    for name in ("and", "or", "xor"):
        operation = getattr(operator, f"{name}_" if name != "xor" else "xor")
        expect_integers(
            f"{name}.{type_} {{out}}, {{0}}, {{1}}", [a, b], result, operation
        )
    expect_integers(f"not.{type_} {{out}}, {{0}}", [a], result, operator.invert)
    shift = "{out}, {0}, {1}"
    expect_integers(f"shl.{type_} {shift}", [a, by], result, operator.lshift)
    expect_integers(f"shr.{type_} {shift}", [a, by], result, operator.rshift)
    expect_integers(f"shr.{unsigned} {shift}", [a, by], result, operator.rshift)
    s = integers(signed)
    expect_integers(f"shr.{signed} {shift}", [s, by], dtype_of(signed), operator.rshift)


def extracted(bits: int, signed: bool) -> Callable[[int, int, int], int]:
    """PTX's own definition of bfe."""

    def reference(a: int, position: int, length: int) -> int:
        position, length = position & 255, length & 255
        sign = 0
        if signed and length:
            sign = a >> min(position + length - 1, bits - 1) & 1
        result = 0
        for i in range(bits):
            inside = i < length and position + i < bits
            result |= (a >> (position + i) & 1 if inside else sign) << i
        return result

    return reference


@pytest.mark.parametrize("type_", ["u32", "s32", "u64", "s64"])
def test_bit_fields(type_: str) -> None:
    bits = int(type_[1:])
    a, b = integers(type_), integers(type_, seed=1)
    rng = np.random.default_rng(5)
    position, length = rng.integers(0, bits + 3, (2, len(a))).astype(np.uint32)
    position[:40], length[:40] = rng.integers(0, 8, (2, 40))
    expect_integers(
        f"bfe.{type_} {{out}}, {{0}}, {{1}}, {{2}}",
        [a, position, length],
        dtype_of(type_),
        extracted(bits, type_[0] == "s"),
    )

    def inserted(a: int, b: int, position: int, length: int) -> int:
        mask = (((1 << length) - 1) << position) & ((1 << bits) - 1)
        return (b & ~mask) | (a << position & mask)

    expect_integers(
        f"bfi.b{bits} {{out}}, {{0}}, {{1}}, {{2}}, {{3}}",
        [a, b, position, length],
        dtype_of(type_),
        inserted,
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_counting_bits(bits: int) -> None:
    a = integers(f"u{bits}")
    reverse = lambda a: int(f"{a:0{bits}b}"[::-1], 2)  # noqa: E731
    one = "{out}, {0}"
    expect_integers(f"popc.b{bits} {one}", [a], "u4", int.bit_count)
    expect_integers(f"clz.b{bits} {one}", [a], "u4", lambda a: bits - a.bit_length())
    expect_integers(f"brev.b{bits} {one}", [a], f"u{bits // 8}", reverse)
    for type_ in (f"u{bits}", f"s{bits}"):
        a = integers(type_)

        def highest(a: int) -> int:
            return (~a if a < 0 else a).bit_length() - 1

        expect_integers(f"bfind.{type_} {one}", [a], "u4", highest)
        expect_integers(
            f"bfind.shiftamt.{type_} {one}",
            [a],
            "u4",
            lambda a: -1 if highest(a) < 0 else bits - 1 - highest(a),
        )


def test_permutations_and_funnels() -> None:
    a, b, c = (integers("u32", seed=seed) for seed in range(3))

    def permuted(a: int, b: int, selector: int) -> int:
        both = (b << 32 | a).to_bytes(8, "little")
        result = 0
        for i in range(4):
            pick = selector >> 4 * i & 15
            byte = both[pick & 7]
            result |= (byte >> 7) * 255 << 8 * i if pick & 8 else byte << 8 * i
        return result

    expect_integers("prmt.b32 {out}, {0}, {1}, {2}", [a, b, c], "u4", permuted)
    for mode, amount in (
        ("wrap", lambda c: c & 31),
        ("clamp", lambda c: min(c, 32)),
    ):
        by = np.where(c % 3 == 0, c % 40, c).astype(np.uint32)
        expect_integers(
            f"shf.l.{mode}.b32 {{out}}, {{0}}, {{1}}, {{2}}",
            [a, b, by],
            "u4",
            lambda a, b, c, amount=amount: ((b << 32 | a) << amount(c)) >> 32,
        )
        expect_integers(
            f"shf.r.{mode}.b32 {{out}}, {{0}}, {{1}}, {{2}}",
            [a, b, by],
            "u4",
            lambda a, b, c, amount=amount: (b << 32 | a) >> amount(c),
        )
    for table, reference in (
        (0x80, lambda a, b, c: a & b & c),
        (0x96, lambda a, b, c: a ^ b ^ c),
        (0xE4, lambda a, b, c: (a & c) | (b & ~c)),
    ):
        code = f"lop3.b32 {{out}}, {{0}}, {{1}}, {{2}}, {table}"
        expect_integers(code, [a, b, c], "u4", reference)


# Floats


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


MODES = ("rn", "rz", "rm", "rp")


def hard_products(result: str) -> list[Array]:
    """Return a, b, c where a * b lies half-way between neighbours and c decides."""
    precision = FORMATS[result][0]
    rng = np.random.default_rng(3)
    half = precision // 2
    low = rng.integers(1, 1 << (half - 1), 100) * 2 + 1
    a = 1 + low * 2.0 ** (1 - precision)
    b = np.full(100, 1 + 2.0**-half)
    tiny = 2.0 ** rng.integers(-120, -precision - 2, 100)
    c = np.where(rng.random(100) < 0.5, tiny, -tiny)
    one = 1 + 2.0 ** -(precision // 2)
    ties = [one, one, 2.0**-100], [one, one, -(2.0**-100)], [one, -one, 2.0**-90]
    return [
        np.concatenate([column, tie]).astype(result)
        for column, tie in zip((a, b, c), zip(*ties, strict=True), strict=True)
    ]


def cancelling(result: str) -> list[Array]:
    """Return a, b, c where c nearly takes a * b away."""
    a, b = floats("f64", 200, 1, 8), floats("f64", 200, 2, 8)
    a, b = a.astype(result), b.astype(result)
    return [a, b, -(a * b)]


@pytest.mark.parametrize("mode", MODES)
def test_fma_of_floats_rounds_once(mode: str) -> None:
    code = f"fma.{mode}.f32 {{out}}, {{0}}, {{1}}, {{2}}"
    wide = [floats("f32", 500, seed) for seed in range(3)]
    small = [floats("f32", 500, seed, 12) * np.float32(2**-70) for seed in (4, 5)]
    subnormal = [*small, floats("f32", 500, 6, 4) * np.float32(2**-140)]
    for inputs in (wide, subnormal, hard_products("f4"), cancelling("f4")):
        expect_floats(code, inputs, "f4", lambda a, b, c: a * b + c, mode)


@pytest.mark.parametrize("scale", [0, 440, 455, 500, -440, -455, -500])
def test_fma_of_doubles_rounds_once(scale: int) -> None:
    code = "fma.rn.f64 {out}, {0}, {1}, {2}"
    a, b, c = (floats("f64", 300, seed, 30) for seed in range(3))
    every = [
        [a, np.ldexp(b, scale), np.ldexp(c, scale)],
        [np.ldexp(a, scale), np.ldexp(b, -scale), c],
        [np.ldexp(a, scale), np.ldexp(b, scale + 20 * (scale < 0)), c],
        cancelling("f8"),
        hard_products("f8"),
    ]
    for inputs in every:
        expect_floats(code, inputs, "f8", lambda a, b, c: a * b + c)


def test_fma_of_doubles_below_the_normal_range() -> None:
    a, b = (np.ldexp(floats("f64", 300, seed, 3), -525) for seed in range(2))
    c = np.ldexp(floats("f64", 300, 2, 3), -1060)
    code = "fma.rn.f64 {out}, {0}, {1}, {2}"
    expect_floats(code, [a, b, c], "f8", lambda a, b, c: a * b + c)


@pytest.mark.parametrize(("type_", "name"), [("f32", "fma.rn"), ("f64", "fma.rn")])
def test_fma_of_special_values(type_: str, name: str) -> None:
    rows = [
        (INF, 0.0, 1.0, NAN),
        (INF, 1.0, -INF, NAN),
        (NAN, 1.0, 1.0, NAN),
        (INF, -2.0, 3.0, -INF),
        (1.0, 2.0, INF, INF),
        (0.0, -1.0, 0.0, 0.0),
        (0.0, -1.0, -0.0, -0.0),
        (1.0, 1.0, -1.0, 0.0),
        (3e38 if type_ == "f32" else 1e308, 10.0, 0.0, INF),
        (3e38 if type_ == "f32" else 1e308, 10.0, -INF, -INF),
    ]
    a, b, c, expected = np.array(rows, dtype_of(type_)).T
    code = f"{name}.{type_} {{out}}, {{0}}, {{1}}, {{2}}"
    same_bits(evaluate(code, [a, b, c], dtype_of(type_)), expected.copy())


def test_exact_differences_that_round_down_are_negative_zeros() -> None:
    a = np.array([1.5, -2.0], np.float32)
    for code in ("sub.rm.f32 {out}, {0}, {0}", "fma.rm.f32 {out}, {0}, {1}, {1}"):
        b = -np.abs(a) if "fma" in code else a
        found = evaluate(code, [np.ones_like(a) * -1 if "fma" in code else a, b], "f4")
        assert (found == 0).all()
        assert np.signbit(found).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "exact"),
    [("add", operator.add), ("sub", operator.sub), ("mul", operator.mul)],
)
def test_float_arithmetic_rounds_as_told(mode: str, name: str, exact: Any) -> None:
    inputs = [floats("f32", 400, seed, 14) for seed in range(2)]
    code = f"{name}.{mode}.f32 {{out}}, {{0}}, {{1}}"
    expect_floats(code, inputs, "f4", exact, mode)


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_floats_to_nearest(type_: str) -> None:
    a, b = (floats(type_, 400, seed, 14) for seed in range(2))
    result, two = dtype_of(type_), "{out}, {0}, {1}"
    for name, exact in (
        ("add", operator.add),
        ("sub", operator.sub),
        ("mul", operator.mul),
        ("div.rn", operator.truediv),
        ("min", min),
        ("max", max),
    ):
        expect_floats(f"{name}.{type_} {two}", [a, b], result, exact)
    expect_floats(f"neg.{type_} {{out}}, {{0}}", [a], result, operator.neg)
    expect_floats(f"abs.{type_} {{out}}, {{0}}", [a], result, abs)
    expect_floats(f"rcp.rn.{type_} {{out}}, {{0}}", [a], result, lambda a: 1 / a)
    signed = evaluate(f"copysign.{type_} {two}", [a, b], result)
    same_bits(signed, np.copysign(b, a))
    root = evaluate(f"sqrt.rn.{type_} {{out}}, {{0}}", [np.abs(a)], result)
    same_bits(root, np.sqrt(np.abs(a)))


@pytest.mark.parametrize(
    ("code", "a", "b", "expected"),
    [
        ("add{}.f32 {out}, {0}, {1}", 1e-40, 1e-40, 2e-40),
        ("sub{}.f32 {out}, {0}, {1}", 2e-38, 1.9e-38, 1e-39),
        ("mul{}.f32 {out}, {0}, {1}", 1e-20, -1e-20, -1e-40),
        ("mul{}.f32 {out}, {0}, {1}", 1e-40, 1e30, 1e-10),
        ("div.rn{}.f32 {out}, {0}, {1}", 1e-38, 100.0, 1e-40),
        ("fma.rn{}.f32 {out}, {0}, {1}, {1}", -1e-40, 1.0, 1.0),
        ("fma.rn{}.f32 {out}, {0}, {0}, {1}", 1e-20, 0.0, 1e-40),
        ("max{}.f32 {out}, {0}, {1}", 1e-40, -1.0, 1e-40),
        ("neg{}.f32 {out}, {0}", 1e-40, 0.0, -1e-40),
        ("abs{}.f32 {out}, {0}", -1e-40, 0.0, 1e-40),
    ],
)
def test_ftz_flushes_what_goes_in_and_out(
    code: str, a: float, b: float, expected: float
) -> None:
    inputs = [np.array([a], np.float32), np.array([b], np.float32)]
    kept = evaluate(code.replace("{}", ""), inputs, "f4")
    np.testing.assert_allclose(kept, [expected], rtol=1e-2)
    flushed = evaluate(code.replace("{}", ".ftz"), inputs, "f4")
    if abs(expected) > 1:
        return
    want = 1.0 if expected == 1.0 else np.copysign(0.0, expected)
    same_bits(flushed, np.array([want], np.float32))


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_min_and_max_of_nan_and_zeros(type_: str) -> None:
    result = dtype_of(type_)
    values = (NAN, -0.0, 0.0, 1.0, -INF)
    a, b = (np.array(side, result) for side in np.meshgrid(values, values))
    a, b = a.ravel(), b.ravel()

    def chosen(largest: bool, x: float, y: float) -> float:
        if np.isnan(x) or np.isnan(y):
            return y if np.isnan(x) else x
        key = lambda v: (v, not np.signbit(v))  # noqa: E731
        return max(x, y, key=key) if largest else min(x, y, key=key)

    for name in ("min", "max"):
        expected = [chosen(name == "max", x, y) for x, y in zip(a, b, strict=True)]
        found = evaluate(f"{name}.{type_} {{out}}, {{0}}, {{1}}", [a, b], result)
        same_bits(found, np.array(expected, result))
        if type_ == "f32":
            kept = evaluate(f"{name}.NaN.f32 {{out}}, {{0}}, {{1}}", [a, b], result)
            nan = np.isnan(a) | np.isnan(b)
            assert (kept.view(np.uint32)[nan] == 0x7FFFFFFF).all()
            same_bits(kept[~nan], found[~nan])


APPROXIMATE = {
    "ex2.approx.f32": np.exp2,
    "lg2.approx.f32": lambda a: np.log2(np.abs(a)),
    "rcp.approx.f32": np.reciprocal,
    "sqrt.approx.f32": lambda a: np.sqrt(np.abs(a)),
    "rsqrt.approx.f32": lambda a: 1 / np.sqrt(np.abs(a)),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximations_are_near_and_can_be_moved(name: str) -> None:
    a = floats("f32", 300, 0, 4)
    a = a if name.startswith(("ex2", "rcp")) else np.abs(a)
    code = f"{name} {{out}}, {{0}}"
    exact = APPROXIMATE[name](a.astype(np.float64))
    plain = evaluate(code, [a], "f4")
    moved = [
        evaluate(code, [a], "f4", perturb=True, schedule=seed) for seed in range(2)
    ]
    np.testing.assert_allclose(plain, exact, rtol=1e-7)
    assert (plain != moved[0]).any()
    assert (moved[0] != moved[1]).any()
    for values in moved:
        np.testing.assert_allclose(values, exact, rtol=4e-7, atol=2.4e-7)


def test_approximations_of_special_values() -> None:
    a = np.array([0.0, -0.0, INF, -INF, NAN, 1.0, -200.0, 1e-40], np.float32)
    found = evaluate("ex2.approx.ftz.f32 {out}, {0}", [a], "f4", perturb=True)
    same_bits(found, np.array([1, 1, INF, 0, NAN, 2, 0, 1], np.float32))
    found = evaluate("lg2.approx.ftz.f32 {out}, {0}", [a], "f4", perturb=True)
    same_bits(found, np.array([-INF, -INF, INF, NAN, NAN, 0, NAN, -INF], np.float32))
    found = evaluate("rcp.approx.ftz.f64 {out}, {0}", [a.astype("f8")], "f8")
    near = np.array([INF, -INF, 0, -0.0, NAN, 1, -1 / 200, 1 / float(a[7])])
    np.testing.assert_allclose(found, near, rtol=1e-6)
    assert (found[~np.isnan(found)].view(np.uint64) & 0xFFFFFFFF == 0).all()
    a, b = floats("f32", 200), floats("f32", 200, 1)
    for name in ("approx", "full"):
        code = f"div.{name}.f32 {{out}}, {{0}}, {{1}}"
        found = evaluate(code, [a, b], "f4", perturb=True)
        np.testing.assert_allclose(found, a / b, rtol=4e-7)
        assert (found != a / b).any()


# Comparing


ORDERED = ("eq", "ne", "lt", "le", "gt", "ge")


def compared(name: str, a: float, b: float) -> bool:
    unordered = a != a or b != b
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    if unordered:
        return len(name) == 3
    return bool(getattr(operator, name[:2])(a, b))


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_comparisons_of_floats(type_: str) -> None:
    values = (NAN, -0.0, 0.0, 1.0, INF, -3.0)
    a, b = (np.array(v, dtype_of(type_)).ravel() for v in np.meshgrid(values, values))
    for name in (*ORDERED, *(f"{name}u" for name in ORDERED), "num", "nan"):
        code = f"setp.{name}.{type_} %p0, {{0}}, {{1}}; selp.u32 {{out}}, 7, 3, %p0"
        wanted = [7 if compared(name, x, y) else 3 for x, y in zip(a, b, strict=True)]
        same_bits(evaluate(code, [a, b], "u4"), np.array(wanted, np.uint32))


def test_comparisons_flush_subnormals() -> None:
    a, b = np.array([1e-40], np.float32), np.array([0.0], np.float32)
    code = "setp.gt{}.f32 %p0, {0}, {1}; selp.u32 {out}, 1, 0, %p0"
    assert evaluate(code.replace("{}", ""), [a, b], "u4") == 1
    assert evaluate(code.replace("{}", ".ftz"), [a, b], "u4") == 0


@pytest.mark.parametrize("type_", INTEGER_TYPES)
def test_comparisons_of_integers(type_: str) -> None:
    a, b = integers(type_), integers(type_, seed=1)
    b[::3] = a[::3]
    names = {name: name for name in ORDERED}
    if type_[0] == "u":
        names |= {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
    for name, meaning in names.items():
        code = f"setp.{name}.{type_} %p0, {{0}}, {{1}}; selp.u32 {{out}}, 7, 3, %p0"
        wanted = np.where(getattr(operator, meaning)(a, b), 7, 3).astype(np.uint32)
        same_bits(evaluate(code, [a, b], "u4"), wanted)


@pytest.mark.parametrize("word", ["and", "or", "xor"])
def test_comparisons_combine_with_a_predicate(word: str) -> None:
    a = np.arange(64, dtype=np.uint32)
    code = (
        "setp.lt.u32 %p0, {0}, 40; setp.eq.u32 %p1, 1, 1; and.pred %p2, %p0, %p1;"
        f"setp.gt.{word}.u32 %p3|%p4, {{0}}, 20, !%p2;"
        "selp.u32 %r0, 1, 0, %p3; selp.u32 %r1, 2, 0, %p4; add.u32 {out}, %r0, %r1"
    )
    combine = getattr(operator, {"and": "and_", "or": "or_", "xor": "xor"}[word])
    above, other = a > 20, a >= 40
    first, second = combine(above, other), combine(~above, other)
    same_bits(evaluate(code, [a], "u4"), (first + 2 * second).astype(np.uint32))


def test_predicates() -> None:
    a = np.arange(64, dtype=np.uint32)
    code = (
        "setp.lt.u32 %p0, {0}, 40; setp.ge.u32 %p1, {0}, 20; not.pred %p2, %p1;"
        "xor.pred %p3, %p0, %p2; or.pred %p3, %p3, %p2; mov.pred %p4, %p3;"
        "mov.u32 {out}, 5; @%p4 mov.u32 {out}, 6; @!%p0 add.u32 {out}, {out}, 10"
    )
    wanted = np.where((a < 40) ^ (a < 20) | (a < 20), 6, 5) + 10 * (a >= 40)
    same_bits(evaluate(code, [a], "u4"), wanted.astype(np.uint32))


# Converting


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("source", "result"), [("f32", "f16"), ("f64", "f16"), ("f64", "f32")]
)
def test_narrowing_rounds_as_told(source: str, result: str, mode: str) -> None:
    spread = 12 if result == "f16" else 100
    a = floats(source, 600, 0, spread)
    a = a[np.abs(a) < 60000] if result == "f16" else a
    ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25, 3 * 2.0**-26])
    a = np.concatenate([a, ties, -ties]).astype(a.dtype)
    code = f"cvt.{mode}.{result}.{source} {{out}}, {{0}}"
    expect_floats(code, [a], dtype_of(result), lambda a: a, mode)


@pytest.mark.parametrize(
    ("source", "result"), [("f16", "f32"), ("f16", "f64"), ("f32", "f64")]
)
def test_widening_is_exact(source: str, result: str) -> None:
    a = floats(source, 300, 0, 6)
    a[:6] = [INF, -INF, NAN, -0.0, 6e-8, 65504]
    found = evaluate(f"cvt.{result}.{source} {{out}}, {{0}}", [a], dtype_of(result))
    same_bits(found, a.astype(dtype_of(result)))


@pytest.mark.parametrize("result", ["f16", "f32", "f64"])
@pytest.mark.parametrize("source", ["u8", "s8", *INTEGER_TYPES])
def test_integers_to_floats(source: str, result: str) -> None:
    a = integers(source)
    if result == "f16":
        a = a[np.abs(a.astype(np.float64)) < 60000]
    if int(source[1:]) == 64:
        ties = np.array([2**53 + 1, 2**54 + 2, 2**40 + 2**16 + 1, 2**24 + 1], a.dtype)
        a = np.concatenate([a, ties if result != "f16" else ties[:0]])
    modes = MODES if int(source[1:]) <= 32 else ("rn",)
    for mode in modes:
        code = f"cvt.{mode}.{result}.{source} {{out}}, {{0}}"
        expect_floats(code, [a], dtype_of(result), lambda a: a, mode)


@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
@pytest.mark.parametrize("result", ["u8", "s8", *INTEGER_TYPES])
def test_floats_to_integers(source: str, result: str) -> None:
    limits = np.iinfo(dtype_of(result))
    a = floats(source, 300, 0, 20 if source != "f16" else 8)
    a[:10] = [0.5, 1.5, 2.5, -0.5, -1.5, INF, -INF, -0.0, 250.5, 3e4]
    for mode, whole in (
        ("rni", np.rint),
        ("rzi", np.trunc),
        ("rmi", np.floor),
        ("rpi", np.ceil),
    ):
        found = evaluate(
            f"cvt.{mode}.{result}.{source} {{out}}, {{0}}", [a], dtype_of(result)
        )
        wanted = [
            limits.max if v == INF else limits.min if v == -INF else int(v)
            for v in whole(a.astype(np.float64)).tolist()
        ]
        clamped = [min(max(v, limits.min), limits.max) for v in wanted]
        same_bits(found, np.array(clamped, dtype_of(result)))


def test_nan_to_integers() -> None:
    single, double = np.array([NAN], np.float32), np.array([NAN], np.float64)
    for a, type_, result, wanted in (
        (single, "f32", "s32", 0),
        (single, "f32", "u64", 1 << 63),
        (double, "f64", "s32", -(1 << 31)),
        (double, "f64", "s64", -(1 << 63)),
    ):
        found = evaluate(
            f"cvt.rzi.{result}.{type_} {{out}}, {{0}}", [a], dtype_of(result)
        )
        assert int(found[0]) == wanted


def test_conversions_between_integers() -> None:
    a = integers("s32")
    for result in ("u8", "s8", *INTEGER_TYPES):
        code = f"cvt.{result}.s32 {{out}}, {{0}}"
        expect_integers(code, [a], dtype_of(result), lambda a: a)
        limits = np.iinfo(dtype_of(result))
        expect_integers(
            f"cvt.sat.{result}.s32 {{out}}, {{0}}",
            [a],
            dtype_of(result),
            lambda a, limits=limits: int(min(max(a, limits.min), limits.max)),
        )


def test_a_narrow_source_is_the_lower_part_of_its_register() -> None:
    a = integers("u32")
    expect_integers("cvt.u32.u8 {out}, {0}", [a], "u4", lambda a: a & 255)
    expect_integers(
        "cvt.s32.s16 {out}, {0}", [a], "i4", lambda a: wrapped(a & 65535, "i2")
    )


def test_conversions_that_round_flush_or_saturate() -> None:
    a = np.array([0.5, 1.5, -0.3, 2.7, NAN, 1e-40, INF], np.float32)
    for mode, whole in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor)):
        found = evaluate(f"cvt.{mode}.f32.f32 {{out}}, {{0}}", [a], "f4")
        same_bits(found, whole(a))
        wide = a.astype(np.float64)
        found = evaluate(f"cvt.{mode}.f64.f64 {{out}}, {{0}}", [wide], "f8")
        same_bits(found, whole(wide))
    found = evaluate("cvt.sat.f32.f32 {out}, {0}", [a], "f4")
    same_bits(found, np.array([0.5, 1, 0, 1, 0, 1e-40, 1], np.float32))
    found = evaluate("cvt.ftz.sat.f32.f32 {out}, {0}", [a], "f4")
    assert found[5] == 0
    assert evaluate("cvt.ftz.f64.f32 {out}, {0}", [a], "f8")[5] == 0
    narrow = evaluate("cvt.rn.ftz.f32.f64 {out}, {0}", [np.array([1e-40])], "f4")
    assert narrow == 0


def test_moves_pack_and_unpack() -> None:
    a, b = integers("u32"), integers("u32", seed=1)
    code = (
        "mov.b64 %d0, {{{0}, {1}}}; mov.b64 {{%r0, %r1}}, %d0; sub.u32 {out}, %r1, %r0"
    )
    expect_integers(code, [a, b], "u4", lambda a, b: b - a)
    code = (
        "mov.b32 {{%h0, %h1}}, {0}; mov.b64 %d0, {{%h1, %h0, %h0, %h1}};"
        "mov.b64 {{_, %r1}}, %d0; mov.b32 {out}, %r1"
    )
    expect_integers(code, [a], "u4", lambda a: a)
    found = evaluate("mov.b32 {out}, 0f3FC00000", [a], "u4")
    assert (found == 0x3FC00000).all()
    found = evaluate("add.f64 {out}, {0}, 0d3FF8000000000000", [np.arange(3.0)], "f8")
    same_bits(found, np.arange(3.0) + 1.5)
    assert (evaluate("add.s32 {out}, -0x10, 010", [a], "i4") == -8).all()


def test_a_move_is_a_copy() -> None:
    a = np.arange(64, dtype=np.uint32)
    code = (
        "mov.u32 %r0, {0}; mov.u32 %r1, %r0; setp.lt.u32 %p0, {0}, 10;"
        "@%p0 mov.u32 %r0, 99; @!%p0 add.u32 %r1, %r1, 1; add.u32 {out}, %r0, %r1"
    )
    wanted = np.where(a < 10, 99 + a, a + a + 1)
    same_bits(evaluate(code, [a], "u4"), wanted.astype(np.uint32))


# Memory and the warp


@pytest.mark.parametrize("vector", ["v2", "v4", "v8"])
@pytest.mark.parametrize("type_", ["b8", "b16", "b32", "f32", "b64", "f64"])
def test_vectors(vector: str, type_: str) -> None:
    lanes, bytes_ = int(vector[1:]), int(type_[1:]) // 8
    if lanes * bytes_ > 32:
        pytest.skip("no access is wider than 32 bytes")
    register = {1: "%h", 2: "%h", 4: "%r", 8: "%d"}[bytes_]
    names = "{" + ", ".join(f"{register}{i}" for i in range(min(lanes, 8))) + "}"
    data = np.random.default_rng(0).bytes(32 * lanes * bytes_)
    source = np.frombuffer(data, np.uint8)
    body = f"""
        mul.wide.u32 %d13, %r15, {lanes * bytes_};
        add.u64 %d14, %d8, %d13; add.u64 %d13, %d9, %d13;
        ld.global.{vector}.{type_} {names}, [%d14];
        st.global.{vector}.{type_} [%d13], {names};
    """
    (_, found), report = launch(body, source, np.zeros_like(source))
    np.testing.assert_array_equal(found, source)
    assert report.sectors == report.ideal_sectors == 2 * lanes * bytes_


def test_narrow_loads_extend_by_their_sign() -> None:
    data = np.array([0x80, 0x7F, 0xFF, 0x01], np.uint8)
    body = """
        cvt.u64.u32 %d0, %r15; add.u64 %d1, %d8, %d0; add.u64 %d2, %d9, %d15;
        ld.global.{} %r0, [%d1]; st.global.u32 [%d2], %r0;
    """
    for type_, dtype in (("s8", np.int8), ("u8", np.uint8)):
        out = np.zeros(4, np.int32)
        (_, found), _ = launch(body.replace("{}", type_), data, out, block=4)
        same_bits(found, data.view(dtype).astype(np.int32))


def test_generic_addresses_go_where_they_lie() -> None:
    body = """
        .shared .align 4 .b8 s[128];
        mov.u32 %r0, s; cvt.u64.u32 %d0, %r0; cvta.shared.u64 %d1, %d0;
        add.u64 %d2, %d1, %d15; add.u64 %d3, %d8, %d15;
        setp.lt.u32 %p0, %r15, 10; selp.b64 %d4, %d2, %d3, %p0;
        add.u32 %r1, %r15, 100;
        st.u32 [%d4], %r1; ld.u32 %r2, [%d4];
        cvta.to.shared.u64 %d5, %d2; @%p0 ld.shared.u32 %r2, [%d5];
        add.u64 %d6, %d9, %d15; cvta.to.global.u64 %d7, %d6;
        st.global.u32 [%d7], %r2;
    """
    zeros = np.zeros(32, np.uint32)
    (first, second), _ = launch(body, zeros, zeros)
    thread = np.arange(32, dtype=np.uint32)
    same_bits(second, thread + 100)
    same_bits(first, np.where(thread < 10, 0, thread + 100).astype(np.uint32))


def shuffled(mode: str, lane: int, by: int, clamp: int) -> tuple[int, bool]:
    """PTX's own definition: the lane read, and the predicate."""
    segment, bound = clamp >> 8 & 31, clamp & 31
    highest = (lane & segment) | (bound & ~segment & 31)
    asked = {
        "up": lane - by,
        "down": lane + by,
        "bfly": lane ^ by,
        "idx": (lane & segment) | (by & ~segment & 31),
    }[mode]
    valid = asked >= highest if mode == "up" else asked <= highest
    return (asked if valid else lane), valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("by", [0, 1, 3, 7, 16])
def test_shuffles(mode: str, width: int, by: int) -> None:
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    a = np.arange(100, 164, dtype=np.uint32)
    code = (
        f"shfl.sync.{mode}.b32 %r0|%p0, {{0}}, {by}, {clamp}, -1;"
        "selp.u32 %r1, 1000, 0, %p0; add.u32 {out}, %r0, %r1"
    )
    wanted = []
    for thread in range(64):
        lane, valid = shuffled(mode, thread % 32, by, clamp)
        wanted.append(100 + thread // 32 * 32 + lane + 1000 * valid)
    for schedule in (None, 1, 2):
        found = evaluate(code, [a], "u4", schedule=schedule)
        same_bits(found, np.array(wanted, np.uint32))


def test_votes() -> None:
    a = np.arange(64, dtype=np.uint32)
    start = "and.b32 %r0, {0}, 3; setp.eq.u32 %p0, %r0, 0; "
    ballot = evaluate(start + "vote.sync.ballot.b32 {out}, %p0, -1", [a], "u4")
    assert (ballot == 0x11111111).all()
    for mode, limit, wanted in (
        ("all", 32, (1, 0)),
        ("any", 1, (1, 0)),
        ("uni", 40, (1, 0)),
        ("uni", 32, (1, 1)),
    ):
        code = (
            f"setp.lt.u32 %p0, {{0}}, {limit}; vote.sync.{mode}.pred %p1, %p0, -1;"
            "selp.u32 {out}, 1, 0, %p1"
        )
        same_bits(evaluate(code, [a], "u4"), np.repeat(wanted, 32).astype(np.uint32))


def test_collectives_of_a_part_of_the_warp() -> None:
    a = np.arange(32, dtype=np.uint32)
    code = """
        setp.lt.u32 %p0, {0}, 8; @%p0 bra LOW;
        vote.sync.ballot.b32 {out}, !%p0, 0xFFFFFF00; bra END;
        LOW: shfl.sync.bfly.b32 {out}, {0}, 1, 31, 0xFF;
        END: bar.warp.sync -1
    """
    wanted = np.where(a < 8, a ^ 1, 0xFFFFFF00).astype(np.uint32)
    for schedule in (None, 0, 1, 2, 3):
        same_bits(evaluate(code, [a], "u4", schedule=schedule), wanted)


def test_active_mask_knows_who_came_along() -> None:
    a = np.arange(32, dtype=np.uint32)
    code = "mov.u32 {out}, 0; setp.lt.u32 %p0, {0}, 5; @%p0 activemask.b32 {out}"
    same_bits(evaluate(code, [a], "u4"), np.where(a < 5, 31, 0).astype(np.uint32))


def test_special_registers() -> None:
    body = """
        mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z;
        mov.u32 %r3, %ntid.x; mov.u32 %r4, %ntid.y;
        mad.lo.u32 %r5, %r2, %r4, %r1; mad.lo.u32 %r5, %r5, %r3, %r0;
        mov.u32 %r6, %ctaid.x; mov.u32 %r7, %ctaid.y; mov.u32 %r8, %nctaid.x;
        mad.lo.u32 %r6, %r7, %r8, %r6; mad.lo.u32 %r6, %r6, 24, %r5;
        mul.wide.u32 %d0, %r6, 4; add.u64 %d1, %d8, %d0;
        mov.u32 %r9, %laneid; mad.lo.u32 %r9, %r6, 100, %r9; st.global.u32 [%d1], %r9;
    """
    (found,), _ = launch(
        body, np.zeros(144, np.uint32), grid=(3, 2), block=(2, 3, 4), schedule=1
    )
    number = np.arange(144, dtype=np.uint32)
    same_bits(found, (number * 100 + number % 24).astype(np.uint32))


def test_registers_of_an_inner_block_are_its_own() -> None:
    code = "mov.u32 %r0, 1; {{ .reg .b32 %r0; mov.u32 %r0, 2; }} mov.u32 {out}, %r0"
    assert evaluate(code, [np.arange(4, dtype=np.uint32)], "u4").tolist() == [1] * 4


def test_uniform_and_fences_run() -> None:
    body = """
        membar.gl; fence.acq_rel.gpu; bar.sync 0; barrier.sync 0; bra.uni NEXT;
        NEXT: add.u64 %d0, %d8, %d15; st.global.u32 [%d0], %r15; exit;
    """
    (found,), report = launch(body, np.zeros(64, np.uint32), block=64)
    assert found.tolist() == list(range(64))
    assert report.instructions["st.global.u32"] == 64


# The subset


@pytest.mark.parametrize(
    "text",
    [
        "add.f16 %h0, %h1, %h2",
        "add.sat.s32 %r0, %r1, %r2",
        "fma.f32 %r0, %r1, %r2, %r3",
        "mul.s32 %r0, %r1, %r2",
        "ld.const.u32 %r0, [%d8]",
        "ld.local.u32 %r0, [%d8]",
        "ld.shared.nc.u32 %r0, [%r1]",
        "atom.global.add.u32 %r0, [%d8], 1",
        "call helper",
        "setp.lt.f16 %p0, %h0, %h1",
        "cvt.rn.bf16.f32 %h0, %r0",
        "cvt.rn.ftz.f64.f64 %d0, %d1",
        "ex2.f32 %r0, %r1",
        "shfl.bfly.b32 %r0, %r1, 1, 31",
        "bar.sync 0, 64",
        "bar.red.popc.u32 %r0, 0, %p0",
        "nanosleep 100",
        "mov.u32 %r0, %clock",
        "add.u32 %r0, %r1, %d1",
        "add.u32 %r0, %r1",
        "add.u32 %r0, %r1, %nothing",
        "add.f32 %r0, %r1, 3",
        "bra NOWHERE",
        ".local .align 8 .b8 depot[16]",
        "ld.global.v2.u32 %r0, [%d8]",
    ],
)
def test_what_is_not_known_is_a_fault(text: str) -> None:
    with pytest.raises(ptx.Fault) as fault:
        launch(text + ";", np.zeros(64, np.uint32))
    assert fault.value.kind == "unknown instruction"


def test_every_opcode_of_the_subset_is_used_here() -> None:
    here = Path(__file__)
    text = here.read_text() + (here.parent / "test_interpreter.py").read_text()
    missing = [name for name in SUBSET if not re.search(rf"\b{name}[.;{{]", text)]
    missing = [name for name in missing if f'"{name}"' not in text]
    assert missing == []
    assert not is_known("add")
    assert is_known("add.rn.ftz.f32")
