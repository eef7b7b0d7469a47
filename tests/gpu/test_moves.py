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
    MODES,
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


def test_every_opcode_of_the_subset_is_tested() -> None:
    tests = Path(__file__).parent
    text = "".join(path.read_text() for path in tests.glob("test_in*.py"))
    text += Path(__file__).read_text()
    missing = [name for name in SUBSET if not re.search(rf"\b{name}[.;{{]", text)]
    missing = [name for name in missing if f'"{name}"' not in text]
    assert missing == []
    assert not is_known("add")
    assert is_known("add.rn.ftz.f32")
