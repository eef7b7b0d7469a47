"""The package's kernels in the interpreter: the softmaxes and their gradients.

Every operation by every variant, on shapes around the variants' limits: results against
long double, traffic, special values, schedules, the same bits in any batch. A checked
run faults for races, wild or unaligned accesses, uninitialised memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fastsoftmax.cuda import choose
from fastsoftmax.cuda.choose import (
    LOG_SOFTMAX_VJP,
    WEIGHTED_LOGSUMEXP,
    WITH_CLUSTERS,
    WITH_COLUMNS,
    Operation,
)
from gpu import inputs, references
from gpu.cases import (
    COLUMNS,
    ONE_BY_ONE,
    VARIANTS,
    Case,
    Input,
    Output,
    Shape,
    batch_of,
    laid_out,
    run,
)

pytestmark = references.needs

LOSSES = (choose.HINGE_SUM, choose.HINGE_LARGEST, choose.CROSS_ENTROPY)
OPERATIONS = tuple(op for op in choose.OPERATIONS if op not in LOSSES)
MASKED = ("Softmax", "LogSoftmax", "LogSumExp")

# Every variant with every type; every operation, too.
OTHER_TYPES = (
    ("tile", "Softmax float64, LogSoftmax float16, LogSumExp bfloat16"),
    ("rows", "LogSumExp float64, Softmax float16, LogSoftmax bfloat16"),
    ("rows" + ONE_BY_ONE, "LogSoftmax float64, SoftmaxVjp float16 bfloat16"),
    ("block", "SoftmaxVjp float64, WeightedLogSumExp float16, Softmax bfloat16"),
    ("block" + ONE_BY_ONE, "LogSoftmaxVjp float64, LogSoftmaxVjp float16 bfloat16"),
    ("split", "WeightedLogSumExp float64, LogSumExp float16, Softmax bfloat16"),
    ("split" + ONE_BY_ONE, "Softmax float64, LogSoftmax float16 bfloat16"),
    ("columns", "SoftmaxVjp float64, LogSoftmax float16, Softmax bfloat16"),
    ("columns of 8", "Softmax float64, Softmax float16, LogSumExp bfloat16"),
    ("column cluster", "LogSoftmax float64, Softmax bfloat16"),
    ("split columns", "LogSoftmax float64, LogSumExp float16, SoftmaxVjp bfloat16"),
    ("cluster", "Softmax float64, LogSoftmax float16, SoftmaxVjp bfloat16"),
)


def has(operation: Operation, variant: str) -> bool:
    if variant == "cluster":
        return operation in WITH_CLUSTERS
    if variant == "column cluster" and not operation.has_results:
        return False
    return variant not in COLUMNS or operation in WITH_COLUMNS


def every_case() -> Iterator[Case]:
    for variant in VARIANTS:
        for operation in OPERATIONS:
            if has(operation, variant):
                yield Case(operation, "float32", variant)
    by_name = {operation.name: operation for operation in OPERATIONS}
    for variant, cover in OTHER_TYPES:
        for part in cover.split(", "):
            name, *dtypes = part.split()
            for dtype in dtypes:
                yield Case(by_name[name], dtype, variant)


@pytest.fixture(scope="module", params=every_case(), ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Have all tests of a case follow one another: they share its kernels."""
    value: Case = request.param
    return value


@pytest.fixture(scope="module", autouse=True)
def _errors_seen() -> Iterator[None]:
    yield
    print("\nlargest errors", *references.errors_seen(), sep="\n")


def judge(case: Case, given: Input, output: Output, where: object = "") -> None:
    expected, sign = inputs.expected(case, given)
    references.check(case.operation.name, output.y, expected, (str(case), where))
    if sign is not None:
        found = references.widened(output.outcome["sign"])
        np.testing.assert_array_equal(found, sign)


# ---- results and traffic ----


def test_shapes_around_the_limits(case):
    """Every other one in place, with a temperature or a mask."""
    for number, shape in enumerate(case.shapes()):
        temperature = 1.0
        if case.operation is not WEIGHTED_LOGSUMEXP:
            temperature = inputs.TEMPERATURES[number % 4]
        given = inputs.draw(case, shape.rows, shape.n, temperature)
        if case.operation.name in MASKED and number % 2:
            given.second = inputs.drawn_mask(shape.rows, shape.n)
        in_place = place_of(case, number)
        output = run(case, shape, given, in_place=in_place)
        judge(case, given, output, shape)
        check_traffic(case, shape, given, output, in_place)
        check_sectors(case, shape, output)


