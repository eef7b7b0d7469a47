"""Numbers from cells: ratios, geometric means, targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from .cases import Case
from .machine import largest_cache
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
    """What was to be reached, in one cell."""

    what: str
    cell: str
    value: float
    wanted: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether it was."""
        if self.at_least:
            return self.value >= self.wanted
        return self.value <= self.wanted


def targets(cells: list[Cell]) -> list[Target]:
    """Return every target that the cells tell something about."""
    found = [*_call_cost(cells), *_in_cache(cells), *_out_of_cache(cells)]
    return [*found, *_two_threads(cells), *_flatness(cells)]


def _against(
    cells: Iterable[Cell], limit: str, what: str, wanted: float, at_least: bool
) -> Iterator[Target]:
    for cell in cells:
        if OURS in cell.times and limit in cell.times:
            value = cell.times[OURS][0] / cell.times[limit][0]
            value = 1 / value if at_least else value
            yield Target(what, cell.case.name, value, wanted, at_least)


def _plain(case: Case, call: str) -> bool:
    """Warm float32 softmax of rows, one thread: where targets are set."""
    return (case.op, case.dtype, case.call, case.cache, case.threads) == (
        "softmax",
        "float32",
        call,
        "warm",
        1,
    ) and case.axis_word == "last"


def _call_cost(cells: list[Cell]) -> Iterator[Target]:
    small = [c for c in cells if _plain(c.case, "default") and c.case.size == 10]
    what = "ten elements: our time over np.exp's"
    yield from _against(small, "np.exp", what, 1.5, False)


def _in_cache(cells: list[Cell]) -> Iterator[Target]:
    some = [
        cell
        for cell in cells
        if _plain(cell.case, "out=")
        and cell.case.n >= 1000
        and cell.case.size >= 1 << 14
        and 2 * cell.case.nbytes <= 1 << 20
    ]
    what = "in cache: three careless passes' time over ours"
    yield from _against(some, "three passes", what, 0.85, True)


def _out_of_cache(cells: list[Cell]) -> Iterator[Target]:
    some = [
        cell
        for cell in cells
        if _plain(cell.case, "out=") and cell.case.nbytes > largest_cache()
    ]
    what = "out of cache: np.copyto's time over ours"
    yield from _against(some, "copy", what, 1.0, True)
    what = "out of cache: stream copy's time over ours"
    yield from _against(some, "stream copy", what, 0.75, True)


def _two_threads(cells: list[Cell]) -> Iterator[Target]:
    single = {c.case.name: c for c in cells if OURS in c.times}
    for cell in cells:
        case = cell.case
        fits = case.size >= 1 << 18 and 2 * case.nbytes <= largest_cache() // 2
        if case.threads != 2 or case.call != "out=" or not fits:
            continue
        other = single.get(case.name.replace("threads=2", "threads=1"))
        if other and OURS in cell.times:
            value = other.times[OURS][0] / cell.times[OURS][0]
            yield Target("two threads over one", case.name, value, 1.8, True)


def _flatness(cells: list[Cell]) -> Iterator[Target]:
    """Compare ns per element of rows of at least 64, 64 KiB and more."""
    some = [
        cell
        for cell in cells
        if _plain(cell.case, "out=")
        and OURS in cell.times
        and cell.case.nbytes >= 1 << 16
        and cell.case.n >= 64
    ]
    if len(some) < 2:
        return
    some.sort(key=lambda cell: ns_per_element(cell, OURS))
    low, high = (ns_per_element(cell, OURS) for cell in (some[0], some[-1]))
    shapes = " over ".join(cell.case.name.split()[2] for cell in (some[-1], some[0]))
    what = "flatness: largest over smallest ns per element"
    yield Target(what, shapes, high / low, 1.5, False)
