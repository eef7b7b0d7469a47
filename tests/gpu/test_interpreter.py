"""Every check of the interpreter fires where it should, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu import ptx
from gpu.ptx_programs import HEADER, SCHEDULES, Array, kernel, launch, words

SHARED = ".shared .align 16 .b8 s[4096];"
OWN = "mov.u32 %r0, s; mad.lo.u32 %r1, %r15, 4, %r0;"  # %r1: the thread's word of s
NEXT = "xor.b32 %r2, %r15, 32; mad.lo.u32 %r2, %r2, 4, %r0;"  # of the other warp
OUT = "add.u64 %d0, %d8, %d15;"
MEET = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"


def fault_of(body: str, *buffers: Array | None, **options: Any) -> ptx.Fault:
    with pytest.raises(ptx.Fault) as caught:
        launch(body, *buffers, **options)
    return caught.value


def always(kind: str, body: str, *buffers: Array | None, **options: Any) -> None:
    """Expect the same kind of Fault whatever the schedule."""
    kinds = {
        fault_of(body, *buffers, schedule=schedule, **options).kind
        for schedule in SCHEDULES
    }
    assert kinds == {kind}


def never(body: str, *buffers: Array | None, **options: Any) -> list[Array]:
    """Expect the same results, and no Fault, whatever the schedule."""
    results = [
        launch(body, *buffers, schedule=schedule, **options)[0]
        for schedule in SCHEDULES
    ]
    for result in results[1:]:
        for left, right in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(left, right)
    return results[0]


# Bounds, alignment, uninitialised bytes and registers


@pytest.mark.parametrize("offset", [-4, 256, 1 << 30, -(1 << 30)])
@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("access", ["ld.global.u32 %r0, [%d1]", "st.u32 [%d1], %r15"])
def test_accesses_beside_a_buffer(offset: int, checks: bool, access: str) -> None:
    body = f"add.s64 %d1, %d8, {offset}; {access};"
    fault = fault_of(body, words(), words(), block=1, checks=checks)
    assert fault.kind == "bounds"
    assert "thread 0" in fault.text
    assert access in fault.text


def test_the_last_byte_is_inside_and_the_next_one_is_not() -> None:
    data = np.arange(7, dtype=np.uint8)
    launch("ld.global.u8 %r0, [%d8+6];", data)
    assert fault_of("ld.global.u8 %r0, [%d8+7];", data).kind == "bounds"
    assert fault_of("ld.global.u32 %r0, [%d8+4];", data).kind == "bounds"


@pytest.mark.parametrize("offset", [-4, 4096])
@pytest.mark.parametrize("checks", [True, False])
def test_accesses_beside_shared_memory(offset: int, checks: bool) -> None:
    body = f"{SHARED} mov.u32 %r0, s; st.shared.u32 [%r0+{offset}], %r15;"
    assert fault_of(body, block=1, checks=checks).kind == "bounds"


def test_dynamic_shared_memory_has_the_size_of_the_launch() -> None:
    outside = ".extern .shared .align 16 .b8 arena[];"
    body = "st.shared.u32 [arena+124], %r15;"
    launch(body, block=1, outside=outside, shared_bytes=128)
    for size in (124, 0):
        fault = fault_of(body, block=1, outside=outside, shared_bytes=size)
        assert fault.kind == "bounds"


def test_null_is_not_an_address() -> None:
    assert fault_of("mov.b64 %d0, 0; ld.u32 %r0, [%d0];", words()).kind == "bounds"


@pytest.mark.parametrize("checks", [True, False])
def test_misaligned_accesses(checks: bool) -> None:
    quad = "ld.global.v4.u32 {%r0, %r1, %r2, %r3}"
    launch(f"{quad}, [%d8+16];", words())
    for access in (f"{quad}, [%d8+8]", "ld.global.u64 %d0, [%d8+4]"):
        fault = fault_of(access + ";", words(), checks=checks)
        assert fault.kind == "alignment"
    body = f"{SHARED} mov.u32 %r0, s; st.shared.v2.u32 [%r0+4], {{%r15, %r15}};"
    assert fault_of(body, checks=checks).kind == "alignment"


def test_a_shifted_buffer_is_misaligned_and_keeps_its_contents() -> None:
    memory = ptx.Memory()
    address = memory.add("x", words(), shift=4)
    assert address % 256 == 4
    program = kernel("ld.global.v2.u32 {%r0, %r1}, [%d8];")
    with pytest.raises(ptx.Fault, match="alignment"):
        ptx.launch(program, memory, 1, 1, [address])
    np.testing.assert_array_equal(memory.array("x"), words())


def test_reads_of_what_nobody_wrote() -> None:
    always("uninitialised", "ld.global.u32 %r0, [%d8];", None)
    always("uninitialised", f"{SHARED} ld.shared.u32 %r0, [s];")
    always(
        "uninitialised", f"add.u32 %r1, %r0, 1; {OUT} st.global.u32 [%d0], %r1;", None
    )
    some = "setp.lt.u32 %p0, %r15, 5; @%p0 mov.u32 %r0, 1;"
    some += f"{OUT} st.global.u32 [%d0], %r0;"
    always("uninitialised", some, None)


def test_half_a_word_is_not_a_word() -> None:
    body = f"{SHARED} mov.u32 %r0, s; st.shared.u16 [%r0], 7; ld.shared.u32 %r1, [%r0];"
    always("uninitialised", body, block=1)


def test_contents_stay_between_launches() -> None:
    memory = ptx.Memory()
    addresses = [
        memory.add("x", words(32)),
        memory.add("y", words(32), initialised=False),
    ]
    write = f"{OUT} add.u64 %d1, %d9, %d15; ld.global.u32 %r0, [%d0];"
    write += "st.global.u32 [%d1], %r0;"
    read = "add.u64 %d1, %d9, %d15; ld.global.u32 %r0, [%d1];"
    for body in (write, read):
        ptx.launch(kernel(body, 2), memory, 1, 32, addresses)
    np.testing.assert_array_equal(memory.array("y"), words(32))


# Races


EXCHANGE = (
    f"{SHARED} {OWN} {NEXT} st.shared.u32 [%r1], %r15; {{}} ld.shared.u32 %r3, [%r2];"
)
STORE_OUT = f"{OUT} st.global.u32 [%d0], %r3;"


@pytest.mark.parametrize("barrier", ["bar.sync 0;", MEET])
def test_shared_memory_is_exchanged_through_a_barrier(barrier: str) -> None:
    found, *_ = never(EXCHANGE.replace("{}", barrier) + STORE_OUT, None, block=64)
    np.testing.assert_array_equal(found[:64], words() ^ 32)


def test_shared_races_without_the_barrier() -> None:
    """Some schedules read before anything is written: that is a Fault as well."""
    body = EXCHANGE.replace("{}", "") + STORE_OUT
    found = {fault_of(body, None, block=64, schedule=s).kind for s in SCHEDULES}
    assert "shared race" in found
    assert found <= {"shared race", "uninitialised"}
    launch(body, None, block=64, checks=False)


def test_a_buffer_reused_without_a_barrier_is_a_race() -> None:
    first = EXCHANGE.replace("{}", "bar.sync 0;")
    again = "{} st.shared.u32 [%r1], %r3;"
    always("shared race", first + again.replace("{}", ""), block=64)
    never(first + again.replace("{}", "bar.sync 0;"), block=64)


def test_many_readers_before_a_store() -> None:
    """All threads read a word that one of them stores later."""
    body = f"""
        {SHARED} setp.eq.u32 %p0, %r15, 7; @%p0 st.shared.u32 [s], 5; bar.sync 0;
        ld.shared.u32 %r3, [s]; {{}} @%p0 st.shared.u32 [s], 6;
    """
    always("shared race", body.replace("{}", ""), block=96)
    never(body.replace("{}", "bar.sync 0;"), block=96)


def test_a_warp_needs_the_barrier_as_well() -> None:
    neighbour = "xor.b32 %r2, %r15, 1; mad.lo.u32 %r2, %r2, 4, %r0;"
    body = f"{SHARED} {OWN} {neighbour} st.shared.u32 [%r1], %r15; {{}}"
    body += "ld.shared.u32 %r3, [%r2];"
    never(body.replace("{}", "bar.sync 0;"), block=64)
    kinds = {
        fault_of(body.replace("{}", ""), block=64, schedule=s).kind for s in SCHEDULES
    }
    assert kinds == {"shared race"}


def test_parts_of_a_word_of_different_threads_do_not_race() -> None:
    body = f"""
        {SHARED} mov.u32 %r0, s; mad.lo.u32 %r1, %r15, 2, %r0;
        cvt.u16.u32 %h0, %r15; st.shared.b16 [%r1], %h0; ld.shared.u16 %r3, [%r1];
        bar.sync 0; ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r0];
    """
    never(body, block=64)


def test_two_threads_store_to_one_place() -> None:
    always("global race", "st.global.u32 [%d8], %r15;", words())
    always("shared race", f"{SHARED} st.shared.u32 [s], %r15;")
    always("global race", "st.global.u32 [%d8], %r15;", words(), grid=2, block=1)


def test_a_block_barrier_does_not_order_other_blocks() -> None:
    """Each block reads what itself or the other one wrote."""
    body = """
        mov.u32 %r0, %ctaid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %d8, %d0;
        setp.eq.u32 %p0, %r15, 0; @%p0 st.global.u32 [%d1], 1; bar.sync 0;
        xor.b32 %r1, %r0, {}; mul.wide.u32 %d2, %r1, 4; add.u64 %d3, %d8, %d2;
        ld.global.u32 %r2, [%d3];
    """
    never(body.replace("{}", "0"), words(), grid=2, block=64)
    always("global race", body.replace("{}", "1"), words(), grid=2, block=64)
    (found,), _ = launch(body.replace("{}", "0"), words(700), grid=700, block=64)
    assert (found == 1).all()


def test_blocks_of_different_batches_race() -> None:
    body = "mov.u32 %r0, %ctaid.x; st.global.u32 [%d8], %r0;"
    always("global race", body, words(), grid=1500, block=1)


# Barriers, shuffles, exits


def test_a_barrier_that_some_threads_do_not_reach() -> None:
    part = "setp.lt.u32 %p0, %r15, 40; @%p0 {}; bar.sync 0;"
    always("barrier", part.replace("{}", "ret"), block=64)
    apart = (
        "setp.lt.u32 %p0, %r15, 32; @%p0 bra A; bar.sync 0; bra B; A: bar.sync 0; B:"
    )
    always("barrier", apart, block=64)
    always("barrier", "setp.eq.u32 %p0, %r15, 3; @%p0 bar.sync 0;", block=64)


def test_blocks_need_not_be_whole_warps() -> None:
    (found,) = never(
        f"bar.sync 0; {OUT} st.global.u32 [%d0], %r15;", words(45), block=45
    )
    np.testing.assert_array_equal(found, words(45))


def test_shuffles_that_some_lanes_do_not_reach() -> None:
    shuffle = "shfl.sync.bfly.b32 %r0, %r15, 1, 31, -1;"
    leave = "setp.ge.u32 %p0, %r15, 60; @%p0 ret;"
    always("shuffle", leave + shuffle, block=64)
    always("shuffle", "setp.lt.u32 %p0, %r15, 7; @%p0 " + shuffle)
    apart = f"setp.lt.u32 %p0, %r15, 7; @%p0 bra A; {shuffle} bra B; A: {shuffle} B:"
    always("shuffle", apart)
    masks = "setp.lt.u32 %p0, %r15, 7; selp.u32 %r1, 0x7F, -1, %p0;"
    always("shuffle", masks + shuffle.replace("-1;", "%r1;"))
    always("shuffle", shuffle.replace("-1;", "0xFFFF;"))


def test_a_shuffle_must_not_read_a_lane_that_is_not_there() -> None:
    always("shuffle", "shfl.sync.bfly.b32 %r0, %r15, 8, 31, -1;", block=8)
    never("shfl.sync.bfly.b32 %r0, %r15, 4, 31, -1;", block=8)


def test_whole_warps_may_leave_early() -> None:
    body = f"""
        setp.lt.u32 %p0, %r15, 32; @%p0 ret;
        shfl.sync.bfly.b32 %r0, %r15, 1, 31, -1; {OUT} st.global.u32 [%d0], %r0;
    """
    (found,) = never(body, words(), block=64)
    np.testing.assert_array_equal(found[32:], words()[32:] ^ 1)


def test_a_loop_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu.ptx.machine.MAX_STEPS", 1000)
    assert fault_of("AGAIN: bra AGAIN;").kind == "limits"


# Clusters


OTHER = """
    mov.u32 %r4, %ctaid.x; and.b32 %r4, %r4, 1; xor.b32 %r5, %r4, 1;
    mapa.shared::cluster.u32 %r6, %r0, %r5; setp.eq.u32 %p0, %r15, 0;