def place_of(case: Case, number: int) -> str | None:
    """Where results go: to a new array, or to an operand, the gradients' by turns."""
    if number % 2 == 0 or not case.operation.has_results:
        return None
    turn = number // 2 + (case.operation is LOG_SOFTMAX_VJP)
    return "second" if case.operation.inputs == 2 and turn % 2 else "x"


def check_traffic(
    case: Case, shape: Shape, given: Input, output: Output, in_place: str | None
) -> None:
    """Each byte of the operands is read once a launch, each result is written once.

    A mask is looked at again in rows without a finite peak: here, without an entry.
    Their results are written again. For its sum log_softmax's gradient needs dy alone.
    """
    traffic = output.outcome.traffic
    reading = traffic if case.operation.has_results else traffic[:1]
    for launch in reading:
        unused = case.operation is LOG_SOFTMAX_VJP and launch is not traffic[-1]
        assert unused or (launch["x"].reads == 1).all()
        if given.second is None:
            continue
        ordinary = np.ones(given.second.shape, bool)
        if case.operation.name in MASKED:
            ordinary &= given.second.any(axis=1, keepdims=True)
        size = given.second.itemsize
        judged = np.repeat(laid_out(ordinary, shape).ravel(), size)
        assert (launch["second"].reads[judged] == 1).all()
    for launch in traffic[len(reading) :]:
        assert not launch["x"].reads.any()
    for launch in traffic[:-1]:
        assert not any(w.writes.any() for name, w in launch.items() if name != "states")
    written = traffic[-1][in_place or "y"].writes
    again = case.operation.name in MASKED and given.second is not None
    assert (written == 1).all() or (again and set(written) == {1, 2})
    if "sign" in traffic[-1]:
        assert (traffic[-1]["sign"].writes == 1).all()


def check_sectors(case: Case, shape: Shape, output: Output) -> None:
    """No sector more than needed where rows begin on one; else one a request more.

    A warp's request for elements of so many bytes takes as many sectors. Masks are not
    judged; the states of chunks, which lie apart, are few beside rows that are long.
    """
    if "second" in output.outcome.memory.buffers and case.operation.inputs == 1:
        return
    report, first = output.outcome.reports[0], output.outcome.launches.launches[0]
    states = 0
    if "states" in output.outcome.memory.buffers:
        states = 3 * first.grid * (32 if case.variant in COLUMNS else 1)
    size = np.dtype(case.dtype).itemsize
    begins_on_sector = shape.n * size % 32 == 0 or shape.outer == 1
    if shape.shift:  # elements of a pack are read one after the other
        return
    if ONE_BY_ONE in case.variant or case.variant in COLUMNS:
        if shape.rows * shape.n >= 4096 and shape.inner % 32 in (0, 1, 31):
            assert report.sectors <= report.ideal_sectors * (size + 1) / size + states
    elif case.variant == "tile":  # a few elements are no whole word
        if case.operation is WEIGHTED_LOGSUMEXP:
            return  # lanes that took other branches write their signs apart
        assert report.sectors <= 1.1 * report.ideal_sectors + states
    elif begins_on_sector:
        assert report.sectors <= report.ideal_sectors + states
    if case.variant == "split" and shape.n == 2 * case.chunk:
        second = output.outcome.reports[1]
        if case.operation.has_results:
            assert second.sectors <= 1.15 * second.ideal_sectors


# ---- values ----


def test_values(case):
    """Hard and special rows in one batch, special rows with masks in another.

    One row comes alone, too, for the same bits (of columns two, and so otherwise laid
    out).
    """
    n = case.shapes()[0].n
    given = inputs.joined(inputs.hard(case, n), inputs.special(case, n))
    output = run(case, batch_of(case, len(given.x), n), given)
    judge(case, given, output, "values")
    chosen = [5, 0] if case.variant in COLUMNS else [0]
    one = run(case, batch_of(case, len(chosen), n), inputs.some(given, chosen))
    references.same_bits(output.y[chosen], one.y)
    if case.operation.name in MASKED:
        x = inputs.special(case, n).x
        x = np.concatenate([np.roll(x, 1, axis=0), x])
        given = Input(x, inputs.special_masks(len(x), n))
        judge(case, given, run(case, batch_of(case, len(x), n), given), "masked")
