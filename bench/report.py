"""Results in words: tables, targets, what moved between two runs."""

from __future__ import annotations

from collections.abc import Iterator

from .peers import LIMITS, NAMES, OURS
from .results_file import Results
from .summary import (
    best_peer,
    geometric_mean,
    groups,
    ns_per_element,
    ratio,
    targets,
)
from .timing import Cell

# Changes below this are as likely the machine's as ours.
NOISE = 0.05
# Load average beyond which others disturb.
BUSY = 0.3
# Cells of which every library is shown without being asked for.
FEW = 12


def report(results: Results, each: bool) -> str:
    """Return everything there is to say, worst cells first."""
    parts = [
        "\n".join(_heading(results)),
        "\n".join(speed_table(results.cells)),
        "\n".join(group_table(results.cells)),
        "\n".join(target_table(results, each)),
        "\n".join(accuracy_table(results, ("uniform", "normal"))),
        "\n".join(accuracy_table(results, ("peaked",))),
        "\n".join(_notes(results)),
    ]
    if each or len(results.cells) <= FEW:
        parts.insert(1, "\n\n".join(map(library_table, results.cells)))
    return "\n\n".join(part for part in parts if part)


def _heading(results: Results) -> Iterator[str]:
    machine = results.machine
    sizes = ", ".join(f"{n} {b >> 10} KiB" for n, b in machine["caches"].items())
    yield f"{machine['processor']} x {machine['processors']}, {sizes}"
    yield f"ISA {machine['isa']}, Python {machine['python']}, {machine['system']}"
    if max(machine.get("load") or [0]) > BUSY:
        yield f"the machine was busy before the run: load {machine['load']}"
    yield ", ".join(f"{name} {version}" for name, version in results.versions.items())
    for name, why in results.absent.items():
        yield f"without {name}: {why}"


def speed_table(cells: list[Cell]) -> Iterator[str]:
    """Lines of how many times faster than the best peer, the worst first."""
    rows = [(found, cell) for cell in cells if (found := ratio(cell))]
    if not rows:
        return
    yield " best/ours   ours     best  (ns per element)"
    for value, cell in sorted(rows, key=lambda row: row[0]):
        peer = best_peer(cell)
        assert peer is not None
        yield (
            f"{value:8.2f}x {_ns(cell, OURS)} {_ns(cell, peer)} {peer:12} "
            f"{cell.case.name}"
        )


def _ns(cell: Cell, library: str) -> str:
    value = ns_per_element(cell, library)
    return f"{value:8.3f}" if value < 10 else f"{value:8.0f}"


def library_table(cell: Cell) -> str:
    """Every library's time in a cell, the fastest first."""
    lines = [cell.case.name]
    for name in sorted(cell.times, key=lambda name: cell.times[name][0]):
        seconds, spread = cell.times[name]
        line = f"  {name:12} {_ns(cell, name)} ns/element {_time(seconds)} a call"
        line += f"  +-{spread / 2:4.0%}"
        if OURS in cell.times and name != OURS:
            line += f"  {seconds / cell.times[OURS][0]:7.2f} of ours"
        if name in LIMITS:
            line += "  (a limit, not a peer)"
        if name in cell.busy:
            line += f"  kept {cell.busy[name]} processors busy"
        lines.append(line)
    lines += [f"  {name:12} failed: {why}" for name, why in cell.failed.items()]
    for why in dict.fromkeys(cell.unsupported.values()):
        names = [name for name, reason in cell.unsupported.items() if reason == why]
        lines.append(f"  {why}: {', '.join(names)}")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, factor in (("s ", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:8.3g} {unit}"
    return f"{seconds * 1e9:8.0f} ns"


def group_table(cells: list[Cell]) -> Iterator[str]:
    """Lines of geometric means."""
    found = groups(cells)
    if found:
        yield "geometric mean of best/ours, cells below 1"
    for group in found:
        yield f"{group.mean:8.2f}x {group.slower:5} of {group.cells:4}  {group.name}"


def target_table(results: Results, each: bool) -> Iterator[str]:
    """Lines of targets: where they were reached, and the cell that is furthest off."""
    found = targets(results.cells, results.machine["caches"])
    if found:
        yield "targets, worst cell of each"
    for target in found:
        sign = ">=" if target.at_least else "<="
        met = sum(map(target.met, target.values.values()))
        furthest = target.values[target.worst]
        yield (
            f"{furthest:8.2f} ({sign} {target.wanted}) {target.what}: "
            f"met in {met} of {len(target.values)}; {target.worst}"
        )
        if each:
            yield from (f"{v:14.2f}  {name}" for name, v in target.values.items())


def accuracy_table(results: Results, kinds: tuple[str, ...]) -> Iterator[str]:
    """Lines of largest and mean error in ULP, over some kinds of input."""
    if not results.accuracy:
        return
    columns = list(results.accuracy)
    yield f"largest / mean error in ULP, inputs: {', '.join(kinds)}"
    yield f"{'':12}" + "".join(f"{column:>22}" for column in columns)
    names = {name for errors in results.accuracy.values() for name in errors}
    for name in sorted(names, key=NAMES.index):
        found = (results.accuracy[column].get(name, {}) for column in columns)
        row = [_errors([e[kind] for kind in kinds if kind in e]) for e in found]
        yield f"{name:12}" + "".join(f"{text:>22}" for text in row)


def _errors(pairs: list[list[float]]) -> str:
    if not pairs:
        return "-"
    largest = max(pair[0] for pair in pairs)
    mean = sum(pair[1] for pair in pairs) / len(pairs)
    return f"{largest:.3g} / {mean:.2g}"


def _notes(results: Results) -> Iterator[str]:
    failed = {pair for cell in results.cells for pair in cell.failed.items()}
    for name, why in sorted(failed):
        yield f"{name} failed in some cells: {why}"
    busy = sorted({name for cell in results.cells for name in cell.busy})
    if busy:
        yield f"busy with more processors than asked for: {', '.join(busy)}"


def comparison(before: Results, after: Results) -> str:
    """Say what moved: each cell's change of our time, and its peers'."""
    old = {cell.case.name: cell for cell in before.cells}
    rows = []
    for cell in after.cells:
        other = old.get(cell.case.name)
        if other and OURS in cell.times and OURS in other.times:
            rows.append((_change(other, cell, [OURS]), other, cell))
    if not rows:
        return "no cell of ours is in both files"
    lines = [" ours   peers   (time before / after: above 1 is faster)"]
    moved = [row for row in rows if abs(row[0] - 1) > NOISE]
    for change, other, cell in sorted(moved, key=lambda row: row[0]):
        both = [name for name in cell.times if name in other.times and name != OURS]
        peers = f"{_change(other, cell, both):6.2f}x" if both else "      -"
        lines.append(f"{change:5.2f}x {peers}  {cell.case.name}")
    lines.append(f"{len(rows) - len(moved)} of {len(rows)} cells within {NOISE:.0%}")
    mean = geometric_mean(row[0] for row in rows)
    lines.append(f"geometric mean of our changes: {mean:.3f}x")
    drift = geometric_mean(
        _change(other, cell, both)
        for _, other, cell in rows
        if (both := [n for n in cell.times if n in other.times and n != OURS])
    )
    lines.append(f"geometric mean of the peers' changes: {drift:.3f}x")
    return "\n".join(lines)


def _change(before: Cell, after: Cell, names: list[str]) -> float:
    return geometric_mean(before.times[n][0] / after.times[n][0] for n in names)
