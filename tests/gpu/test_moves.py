"""Comparisons, conversions, moves, memory and the warp: the rest of the subset."""

from __future__ import annotations

import operator
import re
from pathlib import Path

import numpy as np
import pytest

from gpu import ptx
from gpu.ptx.subset import SUBSET, is_known
from gpu.ptx_programs import (
    INF,
    INTEGER_TYPES,
    NAN,
    dtype_of,
    evaluate,
    expect_floats,
    expect_integers,
    floats,
    integers,
    launch,
    same_bits,
    wrapped,
)

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


@pytest.mark.parametrize("type_", ["u16", "s16", *INTEGER_TYPES])
def test_comparisons_of_integers(type_: str) -> None:
    a, b = integers(type_), integers(type_, seed=1)
    b[::3] = a[::3]
    for name in ORDERED:
        code = f"setp.{name}.{type_} %p0, {{0}}, {{1}}; selp.u32 {{out}}, 7, 3, %p0"
        wanted = np.where(getattr(operator, name)(a, b), 7, 3).astype(np.uint32)
        same_bits(evaluate(code, [a, b], "u4"), wanted)


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


@pytest.mark.parametrize(("source", "result"), [("f32", "f16"), ("f64", "f32")])
def test_narrowing_rounds_once(source: str, result: str) -> None:
    spread = 12 if result == "f16" else 100
    a = floats(source, 600, 0, spread)
    a = a[np.abs(a) < 60000] if result == "f16" else a
    ties = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25, 3 * 2.0**-26])
    a = np.concatenate([a, ties, -ties]).astype(a.dtype)
    code = f"cvt.rn.{result}.{source} {{out}}, {{0}}"
    expect_floats(code, [a], dtype_of(result), lambda a: a)


@pytest.mark.parametrize(("source", "result"), [("f16", "f32"), ("f32", "f64")])
def test_widening_is_exact(source: str, result: str) -> None:
    a = floats(source, 300, 0, 6)
    a[:6] = [INF, -INF, NAN, -0.0, 6e-8, 65504]
    found = evaluate(f"cvt.{result}.{source} {{out}}, {{0}}", [a], dtype_of(result))
    same_bits(found, a.astype(dtype_of(result)))


@pytest.mark.parametrize("result", ["f32", "f64"])
@pytest.mark.parametrize("source", INTEGER_TYPES)
def test_integers_to_floats(source: str, result: str) -> None:
    a = integers(source)
    if int(source[1:]) == 64:
        ties = np.array([2**53 + 1, 2**54 + 2, 2**40 + 2**16 + 1, 2**24 + 1], a.dtype)
        a = np.concatenate([a, ties])
    code = f"cvt.rn.{result}.{source} {{out}}, {{0}}"
    expect_floats(code, [a], dtype_of(result), lambda a: a)


def test_conversions_between_integers() -> None:
    a = integers("s32")
    for result in ("u16", "s16", *INTEGER_TYPES):
        code = f"cvt.{result}.s32 {{out}}, {{0}}"
        expect_integers(code, [a], dtype_of(result), lambda a: a)


def test_a_narrow_source_is_the_lower_part_of_its_register() -> None:
    a = integers("u32")
    expect_integers("cvt.u32.u16 {out}, {0}", [a], "u4", lambda a: a & 65535)
    expect_integers(
        "cvt.s32.s16 {out}, {0}", [a], "i4", lambda a: wrapped(a & 65535, "i2")
    )


def test_conversions_flush_subnormals() -> None:
    small = np.array([1e-40])
    single = small.astype(np.float32)
    assert evaluate("cvt.ftz.f64.f32 {out}, {0}", [single], "f8") == 0
    assert evaluate("cvt.f64.f32 {out}, {0}", [single], "f8") == single
    assert evaluate("cvt.rn.ftz.f32.f64 {out}, {0}", [small], "f4") == 0
    assert evaluate("cvt.rn.f32.f64 {out}, {0}", [small], "f4") == single


def test_moves_pack_and_unpack() -> None:
    a, b = integers("u32"), integers("u32", seed=1)
    code = (
        "mov.b64 %d0, {{{0}, {1}}}; mov.b64 {{%r0, %r1}}, %d0; sub.u32 {out}, %r1, %r0"
    )
    expect_integers(code, [a, b], "u4", lambda a, b: b - a)
    code = (
        "mov.b32 {{%h0, %h1}}, {0}; mov.b32 %r0, {{%h0, %h1}};"
        "mov.b64 %d0, {{{0}, %r0}}; mov.b64 {{_, %r1}}, %d0; mov.b32 {out}, %r1"
    )
    expect_integers(code, [a], "u4", lambda a: a)
    found = evaluate("mov.b32 {out}, 0f3FC00000", [a], "u4")
    assert (found == 0x3FC00000).all()
    found = evaluate("add.f64 {out}, {0}, 0d3FF8000000000000", [np.arange(3.0)], "f8")
    same_bits(found, np.arange(3.0) + 1.5)
    assert (evaluate("add.s32 {out}, -0x10, 8", [a], "i4") == -8).all()


def test_a_move_is_a_copy() -> None:
    a = np.arange(64, dtype=np.uint32)
    code = (
        "mov.u32 %r0, {0}; mov.u32 %r1, %r0; setp.lt.u32 %p0, {0}, 10;"
        "@%p0 mov.u32 %r0, 99; @!%p0 add.u32 %r1, %r1, 1; add.u32 {out}, %r0, %r1"
    )
    wanted = np.where(a < 10, 99 + a, a + a + 1)
    same_bits(evaluate(code, [a], "u4"), wanted.astype(np.uint32))


# Memory and the warp


