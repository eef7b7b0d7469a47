"""Kernels whose warps and blocks run in random order, and what else binds kernels.

In any order there is no race and no stall, and the bits are the same; approximate
instructions may be off as far as a card's may.
"""

from __future__ import annotations

import pytest

from fastsoftmax.cuda import choose
from fastsoftmax.cuda.choose import (
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX,
    SOFTMAX_VJP,
    WEIGHTED_LOGSUMEXP,
)
from gpu import execution, inputs, references
from gpu.cases import ONE_BY_ONE, Case, Input, Output, Shape, run
from gpu.execution import Way
from gpu.ptx import Fault

pytestmark = references.needs

SEEDS = (1, 2, 3, 4, 5)

# Of each family of kernels a launch in which warps and blocks meet; few elements.
SCHEDULED = [
    (Case(SOFTMAX, "float32", "tile"), Shape(130, 5)),
    (Case(LOG_SOFTMAX, "float32", "rows"), Shape(5, 40)),
    (Case(WEIGHTED_LOGSUMEXP, "float32", "rows" + ONE_BY_ONE), Shape(5, 33)),
    (Case(LOGSUMEXP, "float16", "block"), Shape(2, 1032)),
    (Case(SOFTMAX, "float64", "block" + ONE_BY_ONE), Shape(2, 1033)),
    (Case(SOFTMAX_VJP, "float64", "block"), Shape(1, 2050)),
    (Case(SOFTMAX, "float64", "split" + ONE_BY_ONE), Shape(1, 4099)),
    (Case(SOFTMAX, "float32", "columns"), Shape(3, 5, 31)),
    (Case(LOG_SOFTMAX, "float32", "columns of 8"), Shape(1, 70, 33)),
    (Case(SOFTMAX, "float64", "split columns"), Shape(1, 130, 31)),
    (Case(SOFTMAX, "float32", "cluster"), Shape(1, 4100)),
    (Case(LOG_SOFTMAX, "float32", "column cluster"), Shape(1, 260, 31)),
]


def judged(case: Case, given: Input, output: Output, where: object) -> None:
    expected, _ = inputs.expected(case, given)
    references.check(case.operation.name, output.y, expected, (str(case), where))


@pytest.mark.parametrize(("case", "shape"), SCHEDULED, ids=str)
def test_any_order(case, shape):
    given = inputs.draw(case, shape.rows, shape.n)
    in_order = run(case, shape, given)
    for seed in SEEDS:
        in_place = "x" if case.operation.has_results and seed % 2 else None
        perturbed = run(case, shape, given, Way(seed, perturb=True), in_place)
        judged(case, given, perturbed, seed)
    references.same_bits(run(case, shape, given, Way(7)).y, in_order.y)


# ---- split ----


def test_more_chunks_than_lanes():
    """33 chunks: the first lane of a warp joins two of them."""
    case = Case(WEIGHTED_LOGSUMEXP, "float64", "split")
    n = 32 * case.chunk + 2
    given = inputs.draw(case, 1, n)
    output = run(case, Shape(1, n), given, Way(checks=False))
    assert output.outcome.launches.states == 33
    judged(case, given, output, n)


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        (Case(SOFTMAX, "float64", "split" + ONE_BY_ONE), Shape(1, 5 * 2048 + 3)),
        (Case(LOG_SOFTMAX, "float64", "split columns"), Shape(1, 5 * 128 + 3, 2)),
    ],
    ids=str,
)
def test_chunks_of_several_parts(case, shape, monkeypatch):
    """As of very long rows, here because at most two chunks are allowed."""
    monkeypatch.setattr(choose, "MOST_CHUNKS", 2)
    monkeypatch.setattr(choose, "MOST_COLUMN_CHUNKS", 2)
    given = inputs.draw(case, shape.rows, shape.n)
    output = run(case, shape, given)
    assert output.outcome.launches.states == 2 * shape.inner
    judged(case, given, output, shape)
    for launch in output.outcome.traffic:
        assert (launch["x"].reads == 1).all()


