"""Results as JSON: one line a cell, in the order of the table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cases import parse
from .timing import Cell

FORMAT = 1
Errors = dict[str, dict[str, dict[str, list[float]]]]


@dataclass
class Results:
    """A run: where, how, and what was found.

    `accuracy` has an entry for each "op dtype", in which each library has its largest
    and mean error for each kind of input.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    absent: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    accuracy: Errors = field(default_factory=dict)


def rounded(value: float, digits: int = 4) -> float:
    """Return a number of few significant digits, for a small file."""
    if value == 0:
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def _cell_line(cell: Cell) -> dict[str, Any]:
    line: dict[str, Any] = {
        "name": cell.case.name,
        "times": {
            name: [rounded(seconds), round(spread, 3)]
            for name, (seconds, spread) in cell.times.items()
        },
    }
    if cell.failed:
        line["failed"] = cell.failed
    if cell.busy:
        line["busy"] = cell.busy
    return line


def save(results: Results, path: Path) -> None:
    """Write a results file."""
    head = {
        "format": FORMAT,
        "machine": results.machine,
        "versions": results.versions,
        "settings": results.settings,
        "absent": results.absent,
    }
    lines = [f' "{key}": {json.dumps(value)}' for key, value in head.items()]
    cells = [f"  {json.dumps(_cell_line(cell))}" for cell in results.cells]
    lines.append(' "cells": [\n' + ",\n".join(cells) + "\n ]")
    errors = [f'  "{key}": {json.dumps(e)}' for key, e in results.accuracy.items()]
    lines.append(' "accuracy": {\n' + ",\n".join(errors) + "\n }")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load(path: Path) -> Results:
    """Read a results file; ValueError says what is wrong with it."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: expected results of `python -m bench`")
    try:
        return _results(found)
    except KeyError as error:
        raise ValueError(f"{path}: expected {error} in the results") from None


def _results(found: dict[str, Any]) -> Results:
    """Return what `save` was given, from what it wrote."""
    cells = [
        Cell(
            parse(line["name"]),
            {name: (time[0], time[1]) for name, time in line["times"].items()},
            failed=line.get("failed", {}),
            busy=line.get("busy", {}),
        )
        for line in found["cells"]
    ]
    return Results(
        found["machine"],
        found["versions"],
        found["settings"],
        found["absent"],
        cells,
        found["accuracy"],
    )