@pytest.mark.parametrize("vector", ["v2", "v4"])
@pytest.mark.parametrize("type_", ["u8", "b16", "b32", "f32", "b64", "f64"])
def test_vectors(vector: str, type_: str) -> None:
    lanes, bytes_ = int(vector[1:]), int(type_[1:]) // 8
    if lanes * bytes_ > 16:
        pytest.skip("no access is wider than 16 bytes")
    register = {1: "%h", 2: "%h", 4: "%r", 8: "%d"}[bytes_]
    names = "{" + ", ".join(f"{register}{i}" for i in range(lanes)) + "}"
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


def test_narrow_loads_extend_with_zeros() -> None:
    data = np.array([0x80, 0x7F, 0xFF, 0x01], np.uint8)
    body = """
        cvt.u64.u32 %d0, %r15; add.u64 %d1, %d8, %d0; add.u64 %d2, %d9, %d15;
        ld.global.u8 %r0, [%d1]; st.u32 [%d2], %r0;
    """
    (_, found), _ = launch(body, data, np.zeros(4, np.uint32), block=4)
    same_bits(found, data.astype(np.uint32))


@pytest.mark.parametrize("by", [0, 1, 3, 7, 16])
def test_shuffles(by: int) -> None:
    a = np.arange(100, 164, dtype=np.uint32)
    code = (
        f"shfl.sync.bfly.b32 %r0|%p0, {{0}}, {by}, 31, -1;"
        "selp.u32 %r1, 1000, 0, %p0; add.u32 {out}, %r0, %r1"
    )
    wanted = [1100 + (thread ^ by) for thread in range(64)]
    for schedule in (None, 1, 2):
        found = evaluate(code, [a], "u4", schedule=schedule)
        same_bits(found, np.array(wanted, np.uint32))


def test_collectives_of_a_part_of_the_warp() -> None:
    a = np.arange(32, dtype=np.uint32)
    code = """
        setp.lt.u32 %p0, {0}, 8; @%p0 bra LOW;
        shfl.sync.bfly.b32 {out}, {0}, 2, 31, 0xFFFFFF00; bra END;
        LOW: shfl.sync.bfly.b32 {out}, {0}, 1, 31, 0xFF;
        END: bar.sync 0
    """
    wanted = np.where(a < 8, a ^ 1, a ^ 2).astype(np.uint32)
    for schedule in (None, 0, 1, 2, 3):
        same_bits(evaluate(code, [a], "u4", schedule=schedule), wanted)


def test_special_registers() -> None:
    body = """
        mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mad.lo.u32 %r2, %r0, %r1, %r15;
        mul.wide.u32 %d0, %r2, 4; add.u64 %d1, %d8, %d0;
        mad.lo.u32 %r3, %r0, 100, %r1; st.global.u32 [%d1], %r3;
    """
    (found,), _ = launch(body, np.zeros(144, np.uint32), grid=6, block=24, schedule=1)
    number = np.arange(144, dtype=np.uint32)
    same_bits(found, (number // 24 * 100 + 24).astype(np.uint32))


def test_registers_of_an_inner_block_are_its_own() -> None:
    code = "mov.u32 %r0, 1; {{ .reg .b32 %r0; mov.u32 %r0, 2; }} mov.u32 {out}, %r0"
    assert evaluate(code, [np.arange(4, dtype=np.uint32)], "u4").tolist() == [1] * 4


def test_uniform_branches_run() -> None:
    body = """
        bar.sync 0; bra.uni NEXT;
        NEXT: add.u64 %d0, %d8, %d15; st.global.u32 [%d0], %r15; ret;
    """
    (found,), _ = launch(body, np.zeros(64, np.uint32), block=64)
    assert found.tolist() == list(range(64))


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
        "ld.global.nc.u32 %r0, [%d8]",
        "cvta.to.shared.u64 %d0, %d1",
        "sqrt.rn.f32 %r0, %r1",
        "cvt.rzi.s32.f32 %r0, %r1",
        "atom.global.add.u32 %r0, [%d8], 1",
        "call helper",
        "setp.lt.f16 %p0, %h0, %h1",
        "setp.lt.u32 %p0|%p1, %r15, 1",
        "cvt.rn.bf16.f32 %h0, %r0",
        "cvt.rn.ftz.f64.f64 %d0, %d1",
        "ex2.f32 %r0, %r1",
        "shfl.bfly.b32 %r0, %r1, 1, 31",
        "shfl.sync.bfly.b32 %r0, %r15, 1, 7199, -1",
        "bar.sync 0, 64",
        "bar.red.popc.u32 %r0, 0, %p0",
        "nanosleep 100",
        "mov.u32 %r0, %clock",
        "mov.u32 %r0, 010",
        "add.u32 %r0, %r1, %d1",
        "add.u32 %r0, %r1",
        "add.u32 %r0, %r1, %nothing",
        "add.f32 %r0, %r1, 3",
        "bra NOWHERE",
        ".local .align 8 .b8 depot[16]",
        "ld.global.v2.u32 %r0, [%d8]",
        "ld.global.v4.b64 {%d0, %d1, %d2, %d3}, [%d8]",
    ],
)
def test_what_is_not_known_is_a_fault(text: str) -> None:
    with pytest.raises(ptx.Fault) as fault:
        launch(text + ";", np.zeros(64, np.uint32))
    assert fault.value.kind == "unknown instruction"


def test_every_opcode_of_the_subset_is_tested() -> None:
    tests = Path(__file__).parent
    text = "".join(path.read_text() for path in tests.glob("test_in*.py"))
    text += Path(__file__).read_text()
    missing = [name for name in SUBSET if not re.search(rf"\b{name}[.;{{]", text)]
    missing = [name for name in missing if f'"{name}"' not in text]
    assert missing == []
    assert not is_known("add")
    assert is_known("add.rn.ftz.f32")
