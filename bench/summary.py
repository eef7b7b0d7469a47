"""Numbers from cells: ratios, geometric means, targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from .cases import Case
from .peers import LIMITS, OURS
from .timing import Cell


def best_peer(cell: Cell) -> str | None:
    """Return the fastest library of a cell that is neither ours nor a limit."""
    peers = [name for name in cell.times if name != OURS and name not in LIMITS]
    return min(peers, key=lambda name: cell.times[name][0], default=None)


def ratio(cell: Cell) -> float | None:
    """Return how many times faster than the best peer we are; None without both."""
    peer = best_peer(cell)
    if peer is None or OURS not in cell.times:
        return None
    return cell.times[peer][0] / cell.times[OURS][0]


def geometric_mean(values: Iterable[float]) -> float:
    """Return the exponential of the mean logarithm; NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def ns_per_element(cell: Cell, library: str) -> float:
    """Return nanoseconds for each element of the input."""
    return cell.times[library][0] / cell.case.size * 1e9


class Group(NamedTuple):
    """Cells that have a word in common."""

    name: str
    mean: float
    slower: int
    cells: int


KEYS: tuple[Callable[[Case], str], ...] = (
    lambda case: "all",
    lambda case: case.op,
    lambda case: case.dtype,
    lambda case: f"{case.axis_word} axis",
    lambda case: f"{case.threads} thread" + "s" * (case.threads > 1),
    lambda case: case.call,
    lambda case: case.cache,
)


def groups(cells: Iterable[Cell]) -> list[Group]:
    """Return the geometric mean of ratios: of all cells, and of each group."""
    ratios = [(cell.case, found) for cell in cells if (found := ratio(cell))]
    result = []
    for key in KEYS:
        names = dict.fromkeys(key(case) for case, _ in ratios)
        for name in names:
            values = [value for case, value in ratios if key(case) == name]
            slower = sum(value < 1 for value in values)
            group = Group(name, geometric_mean(values), slower, len(values))
            result.append(group)
    return result


# ---- targets ----


class Target(NamedTuple):
    """What was to be reached, and what was, in each cell."""

    what: str
    wanted: float
    at_least: bool
    values: dict[str, float]

    def met(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value >= self.wanted if self.at_least else value <= self.wanted

    @property
    def worst(self) -> str:
        """Return the cell that is furthest from it."""
        choose = min if self.at_least else max
        return choose(self.values, key=lambda name: self.values[name])


def targets(cells: list[Cell], caches: dict[str, int]) -> list[Target]:
    """Return every target that the cells tell something about."""
    last = max(caches.values(), default=32 << 20)
    second = caches.get("L2", 1 << 20)
    rows = [cell for cell in cells if _is_out_of_rows(cell.case)]
    in_cache = [c for c in rows if c.case.n >= 1000 and _fits(c.case, 1 << 14, second)]
    large = [cell for cell in rows if cell.case.nbytes > last]
    small = [cell for cell in cells if _is_ten(cell.case)]
    found = [
        Target("ten elements: our time / np.exp's", 1.5, False, _over(small, "np.exp")),
        Target(
            "in cache: three careless passes' time / ours",
            0.85,
            True,
            _inverse(_over(in_cache, "three passes")),
        ),
        Target(
            "out of cache: np.copyto's time / ours",
            1.0,
            True,
            _inverse(_over(large, "copy")),
        ),
        Target(
            "out of cache: stream copy's time / ours",
            0.75,
            True,
            _inverse(_over(large, "stream copy")),
        ),
        Target("in cache: one thread / two", 1.8, True, _two_threads(cells, last // 2)),
        Target("ns per element: largest / smallest", 1.5, False, _flatness(rows)),
        Target("hinge: our time / np.max's", 1.3, False, _loss(cells, "np.max")),
        Target("hinge_grad: our time / np.copyto's", 2.0, False, _loss(cells, "copy")),
    ]
    return [target for target in found if target.values]


def _is_out_of_rows(case: Case) -> bool:
    """Tell where most targets are set: rows of float32, `out=`, one thread."""
    plain = (case.op, case.dtype, case.call, case.cache, case.threads)
    wanted = ("softmax", "float32", "out=", "warm", 1)
    return plain == wanted and case.axis_word == "last"


def _is_ten(case: Case) -> bool:
    plain = (case.op, case.dtype, case.call, case.size, case.threads)
    return plain == ("softmax", "float32", "default", 10, 1)


def _loss(cells: list[Cell], limit: str) -> dict[str, float]:
    """Compare losses of float32, one thread; each limit goes with one of the two."""
    some = [
        cell
        for cell in cells
        if cell.case.op.startswith("hinge")
        and (cell.case.dtype, cell.case.threads) == ("float32", 1)
    ]
    return _over(some, limit)


def _fits(case: Case, least_size: int, cache: int) -> bool:
    return case.size >= least_size and 2 * case.nbytes <= cache


def _over(cells: list[Cell], limit: str) -> dict[str, float]:
    return {
        cell.case.name: cell.times[OURS][0] / cell.times[limit][0]
        for cell in cells
        if OURS in cell.times and limit in cell.times
    }


def _inverse(values: dict[str, float]) -> dict[str, float]:
    return {name: 1 / value for name, value in values.items()}


def _two_threads(cells: list[Cell], cache: int) -> dict[str, float]:
    """Compare `out=` calls on work that is large enough for two threads."""
    ours = {cell.case: cell.times[OURS][0] for cell in cells if OURS in cell.times}
    found = {}
    for case, seconds in ours.items():
        single = replace(case, threads=1)
        counts = case.threads == 2 and case.call == "out=" and single in ours
        if counts and _fits(case, 1 << 18, cache):
            found[case.name] = ours[single] / seconds
    return found


def _flatness(rows: list[Cell]) -> dict[str, float]:
    """Compare rows of at least 64, arrays of 64 KiB and more, each with the best."""
    values = {
        cell.case.name: ns_per_element(cell, OURS)
        for cell in rows
        if OURS in cell.times and cell.case.nbytes >= 1 << 16 and cell.case.n >= 64
    }
    if len(values) < 2:
        return {}
    best = min(values.values())
    return {name: value / best for name, value in values.items()}
