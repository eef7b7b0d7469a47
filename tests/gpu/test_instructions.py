"""Arithmetic and bits of the subset against Python's integers and fractions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu.ptx_programs import (
    FORMATS,
    INF,
    INTEGER_TYPES,
    MODES,
    NAN,
    Array,
    dtype_of,
    evaluate,
    expect_floats,
    expect_integers,
    floats,
    integers,
    same_bits,
)


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
