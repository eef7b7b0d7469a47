"""The package's kernels in the interpreter: cross-entropy, by every variant for rows.

With all checks and under schedules; what it should give is in oracle/entropies.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import entropies
from oracle.arithmetic import Judge, assert_right

from fastsoftmax.cuda.choose import CROSS_ENTROPY
from gpu import execution, references
from gpu.cases import COLUMNS, ONE_BY_ONE, VARIANTS, Case, Input, Output, Shape, run
from gpu.execution import IN_ORDER, Array, Way
from gpu.references import computed

pytestmark = references.needs

CASES = [
    *(Case(CROSS_ENTROPY, "float32", v) for v in VARIANTS if v not in COLUMNS),
    Case(CROSS_ENTROPY, "float64", "tile"),
    Case(CROSS_ENTROPY, "bfloat16", "rows"),
    Case(CROSS_ENTROPY, "float64", "block"),
    Case(CROSS_ENTROPY, "float16", "cluster"),
    Case(CROSS_ENTROPY, "float64", "split" + ONE_BY_ONE),
]
FLUSHED = 2.0**-125


class Loss:
    """Rows with labels, or probabilities; their options differ with `number`."""

    def __init__(self, rows: int, n: int, dtype: str, number: int) -> None:
        rng = np.random.default_rng([rows, n, number])
        self.x = rng.normal(0, 8, (rows, n)).astype(dtype)
        self.x[rows // 2] += 60
        self.is_hard = number % 2 == 0
        self.smoothing = (0.0, 0.0, 0.1, 0.3)[number % 4]
        self.temperature = (1.0, 0.3)[number % 2]
        self.labels = rng.integers(0, n, rows)
        self.targets = rng.random((rows, n)).astype(dtype)
        self.weights = np.where(np.arange(rows) % 5 == 3, 0, rng.random(rows) + 0.5)
        self.mask = np.ones((rows, n), np.uint8)
        if number % 3 != 1:
            self.mask = (rng.random((rows, n)) < 0.8).view(np.uint8)
        self.mask[np.arange(rows), self.labels] = 1

    def input(self) -> Input:
        rows, number = (len(self.x),), computed(self.x.dtype)
        reads = {"mask": self.mask, "weights": self.weights}
        reads["left"] = self.mask.sum(axis=1, dtype=np.int64)
        reads["total"] = np.array([2.5])
        if self.is_hard:
            reads["labels"] = self.labels
        labels = "labels" if self.is_hard else None
        every = labels, "weights", "total", "losses", "parts"
        scale, smoothing = np.float64(1 / self.temperature), np.float64(self.smoothing)
        second = None if self.is_hard else self.targets
        writes: dict[str, Any] = {"losses": (rows, number), "parts": (rows, np.float64)}
        extra = *every, scale, "mask", "left", smoothing
        return Input(self.x, second, self.temperature, extra, reads, writes)

    def judge(self, output: Output, with_y: bool) -> None:
        right = entropies.batch(
            self.x,
            self.labels if self.is_hard else self.targets,
            where=self.mask.view(bool),
            temperature=self.temperature,
            label_smoothing=self.smoothing,
            sample_weight=self.weights,
        )
        for name in ("losses", "parts"):
            assert_right(output.outcome[name], right.losses)
        if with_y:
            value, allowed = (each / 2.5 for each in right.grad)
            grad = Judge(value, allowed + FLUSHED)
            assert_right(output.y, grad.rounded_to(output.y.dtype))


def launch(case: Case, shape: Shape, loss: Loss, way: Way = IN_ORDER) -> Output:
    return run(case, shape, loss.input(), way)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_traffic(case):
    for number, shape in enumerate(case.shapes()):
        loss = Loss(shape.rows, shape.n, case.dtype, number)
        with_y = number != 2
        output = run(case, shape, loss.input(), with_y=with_y)
        loss.judge(output, with_y)
        check_traffic(loss, output, with_y)


def check_traffic(loss: Loss, output: Output, with_y: bool) -> None:
    """Each score and target is read once a launch, each result written once."""
    traffic = output.outcome.traffic
    reading = traffic if with_y else traffic[:1]
    for each in reading:
        assert (each["x"].reads == 1).all()
        assert loss.is_hard or (each["second"].reads == 1).all()
    for name in ("losses", "parts", *(["y"] if with_y else [])):
        assert (traffic[-1][name].writes == 1).all()
        assert not any(each[name].writes.any() for each in traffic[:-1])


@pytest.mark.parametrize(
    ("variant", "shape"),
    [
        ("tile", Shape(130, 5)),
        ("rows", Shape(5, 40)),
        ("block", Shape(2, 1028)),
        ("cluster", Shape(1, 4096)),
        ("split" + ONE_BY_ONE, Shape(1, 4099)),
    ],
    ids=str,
)
def test_any_order(variant, shape):
    case = Case(CROSS_ENTROPY, "float32", variant)
    loss = Loss(shape.rows, shape.n, "float32", 2)
    results: list[Array] = []
    for seed in (1, 2, 3):
        output = launch(case, shape, loss, Way(seed, perturb=seed < 3))
        loss.judge(output, True)
        results.append(output.y)
    references.same_bits(launch(case, shape, loss).y, results[-1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sum.products += sum.targets * apart(from, to);", ";"),
        ("(double)this->scaled(from) - (double)this->scaled(to)", "0"),
        ("item->x, index) ? (Real)0 : t;", "item->x, index) ? t : t;"),
        ("fused(t, row.keep, row.share)", "t"),
        ("row.targets, -item.t)", "(Real)1, -item.t)"),
        ("-sum.products;", "0;"),
    ],
    ids=["moved", "apart", "masked", "smoothed", "sum of targets", "products"],
)
def test_a_broken_kernel_is_found(old, new):
    case, shape = Case(CROSS_ENTROPY, "float32", "rows"), Shape(5, 40)
    text = execution.source()
    assert text.count(old) == 1
    found = 0
    for number in (2, 3):
        loss = Loss(shape.rows, shape.n, "float32", number)
        try:
            output = launch(case, shape, loss, Way(text=text.replace(old, new)))
            loss.judge(output, True)
        except AssertionError:
            found += 1
    assert found
