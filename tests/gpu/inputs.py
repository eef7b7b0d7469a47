"""Rows to run the softmaxes and their gradients on, and what they should give."""

from __future__ import annotations

import numpy as np
from oracle.softmaxes import exact

from fastsoftmax import _formulas
from gpu import references
from gpu.cases import Case, Input
from gpu.execution import Array
from gpu.references import WIDE, Expected, by_table, computed, finfo, unit, widened

INF, NAN = np.inf, np.nan
GRADIENTS = ("SoftmaxVjp", "LogSoftmaxVjp")
TEMPERATURES = (1.0, 0.3, 1e3, 1e-3)


def draw(case: Case, rows: int, n: int, temperature: float = 1.0) -> Input:
    """Ordinary numbers; for one operand of two, of both signs."""
    rng = np.random.default_rng([rows, n])
    x = rng.normal(0, 4, (rows, n)) * temperature
    name = case.operation.name
    if name in GRADIENTS:
        y, dy = _results(name, x / temperature), rng.normal(0, 1, (rows, n))
        dy *= 10.0 ** rng.uniform(-2, 1, (rows, n))
        return Input(y.astype(case.dtype), dy.astype(case.dtype), temperature)
    if name == "WeightedLogSumExp":
        weights = np.round(rng.normal(0.5, 1, (rows, n)), 2)
        return with_sign(x.astype(case.dtype), weights.astype(case.dtype))
    return Input(x.astype(case.dtype), None, temperature)


def with_sign(x: Array, weights: Array) -> Input:
    sign = {"sign": ((len(x),), x.dtype)}
    return Input(x, weights, extra=("sign",), writes=sign)


def _results(name: str, x: Array) -> Array:
    with np.errstate(all="ignore"):
        results = exact(x)
        chosen = results.softmax if name == "SoftmaxVjp" else results.log_softmax
        return chosen.astype(np.float64)


def drawn_mask(rows: int, n: int) -> Array:
    """About half; the second row, if there is one, whole, the third not at all."""
    mask = np.random.default_rng([rows, n]).random((rows, n)) < 0.6
    mask[1:2] = True
    mask[2:3] = False
    return mask.view(np.uint8)


def joined(a: Input, b: Input) -> Input:
    second = None
    if a.second is not None and b.second is not None:
        second = np.concatenate([a.second, b.second])
    return _like(a, np.concatenate([a.x, b.x]), second)


def some(given: Input, rows: list[int]) -> Input:
    second = None if given.second is None else given.second[rows]
    return _like(given, given.x[rows], second)


def _like(given: Input, x: Array, second: Array | None) -> Input:
    if given.writes and second is not None:
        return with_sign(x, second)
    return Input(x, second, given.temperature)


# ---- rows that are hard to get right ----


