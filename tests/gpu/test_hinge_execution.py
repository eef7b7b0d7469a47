"""The package's kernels in the interpreter: the hinge losses.

Every variant for rows, the positive among the scores or apart; see test_execution.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fastsoftmax.cuda.choose import HINGE_LARGEST, HINGE_SUM
from gpu import execution, references
from gpu.cases import (
    COLUMNS,
    ONE_BY_ONE,
    VARIANTS,
    Case,
    Input,
    Output,
    Shape,
    batch_of,
    run,
)
from gpu.execution import IN_ORDER, Array, Way
from gpu.references import Expected, computed, finfo

pytestmark = references.needs

INF, NAN = np.inf, np.nan
NOTHING, GRADIENT, PAIRS = 0, 1, 2
LARGEST, SUM = HINGE_LARGEST, HINGE_SUM
FORMS = ("labels", "apart", "column 0")

FOR_ROWS = [v for v in VARIANTS if v not in (*COLUMNS, "cluster")]
CASES = [
    *(Case(op, "float32", v) for v in FOR_ROWS for op in (SUM, LARGEST)),
    Case(SUM, "float64", "tile"),
    Case(LARGEST, "bfloat16", "tile"),
    Case(LARGEST, "float64", "rows"),
    Case(SUM, "float16", "rows"),
    Case(SUM, "bfloat16", "block"),
    Case(LARGEST, "float16", "block" + ONE_BY_ONE),
    Case(LARGEST, "float64", "block"),
    Case(SUM, "float64", "split" + ONE_BY_ONE),
    Case(LARGEST, "bfloat16", "split" + ONE_BY_ONE),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    value: Case = request.param
    return value


@pytest.fixture(scope="module", autouse=True)
def _errors_seen() -> Iterator[None]:
    yield
    print("\nlargest errors", *references.errors_seen(), sep="\n")


# ---- a loss ----


@dataclass
class Loss:
    """Scores and options; a label outside its row makes the positive NaN."""

    scores: Array
    form: str
    margin: float = 1.0
    p: int = 1
    written: int = GRADIENT
    mask: Array | None = None
    weights: Array | None = None
    scale: float = 1.0
    labels: Array = field(init=False)
    positives: Array = field(init=False)

    def __post_init__(self) -> None:
        rows, n = self.scores.shape
        rng = np.random.default_rng([rows, n])
        self.labels = np.zeros(rows, np.int64)
        if self.form == "labels":
            self.labels = rng.integers(0, n, rows)
        self.positives = rng.normal(0, 1, rows).astype(self.scores.dtype)

    @property
    def known(self) -> Array:
        """Where the positive is in the row."""
        inside = (self.labels >= 0) & (self.labels < self.scores.shape[1])
        return np.full(len(self.scores), self.form != "apart") & inside

    def positive_scores(self) -> Array:
        if self.form == "apart":
            return self.positives
        places = np.where(self.known, self.labels, 0)
        found = np.take_along_axis(self.scores, places[:, None], axis=1)[:, 0]
        return np.where(self.known, found, found.dtype.type(NAN))

    def expected(self, largest: bool) -> references.Hinge:
        counted = np.ones(self.scores.shape, bool)
        if self.mask is not None:
            counted = self.mask.view(bool).copy()
        counted[self.known, self.labels[self.known]] = False
        rows = len(self.scores)
        return references.hinge(
            self.scores,
            self.positive_scores(),
            counted,
            margin=float(computed(self.scores.dtype).type(self.margin)),
            p=self.p,
            largest=largest,
            weights=np.ones(rows) if self.weights is None else self.weights,
            scale=self.scale,
        )

    def input(self) -> Input:
        dtype, number = self.scores.dtype, computed(self.scores.dtype)
        reads = {
            "positives": self.positives if self.form == "apart" else None,
            "labels": self.labels if self.form == "labels" else None,
            "weights": self.weights,
        }
        rows = (len(self.scores),)
        writes: dict[str, Any] = {"losses": (rows, number), "parts": (rows, np.float64)}
        if self.form == "apart" and self.written == GRADIENT:
            writes["out_positives"] = (rows, dtype)
        there = {name: array for name, array in reads.items() if array is not None}

        def place(*names: str) -> list[str | None]:
            return [name if name in there or name in writes else None for name in names]

        extra = (
            *place("labels", "weights", "total", "losses", "parts"),
            np.float64(self.scale),
            *place("positives", "out_positives"),
            number.type(self.margin),
            np.int32(self.p),
            np.int32(self.written),
        )
        return Input(self.scores, self.mask, 1.0, extra, there, writes)


def draw(rows: int, n: int, dtype: str, **options: Any) -> Loss:
    """Scores about which a margin of 1 says something, ties and kinks included."""
    rng = np.random.default_rng([rows, n, 1])
    x = rng.normal(0, 1, (rows, n))
    x = np.where(rng.random(x.shape) < 0.3, np.round(4 * x) / 4, x)
    return Loss(x.astype(dtype), **options)


def within(value: Array, dtype: Any, p: int, n: int, more: float = 0.5) -> Expected:
    """(p + more) eps, what sums of n terms lose, and flushed terms."""
    info = finfo(computed(dtype))
    with np.errstate(all="ignore"):
        of_sum = n * (2.0**-46 if info.nmant == 23 else 2.0**-62)
        units = np.where(np.isfinite(value), abs(value) * info.eps, info.eps)
        units = np.maximum(units, info.smallest_normal * info.eps)
        beside = np.where(np.isfinite(value), abs(value) * of_sum, 0)
        beside = beside + n * info.smallest_normal
    return Expected(value, units, p + more, beside)


def judge(case: Case, loss: Loss, shape: Shape, output: Output) -> None:
    largest = case.operation is LARGEST
    expected, where = loss.expected(largest), (str(case), shape)
    outcome, dtype, p, n = output.outcome, case.dtype, loss.p, shape.n
    name = f"{case.operation.name} p={p}"
    of_loss = within(expected.losses, dtype, p, n)
    references.check(name, outcome["losses"], of_loss, where)
    references.check(name, outcome["parts"], of_loss, where)
    if loss.written == PAIRS:
        pairs = within(expected.pairs, dtype, p, 1, 1.5)
        references.check(f"{name} pairs", output.y, pairs, where)
    if loss.written != GRADIENT:
        return
    value, known = expected.gradient.copy(), loss.known
    value[known, loss.labels[known]] = expected.of_positives[known]
    gradient = within(value, dtype, p, n, 1.0)
    references.check(f"{name} gradient", output.y, gradient, where)
    if loss.form == "apart":
        of_positives = within(expected.of_positives, dtype, p, n, 1.0)
        references.check(name, outcome["out_positives"], of_positives, where)


def launch(case: Case, shape: Shape, loss: Loss, way: Way = IN_ORDER) -> Output:
    return run(case, shape, loss.input(), way, with_y=loss.written != NOTHING)


# ---- tests ----


def options_of(case: Case, number: int, rows: int, n: int) -> dict[str, Any]:
    """Drawn options: the cases together meet most of their combinations."""
    rng = np.random.default_rng([CASES.index(case), number])
    outputs = (GRADIENT, GRADIENT, PAIRS if case.operation is SUM else NOTHING, NOTHING)
    masked, weighted = rng.random(2) < 0.5
    return {
        "form": FORMS[rng.integers(3)],
        "p": int(rng.integers(1, 3)),
        "written": outputs[rng.integers(4)],
        "margin": (1.0, 0.1)[rng.integers(2)],
        "mask": (rng.random((rows, n)) < 0.7).view(np.uint8) if masked else None,
        "weights": rng.uniform(-1, 2, rows) if weighted else None,
        "scale": (1.0, 1 / 7)[rng.integers(2)],
    }


def test_shapes_around_the_limits(case):
    for number, shape in enumerate(case.shapes()):
        options = options_of(case, number, shape.rows, shape.n)
        loss = draw(shape.rows, shape.n, case.dtype, **options)
        output = launch(case, shape, loss)
        judge(case, loss, shape, output)
        check_traffic(case, loss, output)
        check_sectors(case, loss, output)


def check_traffic(case: Case, loss: Loss, output: Output) -> None:
    """Each byte of the scores is read once, each byte of the results written once.

    But for positives, which all threads of a row read, as they do labels and weights.
    A second launch reads scores again for results, of "largest" not even then.
    """
    traffic = output.outcome.traffic
    ordinary = np.ones(loss.scores.shape, bool)
    ordinary[loss.known, loss.labels[loss.known]] = False
    for number, each in enumerate(traffic):
        reads = each["x"].reads.reshape(*loss.scores.shape, -1)[ordinary]
        again = loss.written != NOTHING and case.operation is SUM
        assert (reads == (1 if number == 0 or again else 0)).all()
        if loss.mask is not None and number == 0:
            assert (each["second"].reads == 1).all()
    written = list(loss.input().writes or {})
    for name in [*written, *(["y"] if loss.written != NOTHING else [])]:
        assert (traffic[-1][name].writes == 1).all()
        assert not any(each[name].writes.any() for each in traffic[:-1])


def check_sectors(case: Case, loss: Loss, output: Output) -> None:
    """No sector more than needed, but for the states of chunks.

    Not judged: masks, rows that begin amid a sector, and the positives of the rows of a
    tile, which lie apart.
    """
    rows, n = loss.scores.shape
    amid = n * loss.scores.itemsize % 32 != 0 and rows > 1
    apart = case.variant == "tile" and loss.form != "apart"
    if loss.mask is not None or amid or apart or ONE_BY_ONE in case.variant:
        return
    split = case.variant == "split"
    states = 5 * output.outcome.launches.launches[0].grid if split else 0
    report = output.outcome.reports[0]
    assert report.sectors <= 1.1 * report.ideal_sectors + states


def special_scores(n: int) -> Array:
    """Rows of negatives with none, one or two special entries, or nothing else."""
    ordinary = np.arange(n) * 5 % 8 / 2 - 2.0
    rows = [ordinary, *(np.full(n, value) for value in (NAN, INF, -INF))]
    for place, value in ((1, NAN), (n - 1, INF), (n // 2, -INF), (n - 1, NAN)):
        row = ordinary.copy()
        row[place] = value
        rows.append(row)
    for first, last in ((INF, INF), (INF, NAN), (-INF, INF)):
        row = ordinary.copy()
        row[[1, -1]] = first, last
        rows.append(row)
    return np.array(rows)


def special_loss(case: Case, n: int, **options: Any) -> Loss:
    """Every positive with every row, and with every mask; labels outside the rows."""
    rows = special_scores(n)
    positives = (0.5, NAN, INF, -INF)
    if n > 1024:
        rows = rows[[0, 3, 5, 9]]
    scores = np.array([row for row in rows for _ in positives])
    masks = np.array([np.arange(n) % 3 != 1, np.arange(n) % 3 == 1, np.arange(n) < 0])
    loss = Loss(scores.astype(case.dtype), **options)
    given = np.tile(positives, len(rows)).astype(case.dtype)
    loss.positives = given
    if loss.form != "apart":
        np.put_along_axis(loss.scores, loss.labels[:, None], given[:, None], axis=1)
    if loss.form == "labels":
        loss.labels[[0, 4]] = n, -1
    if options.get("mask") is not None:
        loss.mask = masks[np.arange(len(scores)) // 2 % 3].view(np.uint8)
    return loss


def test_special_values(case):
    n = case.shapes()[0].n
    some = np.zeros(1, np.uint8)
    ways = [("labels", 1, None), ("apart", 2, some), ("column 0", 2, some)]
    if case.operation is SUM:
        ways.append(("labels", 2, some))
    for number, (form, p, mask) in enumerate(ways):
        written = PAIRS if number == 3 else GRADIENT
        loss = special_loss(case, n, form=form, p=p, mask=mask, written=written)
        shape = batch_of(case, len(loss.scores), n)
        judge(case, loss, shape, launch(case, shape, loss))


def test_special_weights():
    """A loss of 0 stays 0 whatever its weight; others are the product."""
    case = Case(SUM, "float32", "rows")
    n, rows = 36, 8
    for p, operation in itertools.product((1, 2), (SUM, LARGEST)):
        case = case._replace(operation=operation)
        loss = draw(rows, n, "float32", form="labels", p=p)
        loss.weights = np.array([0, NAN, INF, -1, 1e300, NAN, INF, 2.0])
        loss.scores[5:7] = -9
        loss.scores[[5, 6], loss.labels[5:7]] = 0
        output = launch(case, Shape(rows, n), loss)
        judge(case, loss, Shape(rows, n), output)
        assert (output.outcome["parts"][5:7] == 0).all()


def test_a_row_does_not_depend_on_its_batch(case):
    n = case.shapes()[0].n
    loss = draw(6, n, case.dtype, form="column 0", p=2)
    together = launch(case, batch_of(case, 6, n), loss)
    one = Loss(loss.scores[4:5], "column 0", p=2)
    alone = launch(case, batch_of(case, 1, n), one)
    references.same_bits(together.y[4:5], alone.y)
    for name in ("losses", "parts"):
        references.same_bits(together.outcome[name][4:5], alone.outcome[name])


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        (Case(LARGEST, "float32", "tile"), Shape(130, 5)),
        (Case(SUM, "float32", "rows"), Shape(5, 40)),
        (Case(LARGEST, "float64", "rows"), Shape(5, 40)),
        (Case(SUM, "float32", "block"), Shape(2, 1028)),
        (Case(LARGEST, "float32", "block" + ONE_BY_ONE), Shape(2, 515)),
        (Case(SUM, "float64", "split" + ONE_BY_ONE), Shape(1, 2051)),
    ],
    ids=str,
)
def test_any_order(case, shape):
    loss = draw(shape.rows, shape.n, case.dtype, form="labels", p=2)
    in_order = launch(case, shape, loss)
    for seed in (1, 2, 3, 4, 5):
        output = launch(case, shape, loss, Way(seed, perturb=True))
        judge(case, loss, shape, output)
    references.same_bits(launch(case, shape, loss, Way(6)).y, in_order.y)


@pytest.mark.parametrize(
    ("operation", "old", "new"),
    [
        (SUM, "Real t = (s + row.base.hi) + row.base.lo;", "Real t = s + row.base.hi;"),
        (SUM, "return index != row.label && kept", "return kept"),
        (LARGEST, "(equal ? a_first : a_larger)", "(equal ? !a_first : a_larger)"),
        (
            SUM,
            "if (item.s == -infinity<Real>() && !(row.base",
            "if (item.s > infinity<Real>() && !(row.base",
        ),
    ],
    ids=["rounded twice", "the positive counts", "the last of equals", "masked"],
)
def test_a_broken_kernel_is_found(operation, old, new):
    case, n = Case(operation, "float32", "tile"), 8
    text = execution.source()
    assert old in text
    way = Way(text=text.replace(old, new))
    special = special_loss(case, n, form="apart", p=1, mask=np.zeros(1, np.uint8))
    written = PAIRS if operation is SUM else GRADIENT
    ordinary = draw(128, n, "float32", form="labels", margin=0.1, written=written)
    wrong = []
    for loss in (ordinary, special):
        shape = Shape(len(loss.scores), n)
        output = launch(case, shape, loss, way)
        try:
            judge(case, loss, shape, output)
        except AssertionError as error:
            wrong.append(str(error))
    assert any(" wrong" in text for text in wrong)
