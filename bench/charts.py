"""Charts: nanoseconds per element over n, readable on light and dark backgrounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .cases import Case
from .peers import OURS
from .results_file import Results
from .summary import best_peer, ns_per_element, ratio
from .timing import Cell

# Grey text and lines of middle lightness stand out on white and on black.
INK = "#808a94"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.transparent": True,
}
# Least work of a batch: a call's own cost no longer counts.
BATCH = 1 << 15

Choice = Callable[[Cell], str | None]


def _measured(name: str) -> Choice:
    return lambda cell: name if name in cell.times else None


LINES: tuple[tuple[str, Choice, dict[str, Any]], ...] = (
    (
        "fastsoftmax",
        _measured(OURS),
        {"color": "#e8590c", "marker": "o", "linewidth": 2.4, "zorder": 5},
    ),
    (
        "best peer of each cell",
        best_peer,
        {"color": "#2f8be6", "marker": "s", "linewidth": 1.8},
    ),
    ("SciPy", _measured("scipy"), {"color": "#2ca25f", "marker": "^"}),
    (
        "copy",
        _measured("copy"),
        {"color": INK, "marker": ".", "linestyle": "--"},
    ),
    (
        "exp limit (three careless passes)",
        _measured("three passes"),
        {"color": "#a66fd6", "marker": "x", "linestyle": ":"},
    ),
)


def save_charts(results: Results, path: Path) -> list[Path]:
    """Draw what the results have, into files named after theirs."""
    mpl.use("svg")
    drawn = []
    with mpl.rc_context(STYLE):
        for dtype in ("float32", "float64"):
            figure = _over_n(results.cells, dtype)
            if figure is not None:
                drawn.append(_save(figure, path, dtype))
        figure = _ratios(results.cells)
        if figure is not None:
            drawn.append(_save(figure, path, "ratios"))
    return drawn


def _save(figure: Figure, path: Path, name: str) -> Path:
    target = path.with_name(f"{path.stem}-{name}.svg")
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    lines = (line.strip() for line in target.read_text().splitlines())
    target.write_text("\n".join(lines) + "\n")
    return target


def _plain(case: Case, dtype: str) -> bool:
    return case.axis_word == "last" and (
        case.op,
        case.dtype,
        case.call,
        case.cache,
        case.threads,
    ) == ("softmax", dtype, "default", "warm", 1)


def _over_n(cells: list[Cell], dtype: str) -> Figure | None:
    """Draw single rows on the left, batches on the right."""
    some = [cell for cell in cells if _plain(cell.case, dtype)]
    panels = (
        ("one row", [c for c in some if c.case.shape[0] == 1]),
        (
            "batches of rows",
            [c for c in some if c.case.size > c.case.n and c.case.size >= BATCH],
        ),
    )
    if all(len(part) < 2 for _, part in panels):
        return None
    figure = Figure(figsize=(8.4, 3.9), layout="constrained")
    axes = figure.subplots(1, 2)
    for panel, (title, part) in zip(axes, panels, strict=True):
        _draw_lines(panel, _one_each(part))
        panel.set(title=title, xlabel="n, elements of a row")
    axes[0].set_ylabel("ns per element")
    handles, labels = axes[1].get_legend_handles_labels()
    first, names = axes[0].get_legend_handles_labels()
    if len(names) > len(labels):
        handles, labels = first, names
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(f"softmax, {dtype}, one thread", color=INK)
    return figure


def _one_each(cells: list[Cell]) -> list[Cell]:
    """Return the smallest cell of each n, in the order of n."""
    found: dict[int, Cell] = {}
    for cell in sorted(cells, key=lambda cell: (cell.case.n, cell.case.size)):
        found.setdefault(cell.case.n, cell)
    return list(found.values())


def _plain_ticks(axis: Any) -> None:
    """Show 0.1, 0.2, 0.5, 1, ... on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _draw_lines(panel: Any, cells: list[Cell]) -> None:
    panel.set(xscale="log", yscale="log")
    panel.grid(visible=True, which="major")
    _plain_ticks(panel.yaxis)
    panel.xaxis.set_minor_locator(NullLocator())
    for label, choose, style in LINES:
        points = [
            (cell.case.n, ns_per_element(cell, name))
            for cell in cells
            if (name := choose(cell))
        ]
        if points:
            options = {"linewidth": 1.4, "markersize": 5} | style
            panel.plot(*zip(*points, strict=True), label=label, **options)


def _ratios(cells: list[Cell]) -> Figure | None:
    """Draw how many times faster than the best peer, all cells, sorted."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    panel = figure.subplots()
    found = sorted(value for cell in cells if (value := ratio(cell)))
    if len(found) < 2:
        return None
    share = [100 * (index + 0.5) / len(found) for index in range(len(found))]
    panel.plot(share, found, color="#e8590c", linewidth=2.4)
    panel.axhline(1, color=INK, linestyle="--", linewidth=1)
    panel.set(
        yscale="log",
        xlabel=f"per cent of {len(found)} cells, slowest first",
        ylabel="best peer's time / ours",
        title="all functions, types, axes, threads; above 1 is faster",
    )
    _plain_ticks(panel.yaxis)
    panel.grid(visible=True, axis="y")
    return figure
