"""Measures us beside every peer that is installed: `python -m bench --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def prefer_installed_package() -> None:
    """Take the root of the clone off the path, unless kernels are compiled there.

    `python -m bench` puts the root first, where sources without kernels would hide the
    installed package.
    """
    sources = ROOT / "fastsoftmax"
    if not any([*sources.glob("_cpu.*.so"), *sources.glob("_cpu.*.pyd")]):
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
