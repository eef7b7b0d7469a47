"""Rows that are hard to get right, and rows of special values, for each family."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import hinges
from .arithmetic import Array

INF, NAN = np.inf, np.nan
Rng = np.random.Generator
Shape = tuple[int, ...]
Case = Callable[[Rng, Shape, Any], tuple[Array, ...]]

# ---- logits ----

# Below the maximum, in which softmax is subnormal.
SUBNORMAL = {np.dtype(np.float32): (80, 110), np.dtype(np.float64): (700, 745)}


def of(function: Callable[[Rng, Shape], Array]) -> Case:
    """A case of one operand that does not ask for the type."""
    return lambda rng, shape, dtype: (function(rng, shape),)


def mixed(rng: Rng, shape: Shape) -> Array:
    """Rows that differ in everything: level, spread, sign."""
    level = rng.uniform(-300, 300, (shape[0], 1))
    return level + rng.choice([0.01, 1, 20], (shape[0], 1)) * rng.normal(size=shape)


def with_maximum(value: float) -> Case:
    def draw(rng: Rng, shape: Shape) -> Array:
        x = rng.normal(0, 8, shape)
        return x - x.max(axis=-1, keepdims=True) + value

    return of(draw)


def half_far_below(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, ...]:
    x = rng.normal(size=shape)
    low, high = SUBNORMAL.get(np.dtype(dtype), (5, 20))
    far = rng.uniform(low, high, x[:, 1::2].shape)
    x[:, 1::2] = x.max(axis=-1, keepdims=True) - far
    return (x,)


def one_above_many(rng: Rng, shape: Shape) -> Array:
    x = rng.uniform(-20, -12, shape)
    x[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = 0.3
    return x


def one_far_above_many(rng: Rng, shape: Shape) -> Array:
    x = rng.uniform(-60, -30, shape)
    x[:, -1] = 0
    return x


def log_probabilities(rng: Rng, shape: Shape) -> Array:
    return np.log(probabilities(rng.normal(0, 4, shape)))


def uniform(spread: float, by: float = 0) -> Case:
    return of(lambda rng, shape: rng.uniform(-spread, spread, shape) + by)


LOGITS: dict[str, Case] = {
    "ordinary": of(mixed),
    "uniform": uniform(30),
    "normal": of(lambda rng, shape: rng.normal(size=shape)),
    **{f"offset {by}": uniform(30, by) for by in (700, -700, 1000.5, 9999, -9999)},
    # The method changes at 200 (float32) and 1500 (float64).
    **{
        f"maximum {top}": with_maximum(top)
        for top in (199.9, -199.9, 200.1, -200.1, 1499.9, -1499.9, 1500.1, -1500.1)
    },
    "half far below": half_far_below,
    "constant": of(lambda rng, s: np.tile(rng.uniform(-99, 99, (s[0], 1)), s[1])),
    "rising": of(lambda rng, shape: np.sort(rng.uniform(-30, 30, shape), axis=-1)),
    "falling": of(lambda rng, shape: -np.sort(rng.uniform(-30, 30, shape), axis=-1)),
    "one above many": of(one_above_many),
    "one far above many": of(one_far_above_many),
    "log-probabilities": of(log_probabilities),
    "wide apart": uniform(1e4),
    "nearly equal": uniform(1e-5),
}


def probabilities(x: Array) -> Array:
    """By the usual formula, in double."""
    terms = np.exp(x - x.max(axis=-1, keepdims=True))
    return terms / terms.sum(axis=-1, keepdims=True)


# ---- results and their gradients ----


def gradients(rng: Rng, shape: Shape) -> Array:
    return rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-2, 1, shape)


def as_result(is_log: bool, x: Array, kept: Any = True) -> Array:
    """What softmax or log_softmax gives for x, and for what `where` takes out."""
    with np.errstate(all="ignore"):
        p = np.where(kept, probabilities(np.where(kept, x, -INF)), 0)
        return np.log(p) if is_log else p


def pairs(is_log: bool, spread: float = 3) -> Case:
    def draw(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
        return as_result(is_log, rng.normal(0, spread, shape)), gradients(rng, shape)

    return draw


def masked(is_log: bool) -> Case:
    """Of y `where` left some; of some rows all, of some nothing."""

    def draw(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
        kept = rng.random(shape) < 0.6
        kept[::5], kept[1::5] = False, True
        x = rng.normal(0, 3, shape)
        return as_result(is_log, x, kept), rng.normal(size=shape)

    return draw


def nearly_certain(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """One probability of nearly 1: its dy is nearly the sum."""
    x = rng.normal(-12 - np.log(shape[1]), 1, shape)
    x[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = 0
    return probabilities(x), rng.uniform(0.5, 2, shape)


def cancelling(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """A sum that is far smaller than its terms, and what double leaves of it."""
    y, dy = pairs(True)(rng, shape, dtype)
    dy = dy.astype(dtype).astype(np.float64)
    half = dy[:, ::2]
    dy[:, 1::2] = -half[:, : shape[1] // 2]
    dy[:, shape[1] // 2] += 2.0**-20
    return y, dy


LOWEST = {np.dtype(np.float32): -131, np.dtype(np.float64): -1000}
DEEP = {np.dtype(np.float32): (-104, -87), np.dtype(np.float64): (-745, -708)}


def far_below(power: int) -> Case:
    """Half of dy is 0, so that nothing but exp(y) sum(dy) is left there.

    That is exact down to the smallest normal number, though exp(y) alone be subnormal.
    """

    def draw(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
        dtype = np.dtype(dtype)
        y = rng.uniform(LOWEST[dtype], 0, shape)
        y[::3] = rng.uniform(*DEEP[dtype], y[::3].shape)
        y[1::3] = rng.uniform(-130, 0, y[1::3].shape)
        scale = float(np.finfo(dtype).max) ** (0.8 * power)
        dy = rng.uniform(0.5, 1, shape) * scale * (rng.random(shape) < 0.5)
        return y, dy

    return draw


# exp(y) of more, 1e18 or 1e153, counts as infinite.
LARGEST = {np.dtype(np.float32): 41, np.dtype(np.float64): 352}


def above_0(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    y, dy = pairs(True)(rng, shape, dtype)
    y[:, ::3] = rng.uniform(0, LARGEST[np.dtype(dtype)], y[:, ::3].shape)
    return y, dy


PROBABILITIES: dict[str, Case] = {
    "ordinary": pairs(False),
    "peaked": pairs(False, 12),
    "masked": masked(False),
    "nearly certain": nearly_certain,
}
LOGARITHMS: dict[str, Case] = {
    "ordinary": pairs(True),
    "peaked": pairs(True, 12),
    "masked": masked(True),
    "cancelling": cancelling,
    "far below 0": far_below(0),
    "far below 0, tiny dy": far_below(-1),
    "far below 0, huge dy": far_below(1),
    "above 0": above_0,
}

# ---- logits with weights ----


def weighted(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """Mostly positive weights, some 0; one short set of equal entries cancels."""
    a = mixed(rng, shape)
    b = rng.normal(1, 0.7, shape) * (rng.random(shape) < 0.8)
    if shape[1] > 300:
        return a, b
    a[shape[0] // 2] = a[shape[0] // 2, 0]
    b[shape[0] // 2] = (-1.0) ** np.arange(shape[1])
    return a, b


LEVELS = [0, 1, -3, 100, -250, 1499, 1501, -1499, -1501, 3000, -1e5, 1e10]


def awkward(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """Weights that vary, cancel, vanish, or are far apart."""
    rows = [_awkward_row(rng, shape[1], dtype) for _ in range(shape[0])]
    a, b = zip(*rows, strict=True)
    return np.array(a), np.array(b)


def _awkward_row(rng: Rng, n: int, dtype: Any) -> tuple[Array, Array]:
    a = rng.choice(LEVELS) + rng.choice([1e-3, 1, 10, 100, 1000]) * rng.normal(size=n)
    a = a.astype(dtype).astype(float)
    most = 300 if np.dtype(dtype) == np.float64 else 35
    info = np.finfo(dtype)
    ends = [float(info.max) / 2, -float(info.max) / 2, info.smallest_subnormal]
    kinds = [
        rng.normal(size=n),
        abs(rng.normal(size=n)),
        rng.normal(size=n) * 10.0 ** rng.uniform(-most, most, n),
        rng.choice([1.0, -1], n),
        rng.choice([*ends, 1.0, 0.0], n),
        rng.normal(size=n) * (rng.random(n) < 0.5),
        rng.normal(size=n) * 10.0 ** rng.integers(-most - 9, most),
    ]
    b = kinds[rng.integers(len(kinds))]
    if rng.random() < 0.3:
        a[rng.random(n) < 0.3] = -INF
    if rng.random() < 0.3:
        a[rng.random(n) < 0.4] = a.max()
    if rng.random() < 0.3:
        order, half = rng.permutation(n), n // 2
        a[order[:half]] = a[order[half : 2 * half]]
        b[order[:half]] = -b[order[half : 2 * half]]
    return a, b


WEIGHTED: dict[str, Case] = {"ordinary": weighted, "awkward": awkward}


def special_weights(n: int) -> tuple[Array, Array]:
    """The rows of the table; then special weights, beside entries of each kind."""
    rows, entries = special_rows(n), (NAN, INF, -INF, -1e4, 1.5)
    a = np.array([*rows, *(ordinary(n) for _ in range(6 * len(entries)))])
    b = np.ones(a.shape) + np.arange(n) % 3
    a[-5:, 0], b[-5:, 0] = (NAN, INF, INF, NAN, INF), (1, 1, -1, 0, 0)
    b[-5:, -1], b[-2:] = (INF, -INF, -INF, 1, 0), 0
    of_place = itertools.product((NAN, INF, -INF, 0.0, -1.0), entries)
    for i, (weight, entry) in enumerate(of_place, len(rows)):
        place = (0, n // 2, n - 1)[i % 3]
        a[i, place], b[i, place] = entry, weight
    b[:-5:2, n // 2] *= -1
    return a, b


# ---- logits with labels, or with targets ----

OF_ENTROPY = ["ordinary", "half far below", "one far above many", "wide apart"]
OF_ENTROPY += ["log-probabilities", "offset 1000.5"]


def with_targets(form: str, x: Array) -> tuple[Array, Array]:
    """A third of the labels are those of the largest logits; some targets are 0."""
    count, n = x.shape
    rng = np.random.default_rng([count, n])
    labels = rng.integers(0, n, count)
    labels[::3] = x[::3].argmax(axis=1)
    if form == "labels":
        return x, labels
    t = probabilities(rng.normal(0, 3, x.shape)) * (rng.random(x.shape) < 0.7)
    t[np.arange(count), labels] += 1 / n
    return x, t


# ---- scores ----


def scores(spread: float, at_margin: bool = False) -> Case:
    """Ties and kinks included; at s+ = s + margin nothing but low parts is left."""

    def draw(rng: Rng, shape: Shape, dtype: Any) -> tuple[Array, ...]:
        x = rng.normal(0, spread, shape)
        x = np.where(rng.random(shape) < 0.3, np.round(4 * x) / 4, x)
        if at_margin and shape[1] > 1:
            x = x.astype(dtype).astype(np.float64)
            x[:, 1] = x[:, 0] - 1
        return (x,)

    return draw


def draw_scores(
    shape: tuple[int, ...], dtype: Any = np.float64, spread: float = 1
) -> Array:
    """Of any shape."""
    [x] = scores(spread)(np.random.default_rng([*shape]), shape, dtype)
    return (abs(x) if np.dtype(dtype).kind == "u" else x).astype(dtype)


def draw_labels(shape: tuple[int, ...], classes: int) -> Array:
    return np.random.default_rng([*shape, classes]).integers(0, classes, shape)


SCORES: dict[str, Case] = {
    "ordinary": scores(1),
    "close": scores(0.01, at_margin=True),
    "far apart": scores(1000, at_margin=True),
}


# ---- special values ----


def ordinary(n: int) -> Array:
    """Numbers that every dtype holds exactly."""
    return np.arange(n) * 37 % 64 / 8 - 4.0


def with_entries(n: int, entries: dict[int, float], rest: float | None = None) -> Array:
    row = ordinary(n) if rest is None else np.full(n, rest)
    for place, value in entries.items():
        row[place] = value
    return row


def special_rows(n: int) -> list[Array]:
    """Rows for each line of the table, with the special entry first, amid and last."""
    rows = [np.full(n, value) for value in (NAN, INF, -INF)]
    for place in (0, n // 2, n - 1):
        rows += [with_entries(n, {place: value}) for value in (NAN, INF, -INF)]
        rows += [with_entries(n, {place: value}, -INF) for value in (NAN, INF, 1.5)]
    both = ((NAN, INF), (INF, NAN), (NAN, -INF), (INF, INF), (INF, -INF))
    rows += [with_entries(n, {0: first, n // 2: second}) for first, second in both]
    return rows


def masks(n: int) -> dict[str, Array]:
    """What `where` may leave: all, some, one, nothing."""
    some = np.arange(n) % 3 != 1
    return {
        "all": np.ones(n, bool),
        "some": some,
        "others": ~some,
        "first": np.arange(n) == 0,
        "not the first": np.arange(n) > 0,
        "nothing": np.zeros(n, bool),
    }


def special_logits(n: int) -> tuple[Array, ...]:
    return (np.array(special_rows(n)),)


IN_DY = [(NAN,), (INF,), (-INF,), (INF, INF), (INF, -INF), (NAN, INF)]
IN_Y = {False: [(NAN,), (INF,), (0.0, INF)], True: [(NAN,), (-INF,), (-INF, NAN)]}


def special_gradients(is_log: bool, n: int) -> tuple[Array, Array]:
    """In y or in dy, first, amid and last."""
    cases = [(1, values) for values in IN_DY] + [(0, v) for v in IN_Y[is_log]]
    places = sorted({0, n // 2, n - 1})
    rng = np.random.default_rng(n)
    given = pairs(is_log)(rng, (len(cases) * len(places), n), np.float64)
    for row, ((which, values), place) in enumerate(itertools.product(cases, places)):
        at = (place + 7 * np.arange(len(values))) % n
        given[which][row, at] = values
    return given


@functools.cache
def special_scores(n: int) -> Array:
    """Every positive with every row of negatives: none, one, two or all special."""
    plain = np.arange(n - 1) * 5 % 8 / 2 - 2.0
    rows = [plain, *(np.full(n - 1, value) for value in (NAN, INF, -INF))]
    places = {0, (n - 1) // 2, n - 2} if n > 1 else set()
    for place, value in itertools.product(places, (NAN, INF, -INF)):
        for rest in (plain.copy(), np.full(n - 1, -INF)):
            rest[place] = value
            rows.append(rest)
    for one, other in itertools.permutations((NAN, INF, -INF) if n > 1 else (), 2):
        row = plain.copy()
        row[[0, -1]] = one, other
        rows.append(row)
    return np.array([[s, *row] for s in (0.5, NAN, INF, -INF) for row in rows])


def labelled(x: Array) -> tuple[Array, Array]:
    """Move what is in column 0 to a place that a label names."""
    count, n = x.shape
    labels = np.random.default_rng([count, n]).integers(0, n, count)
    x, rows = x.copy(), np.arange(count)
    x[rows, labels], x[rows, 0] = x[rows, 0], x[rows, labels]
    return x, labels


def special_of_loss(n: int, variant: str) -> tuple[Array, ...]:
    """Where several terms are infinite, "max" may take any: no such row."""
    x = special_scores(n)
    if variant == "max":
        with np.errstate(all="ignore"):
            terms = hinges.batch(x, variant="sum").terms
        x = x[np.isposinf(terms).sum(axis=-1) < 2]
    return (x,)
