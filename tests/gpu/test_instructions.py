"""Arithmetic and bits of the subset against Python's integers and fractions."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from gpu.ptx_programs import (
    FORMATS,
    INF,
    INTEGER_TYPES,
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
    ],
)
def test_integer_arithmetic(type_: str, name: str, reference: Any) -> None:
    a, b = integers(type_), integers(type_, seed=1)
    if name == "div":
        b[b == 0] = 3
    code = f"{name}.{type_} {{out}}, {{0}}, {{1}}"
    expect_integers(code, [a, b], dtype_of(type_), reference)


@pytest.mark.parametrize("type_", ["u32", "s32"])
def test_wide_products(type_: str) -> None:
    wide = f"{type_[0]}64"
    a, b = integers(type_), integers(type_, seed=1)
    expect_integers(
        f"mul.wide.{type_} {{out}}, {{0}}, {{1}}", [a, b], dtype_of(wide), operator.mul
    )


@pytest.mark.parametrize("type_", INTEGER_TYPES)
def test_multiply_and_add(type_: str) -> None:
    expect_integers(
        f"mad.lo.{type_} {{out}}, {{0}}, {{1}}, {{2}}",
        [integers(type_, seed=seed) for seed in range(3)],
        dtype_of(type_),
        lambda a, b, c: a * b + c,
    )


@pytest.mark.parametrize("type_", ["s32", "s64"])
def test_negative_integers(type_: str) -> None:
    a = integers(type_)
    expect_integers(f"neg.{type_} {{out}}, {{0}}", [a], dtype_of(type_), operator.neg)


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
    if bits == 16:
        return
    expect_integers(f"shr.{unsigned} {shift}", [a, by], result, operator.rshift)
    s = integers(signed)
    expect_integers(f"shr.{signed} {shift}", [s, by], dtype_of(signed), operator.rshift)


def test_inserted_bits() -> None:
    a, b = integers("u32"), integers("u32", seed=1)
    rng = np.random.default_rng(5)
    position, length = rng.integers(0, 35, (2, len(a))).astype(np.uint32)
    position[:40], length[:40] = rng.integers(0, 8, (2, 40))

    def inserted(a: int, b: int, position: int, length: int) -> int:
        mask = (((1 << length) - 1) << position) & 0xFFFFFFFF
        return (b & ~mask) | (a << position & mask)

    expect_integers(
        "bfi.b32 {out}, {0}, {1}, {2}, {3}", [a, b, position, length], "u4", inserted
    )


def test_permuted_bytes() -> None:
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


def test_fma_of_floats_rounds_once() -> None:
    code = "fma.rn.f32 {out}, {0}, {1}, {2}"
    wide = [floats("f32", 500, seed) for seed in range(3)]
    small = [floats("f32", 500, seed, 12) * np.float32(2**-70) for seed in (4, 5)]
    subnormal = [*small, floats("f32", 500, 6, 4) * np.float32(2**-140)]
    for inputs in (wide, subnormal, hard_products("f4"), cancelling("f4")):
        expect_floats(code, inputs, "f4", lambda a, b, c: a * b + c)


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


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_fma_of_special_values(type_: str) -> None:
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
    code = f"fma.rn.{type_} {{out}}, {{0}}, {{1}}, {{2}}"
    same_bits(evaluate(code, [a, b, c], dtype_of(type_)), expected.copy())


def test_sums_that_round_towards_zero() -> None:
    inputs = [floats("f32", 400, seed, 14) for seed in range(2)]
    expect_floats("add.rz.f32 {out}, {0}, {1}", inputs, "f4", operator.add, "rz")
    most = np.array([np.finfo(np.float32).max, -INF], np.float32)
    same_bits(evaluate("add.rz.f32 {out}, {0}, {0}", [most], "f4"), most)


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
        if name == "max" and type_ == "f32":
            kept = evaluate(f"{name}.NaN.f32 {{out}}, {{0}}, {{1}}", [a, b], result)
            nan = np.isnan(a) | np.isnan(b)
            assert (kept.view(np.uint32)[nan] == 0x7FFFFFFF).all()
            same_bits(kept[~nan], found[~nan])


def test_approximations_are_near_and_can_be_moved() -> None:
    a = floats("f32", 300, 0, 4)
    code = "ex2.approx.ftz.f32 {out}, {0}"
    exact = np.exp2(a.astype(np.float64))
    plain = evaluate(code, [a], "f4")
    moved = [
        evaluate(code, [a], "f4", perturb=True, schedule=seed) for seed in range(2)
    ]
    np.testing.assert_allclose(plain, exact, rtol=1e-7)
    assert (plain != moved[0]).any()
    assert (moved[0] != moved[1]).any()
    for values in moved:
        np.testing.assert_allclose(values, exact, rtol=4e-7)


def test_approximations_of_special_values() -> None:
    a = np.array([0.0, -0.0, INF, -INF, NAN, 1.0, -200.0, 1e-40], np.float32)
    found = evaluate("ex2.approx.ftz.f32 {out}, {0}", [a], "f4", perturb=True)
    same_bits(found, np.array([1, 1, INF, 0, NAN, 2, 0, 1], np.float32))
    found = evaluate("rcp.approx.ftz.f64 {out}, {0}", [a.astype("f8")], "f8")
    near = np.array([INF, -INF, 0, -0.0, NAN, 1, -1 / 200, 1 / float(a[7])])
    np.testing.assert_allclose(found, near, rtol=1e-6)
    assert (found[~np.isnan(found)].view(np.uint64) & 0xFFFFFFFF == 0).all()
