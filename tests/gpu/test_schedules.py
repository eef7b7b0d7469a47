"""Kernels whose warps and blocks run in random order, and what else binds kernels.

In any order there is no race and no stall, and the bits are the same; approximate
instructions may be off as far as a card's may.
"""

from __future__ import annotations

import dataclasses

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
    (Case(LOG_SOFTMAX, "float32", "team of 32"), Shape(5, 40)),
    (Case(WEIGHTED_LOGSUMEXP, "float32", "team of 32" + ONE_BY_ONE), Shape(5, 33)),
    (Case(LOGSUMEXP, "float16", "team of 256"), Shape(2, 1032)),
    (Case(SOFTMAX, "float64", "shared_row" + ONE_BY_ONE), Shape(2, 261)),
    (Case(SOFTMAX_VJP, "float64", "shared_row"), Shape(1, 2050)),
    (Case(SOFTMAX, "float64", "split" + ONE_BY_ONE), Shape(1, 4099)),
    (Case(SOFTMAX, "float32", "columns of 1"), Shape(3, 5, 31)),
    (Case(LOG_SOFTMAX, "float32", "columns of 16"), Shape(1, 20, 33)),
    (Case(SOFTMAX, "float64", "split columns"), Shape(1, 130, 31)),
    (Case(SOFTMAX, "float32", "cluster"), Shape(1, 4100)),
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


# ---- kept whole or split ----


@pytest.mark.parametrize(
    ("case", "n"),
    [
        (Case(SOFTMAX, "float32", "shared_row"), 2 * 8192 - 4),
        (Case(LOG_SOFTMAX, "float64", "shared_row" + ONE_BY_ONE), 4097),
        (Case(LOGSUMEXP, "float16", "shared_row" + ONE_BY_ONE), 8195),
        (Case(SOFTMAX_VJP, "float64", "shared_row"), 2050),
        (Case(WEIGHTED_LOGSUMEXP, "float32", "shared_row"), 4100),
    ],
    ids=str,
)
def test_shared_row_and_split_give_equal_bits(case, n):
    given = inputs.draw(case, 2, n)
    whole = run(case, Shape(2, n), given)
    split = case._replace(variant=case.variant.replace("shared_row", "split"))
    parts = run(split, Shape(2, n), given)
    references.same_bits(whole.y, parts.y)
    if "sign" in whole.outcome.memory.buffers:
        references.same_bits(whole.outcome["sign"], parts.outcome["sign"])


def test_more_chunks_than_lanes():
    """33 chunks: the first lane of a warp joins two of them."""
    case, n = Case(WEIGHTED_LOGSUMEXP, "float64", "split"), 32 * 2048 + 2
    given = inputs.draw(case, 1, n)
    output = run(case, Shape(1, n), given, Way(checks=False))
    assert output.outcome.launches.states == 33
    judged(case, given, output, n)


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        (Case(SOFTMAX, "float64", "split" + ONE_BY_ONE), Shape(1, 5 * 4096 + 3)),
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


def test_a_cluster_of_eight():
    case, n = Case(LOGSUMEXP, "float64", "cluster"), 4 * 8192 + 2
    given = inputs.draw(case, 1, n)
    output = run(case, Shape(1, n), given)
    assert output.outcome.launches.launches[0].kernel.endswith(",512,8>")
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
        # the last pack of a row, beyond its end
        (
            Case(SOFTMAX, "float32", "team of 32" + ONE_BY_ONE),
            "if (place < count)\n                f(k, place);",
            "if (place <= count)\n                f(k, place);",
            "bounds",
        ),
        # tiles without a barrier
        (
            Case(LOGSUMEXP, "float32", "tile"),
            "    __syncthreads();\n    if ((int)threadIdx.x * length < count)",
            "    if ((int)threadIdx.x * length < count)",
            "race",
        ),
        # one scratch for sums of all turns
        (
            Case(SOFTMAX_VJP, "float32", "shared_row"),
            "held.state(op, scratch, chunks)",
            "held.state(op, scratch, 0)",
            "race",
        ),
        # a state that was never written
        (
            Case(LOGSUMEXP, "float32", "split" + ONE_BY_ONE),
            "if (threadIdx.x == 0)\n        write_state(",
            "if (threadIdx.x == 0 && blockIdx.x > 0)\n        write_state(",
            "uninitialised",
        ),
    ],
    ids=["beyond the end", "no barrier", "one scratch", "no state"],
)
def test_a_broken_kernel_is_found(case, old, new, kind):
    with pytest.raises(Fault, match=kind):
        run(*first(case), broken(old, new))


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        (
            Case(SOFTMAX, "float32", "columns of 1"),
            "exp_of(d.hi, d.lo)",
            "exp_of(d.hi, (A)0)",
        ),
        (
            Case(LOG_SOFTMAX, "float64", "team of 32"),
            "log1p_of((sum.terms.hi - (Real)1) + sum.terms.lo)",
            "log(sum.terms.hi)",
        ),
        (Case(SOFTMAX_VJP, "float32", "tile"), "- this->total.lo)", ")"),
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


def test_a_block_that_leaves_its_cluster_early_is_found():
    barrier = "    cluster_barrier(); /* none may leave while others read from it */\n"
    case, shape, given = first(Case(LOGSUMEXP, "float32", "cluster"))
    way = broken(barrier, "")
    with pytest.raises(Fault, match=r"exited|cluster"):
        _in_many_orders(case, shape, given, way)


def _in_many_orders(case: Case, shape: Shape, given: Input, way: Way) -> None:
    for seed in range(10):
        run(case, shape, given, dataclasses.replace(way, schedule=seed))


def test_a_second_read_is_seen():
    case, shape, given = first(Case(LOGSUMEXP, "float32", "team of 32"))
    again = """    held.read(op);
    asm volatile("" ::: "memory");
    held.read(op);
    op.finish("""
    output = run(
        case, shape, given, broken("    held.read(op);\n    op.finish(", again)
    )
    assert output.outcome.traffic[0]["x"].reads.max() == 2