def hard(case: Case, n: int) -> Input:
    """Finite rows; for the gradients cancellation, zeros and large numbers."""
    name = case.operation.name
    if name in GRADIENTS:
        return _hard_gradients(case, n)
    most, top = float(finfo(case.dtype).max), 1e30 if case.dtype != "float16" else 6e4
    ordinary = np.arange(n) * 37 % 64 / 8 - 4.0
    rows = [np.random.default_rng(n).normal(0, 4, n)]
    rows += [np.full(n, value) for value in (0.1, most, -most)]
    for place, large, rest in (
        (0, 0.0, -20.0),
        (n - 1, 3.0, -37.0),
        (n // 2, most, -most),
        (n // 3, -most / 2, -most),
        (n // 2, top, 0.0),
    ):
        row = np.full(n, rest)
        row[place] = large
        rows.append(row)
    rows += [ordinary * 10, np.linspace(-86, 3, n), ordinary + 100, ordinary / 1024]
    x = _few(rows, n).astype(case.dtype)
    if name != "WeightedLogSumExp":
        return Input(x)
    signs = np.where(np.arange(n) % 3 == 1, -0.5, 1.0)
    return with_sign(x, np.tile(signs, (len(x), 1)).astype(case.dtype))


def _hard_gradients(case: Case, n: int) -> Input:
    name = case.operation.name
    rng = np.random.default_rng(n)
    x = rng.normal(0, 4, (8, n))
    dy = rng.normal(0, 1, (8, n))
    x[1], x[2, 1:] = 0.5, x[2, 0] - 500
    dy[3], dy[4, 0] = 0.7, 1e4
    dy[5] += 3e4
    dy[6, ::2] *= 1e-4
    x[7] -= 30 * (np.arange(n) % 2)
    y = _results(name, x)
    if name == "LogSoftmaxVjp":
        y = np.where(y < -400, -INF, y)
    return Input(y.astype(case.dtype), dy.astype(case.dtype))


# ---- special values ----


def special(case: Case, n: int) -> Input:
    """NaN and infinities first, amid and last; the most telling rows first."""
    if case.operation.name in GRADIENTS:
        return _special_gradients(case, n)
    x = _few(_special_rows(n), n).astype(case.dtype)
    if case.operation.name != "WeightedLogSumExp":
        return Input(x)
    weights = np.ones(x.shape)
    weights[:, 1::3], weights[1::2, 2::3] = 0, -2
    return with_sign(x, weights.astype(case.dtype))


def _special_rows(n: int) -> list[Array]:
    ordinary = np.arange(n) * 37 % 64 / 8 - 4.0

    def row(rest: Array | float, *entries: tuple[int, float]) -> Array:
        result = np.full(n, rest) if isinstance(rest, float) else rest.copy()
        for place, value in entries:
            result[place] = value
        return result

    first, amid, last = 0, n // 2, n - 1
    return [
        row(-INF),
        row(ordinary, (last, NAN)),
        row(ordinary, (first, INF)),
        row(ordinary, (amid, -INF)),
        row(-INF, (last, 1.5)),
        row(-INF, (amid, INF)),
        row(ordinary, (first, INF), (last, NAN)),
        row(ordinary, (first, INF), (last, INF)),
        row(NAN),
        row(INF),
        row(ordinary, (first, NAN)),
        row(ordinary, (amid, NAN)),
        row(ordinary, (amid, INF)),
        row(ordinary, (last, INF)),
        row(ordinary, (first, -INF)),
        row(ordinary, (last, -INF)),
        row(-INF, (first, NAN)),
        row(ordinary, (first, INF), (amid, -INF)),
    ]


def _special_gradients(case: Case, n: int) -> Input:
    rng = np.random.default_rng(n)
    y = _results(case.operation.name, rng.normal(0, 3, (12, n)))
    dy = rng.normal(0, 1, (12, n))
    for row, values in enumerate(((NAN,), (INF,), (-INF,), (INF, INF), (INF, -INF))):
        places = (row * 5 + 7 * np.arange(len(values))) % n
        dy[2 * row, places] = values
    y[1, n // 2] = NAN
    y[3, n - 1] = INF if case.operation.name == "SoftmaxVjp" else -INF
    y[5] = 0 if case.operation.name == "SoftmaxVjp" else -INF
    return Input(y.astype(case.dtype), dy.astype(case.dtype))


def special_masks(rows: int, n: int) -> Array:
    """Some, all but those, nothing, everything, and so on: a mask for each row."""
    some = np.arange(n) % 3 != 1
    each = (some, ~some, np.zeros(n, bool), np.ones(n, bool))
    return np.array([each[row % 4] for row in range(rows)]).view(np.uint8)


def _few(rows: list[Array], n: int) -> Array:
    """As many as take a moment, but nine."""
    return np.array(rows[: max(9, 24_000 // n)])


# ---- what they should give ----


def expected(case: Case, given: Input) -> tuple[Expected, Array | None]:
    """The results, and the signs of weighted sums."""
    name = case.operation.name
    if name in GRADIENTS:
        assert given.second is not None
        return (
            references.gradients(name, given.x, given.second, given.temperature),
            None,
        )
    if name == "WeightedLogSumExp":
        assert given.second is not None
        return _weighted(given.x, given.second)
    if given.second is None and np.isfinite(widened(given.x)).all():
        found = references.softmaxes(name, given.x, given.temperature)
    else:
        found = _by_table(name, given)
    return found, None


def _by_table(name: str, given: Input) -> Expected:
    x = references.divided(given.x, given.temperature)
    kept = np.ones(x.shape, bool) if given.second is None else given.second.view(bool)
    with np.errstate(all="ignore"):
        rows = [
            by_table(references.EXACT_NAMES[name], row, mask)
            for row, mask in zip(x, kept, strict=True)
        ]
        value = np.array(rows, WIDE)
        scale = abs(value)
        if name == "LogSumExp":
            top = np.where(kept, x, -INF).max(axis=-1).astype(WIDE)
            scale = np.maximum(abs(top), abs(value - top))
        scale = np.where(np.isfinite(scale), scale, 1)
    number = computed(given.x.dtype)
    allowed = references.ulp_allowed(name, number)
    return Expected(value, unit(scale, number), allowed)


def _weighted(a: Array, b: Array) -> tuple[Expected, Array]:
    expected, sign = references.weighted(a, b)
    with np.errstate(all="ignore"):
        log, special_sign = _formulas.logsumexp(
            widened(a).copy(),
            (1,),
            widened(b).copy(),
            keepdims=False,
            return_sign=True,
            where=None,
        )
    special = ~np.isfinite(expected.value)
    expected.value[special] = log[special]
    for part in (expected.units, expected.beside):
        part[~np.isfinite(part) | special] = finfo(computed(a.dtype)).eps
    return expected, np.where(special, special_sign, sign)