"""


def cluster_program(first: str, second: str) -> str:
    return f"""
        {SHARED} {OWN} {OTHER}
        @%p0 st.shared.u32 [s], %r4; {first} ld.shared::cluster.u32 %r3, [%r6]; {second}
        mov.u32 %r7, %ctaid.x; mad.lo.u32 %r7, %r7, 32, %r15;
        mul.wide.u32 %d1, %r7, 4; add.u64 %d2, %d8, %d1; st.global.u32 [%d2], %r3;
    """


def test_blocks_of_a_cluster_exchange() -> None:
    body = cluster_program(MEET, MEET)
    (found,) = never(body, words(128), grid=4, cluster=2)
    np.testing.assert_array_equal(found, np.repeat([1, 0, 1, 0], 32))


def test_cluster_barriers_are_needed() -> None:
    always("exited", cluster_program(MEET, ""), words(128), grid=4, cluster=2)
    always("cluster", cluster_program("", MEET), words(128), grid=4, cluster=2)
    always(
        "cluster", cluster_program("bar.sync 0;", MEET), words(64), grid=2, cluster=2
    )


@pytest.mark.parametrize("barrier", ["", "bar.sync 0;"])
def test_a_store_after_the_first_cluster_barrier_races(barrier: str) -> None:
    body = cluster_program(MEET, f"{barrier} @%p0 st.shared.u32 [s], 9; {MEET}")
    always("shared race", body, words(128), grid=4, cluster=2)
    never(
        cluster_program(MEET, MEET + "@%p0 st.shared.u32 [s], 9;"),
        words(128),
        grid=4,
        cluster=2,
    )


def test_a_rank_outside_of_the_cluster() -> None:
    body = f"{SHARED} mov.u32 %r0, s; mapa.shared::cluster.u32 %r1, %r0, 2;"
    body += f"{MEET} ld.shared::cluster.u32 %r2, [%r1]; {MEET}"
    always("cluster", body, grid=2, cluster=2)


def test_misused_cluster_barriers() -> None:
    arrive, wait = MEET.split(";")[:2]
    options: dict[str, Any] = {"grid": 2, "cluster": 2}
    always("cluster", f"{wait};", **options)
    always("cluster", f"{arrive}; {arrive};", **options)
    always(
        "cluster", f"{arrive}; ld.global.u32 %r0, [%d8]; {wait};", words(), **options
    )
    always("cluster", f"setp.eq.u32 %p0, %r15, 1; @%p0 ret; {MEET}", **options)


def test_clusters_of_the_launch() -> None:
    attributes = ".explicitcluster .reqnctapercluster 2, 1, 1"
    body = cluster_program(MEET, MEET)
    (found,) = never(body, words(128), grid=4, attributes=attributes)
    np.testing.assert_array_equal(found, np.repeat([1, 0, 1, 0], 32))
    for grid, cluster in ((3, 2), (4, 4), (32, 16)):
        extra = {} if cluster == 16 else {"attributes": attributes}
        fault = fault_of(body, words(1024), grid=grid, cluster=cluster, **extra)
        assert fault.kind == "cluster"


# Counting


def test_bytes_read_and_written() -> None:
    memory = ptx.Memory()
    addresses = [memory.add("x", words(32)), memory.add("y", words(40))]
    body = f"{OUT} add.u64 %d1, %d9, %d15; ld.global.u32 %r0, [%d0];"
    body += "ld.global.u32 %r1, [%d8+8]; st.global.u32 [%d1], %r0;"
    program = kernel(body, 2)
    ptx.launch(program, memory, 1, 32, addresses)
    reads = memory.reads("x").reshape(32, 4)
    assert (np.delete(reads, 2, axis=0) == 1).all()
    assert (reads[2] == 33).all()
    assert (memory.writes("x") == 0).all()
    assert (memory.writes("y").reshape(40, 4) == (words(40) < 32)[:, None]).all()
    memory.forget()
    assert not memory.reads("x").any()
    ptx.launch(program, memory, 1, 32, addresses)
    assert memory.reads("x").sum() == 4 * 64


@pytest.mark.parametrize(
    ("stride", "shift", "sectors", "ideal"),
    [(4, 0, 4, 4), (8, 0, 8, 4), (32, 0, 32, 4), (0, 0, 1, 1), (4, 16, 5, 4)],
)
def test_sectors(stride: int, shift: int, sectors: int, ideal: int) -> None:
    body = f"""
        mul.wide.u32 %d0, %r15, {stride}; add.u64 %d1, %d8, %d0;
        ld.global.u32 %r0, [%d1+{shift}];
    """
    _, report = launch(body, words(512), block=64)
    if stride == 0:
        assert (report.sectors, report.ideal_sectors) == (2, 2)
        return
    assert (report.sectors, report.ideal_sectors) == (2 * sectors, 2 * ideal)


def test_sectors_of_lanes_in_another_order() -> None:
    body = """
        mul.lo.u32 %r0, %r15, 5; and.b32 %r0, %r0, 31;
        mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %d8, %d0; ld.global.u32 %r1, [%d1];
    """
    _, report = launch(body, words())
    assert (report.sectors, report.ideal_sectors) == (4, 4)


@pytest.mark.parametrize(
    ("stride", "vector", "wavefronts", "ideal"),
    [
        (4, "u32", 1, 1),
        (8, "u32", 2, 1),
        (128, "u32", 32, 1),
        (132, "u32", 1, 1),
        (0, "u32", 1, 1),
        (8, "v2", 2, 2),
        (16, "v4", 4, 4),
        (64, "v4", 16, 4),
        (2, "u16", 1, 1),
    ],
)
def test_bank_conflicts(stride: int, vector: str, wavefronts: int, ideal: int) -> None:
    count = {"v2": 2, "v4": 4}.get(vector, 1)
    names = ", ".join(f"%r{i}" for i in range(4, 4 + count))
    access = f"{{{names}}}" if count > 1 else names
    type_ = f"{vector}.u32" if count > 1 else vector
    body = f"""
        .shared .align 16 .b8 s[8192];
        mov.u32 %r0, s; mad.lo.u32 %r1, %r15, {stride}, %r0;
        ld.shared.{type_} {access}, [%r1];
    """
    fill = (
        "mul.lo.u32 %r2, %r15, 256; mov.u32 %r3, s; add.u32 %r3, %r3, %r2;"
        + "".join(
            f"st.shared.v4.u32 [%r3+{16 * i}], {{%r15, %r15, %r15, %r15}};"
            for i in range(16)
        )
    )
    start, end = body.rsplit("mov.u32 %r0", 1)
    _, filled = launch(start + fill)
    _, report = launch(start + fill + "bar.sync 0; mov.u32 %r0" + end)
    assert report.wavefronts - filled.wavefronts == wavefronts
    assert report.ideal_wavefronts - filled.ideal_wavefronts == ideal
    assert report.conflicts - filled.conflicts == wavefronts - ideal


# Launches


def test_arguments_have_the_types_of_the_parameters() -> None:
    text = HEADER + ".entry k(.param .u32 a, .param .f32 b, .param .u64 c) { ret; }"
    program = ptx.parse(text.encode() + b"\0").kernels["k"]
    assert program.parameters == [("a", "u32"), ("b", "f32"), ("c", "u64")]
    good = (np.int32(-1), np.float32(1), np.int64(3))

    def run(*arguments: object) -> None:
        ptx.launch(program, ptx.Memory(), 1, 32, arguments)

    run(*good)
    run(-1, 1.0, 3)
    bad: list[tuple[object, ...]] = [good[:2], (*good, 1)]
    bad += [(np.int64(1), *good[1:]), (1 << 32, *good[1:]), (1.0, *good[1:])]
    bad += [(good[0], 1, good[2]), (good[0], np.float64(1), good[2])]
    bad += [(*good[:2], np.int32(3)), (*good[:2], np.float64(3)), (*good[:2], None)]
    for arguments in bad:
        with pytest.raises(ptx.Fault, match="arguments"):
            run(*arguments)


def test_limits_of_a_launch() -> None:
    assert fault_of("", block=1025).kind == "limits"
    assert fault_of("", block=64, attributes=".maxntid 32").kind == "limits"
    assert fault_of("", grid=2**31).kind == "limits"
    assert fault_of("", grid=0).kind == "limits"
    assert fault_of("", shared_bytes=300_000).kind == "limits"


def test_a_kernel_without_its_end_is_an_error() -> None:
    with pytest.raises(ptx.Fault):
        ptx.parse(HEADER + ".entry k() { ret;")
