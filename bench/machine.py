"""What a result depends on: processor, caches, versions, settings."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path
from typing import Any

CPU = Path("/sys/devices/system/cpu")
VARIABLES = ("FASTSOFTMAX_", "OMP_", "GOMP_", "KMP_", "MALLOC_", "NUMPY_", "GLIBC_")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def caches() -> dict[str, int]:
    """Return bytes of each cache that holds data, as one core sees it."""
    found = {}
    for index in sorted((CPU / "cpu0" / "cache").glob("index*")):
        size = _text(index / "size")
        if _text(index / "type") != "Instruction" and size:
            number, unit = (size[:-1], size[-1]) if size[-1] in UNITS else (size, "")
            found[f"L{_text(index / 'level')}"] = int(number) * UNITS.get(unit, 1)
    return found


def largest_cache() -> int:
    """Return bytes of the last cache; 32 MiB where it is unknown."""
    return max(caches().values(), default=32 << 20)


def processor() -> str:
    """Return the processor's name as the system gives it."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _load() -> tuple[float, ...]:
    """Return how many processes wanted a processor of late: others, before us."""
    return os.getloadavg()[:2] if hasattr(os, "getloadavg") else ()


def describe() -> dict[str, Any]:
    """Return what goes into a results file."""
    _cpu = importlib.import_module("fastsoftmax._cpu")
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "huge pages": _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "governor": _text(CPU / "cpu0" / "cpufreq" / "scaling_governor"),
        "load": [round(value, 1) for value in _load()],
        "isa": _cpu.isa,
        "openmp": _cpu.openmp,
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(VARIABLES)
        },
    }