@pytest.mark.parametrize(
    ("operation", "dtype", "blocks", "n"),
    [(LOG_SOFTMAX, "float64", 8, 8190), (SOFTMAX_VJP, "bfloat16", 2, 4088)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_large_clusters(operation, dtype, blocks, n):
    """Eight blocks; 32 elements to a thread that has two inputs."""
    case = Case(operation, dtype, "cluster")
    given, shape = inputs.draw(case, 1, n), Shape(1, n)
    launches = case.asked(shape, True).cluster(64, blocks)
    output = run(case, shape, given, launches=launches)
    judged(case, given, output, n)


# ---- faults of kernels are found ----


def broken(old: str, new: str) -> Way:
    text = execution.source()
    assert text.count(old) >= 1
    return Way(text=text.replace(old, new))


def first(case: Case) -> tuple[Case, Shape, Input]:
    shape = case.shapes()[0]
    return case, shape, inputs.draw(case, shape.rows, shape.n)


@pytest.mark.parametrize(
    ("case", "old", "new", "kind"),
    [
        (
            Case(SOFTMAX, "float32", "rows" + ONE_BY_ONE),
            "place(k) < count && has_input",
            "place(k) <= count && has_input",
            "bounds",
        ),
        (
            Case(LOGSUMEXP, "float32", "tile"),
            "    __syncthreads();\n    const bool live",
            "    const bool live",
            "race",
        ),
        (
            Case(LOGSUMEXP, "float32", "split" + ONE_BY_ONE),
            "if (threadIdx.x == 0)\n        write_state(",
            "if (threadIdx.x == 0 && blockIdx.x > 0)\n        write_state(",
            "uninitialised",
        ),
        (
            Case(SOFTMAX, "float32", "block"),
            "            write_state(parts + warp, state);\n        __syncthreads();",
            "            write_state(parts + warp, state);",
            "race|uninitialised",
        ),
    ],
    ids=["beyond the end", "no barrier", "no state", "no barrier of warps"],
)
def test_a_broken_kernel_is_found(case, old, new, kind):
    with pytest.raises(Fault, match=kind):
        run(*first(case), broken(old, new))


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        (
            Case(SOFTMAX, "float32", "columns"),
            "fused(n, -E::LN2_LO, fused(n, -E::LN2_HI, x))",
            "fused(n, -E::LN2_HI, x)",
        ),
        (
            Case(LOG_SOFTMAX, "float64", "rows"),
            "log1p_of(((sum.terms.hi - largest) + sum.terms.lo) / largest)",
            "log(sum.terms.hi / largest)",
        ),
        (Case(SOFTMAX_VJP, "float32", "tile"), "- row.total.lo)", ")"),
    ],
    ids=["differences rounded", "log instead of log1p", "sums rounded"],
)
def test_a_less_accurate_kernel_is_found(case, old, new):
    n = case.shapes()[0].n
    given = inputs.hard(case, n)
    shape = (
        Shape(1, n, len(given.x))
        if "columns" in case.variant
        else Shape(len(given.x), n)
    )
    output = run(case, shape, given, broken(old, new))
    with pytest.raises(AssertionError):
        judged(case, given, output, "broken")


def test_memory_of_a_block_that_may_not_run_yet_is_found():
    case, shape, given = first(Case(SOFTMAX, "float32", "cluster"))
    way = broken("        cluster_begin();", "        (void)0;")
    with pytest.raises(Fault, match="cluster"):
        run(case, shape, given, way)


def test_a_second_read_is_seen():
    case, shape, given = first(Case(LOGSUMEXP, "float32", "rows"))
    once = "    held.read(op);\n    typename Op::Row row = op.begin(number, n);\n"
    again = '    held.read(op);\n    asm volatile("" ::: "memory");\n' + once
    output = run(case, shape, given, broken(once, again))
    assert output.outcome.traffic[0]["x"].reads.max() == 2
