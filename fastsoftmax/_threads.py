"""How many threads a job may use: what the process may run on now, and what was asked.

The count is looked up again for jobs that are large enough for threads, so a change of
OpenMP's own setting (OMP_NUM_THREADS at start, threadpoolctl later) or of
`set_num_threads` takes effect at once, one of the CPU affinity within a millisecond.
The cgroup quota is read once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import re
import threading
from collections.abc import Iterator, Mapping

_SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

# Iterations that an idle libgomp worker spins before it sleeps. Its default (some
# milliseconds) makes the first job after a pause wait for the caller's own spinning
# when both land on one core.
_SPIN_COUNT = "2000"

_STACK_SIZE = re.compile(r"\s*(\d+)\s*([BKMG]?)\s*", re.ASCII | re.IGNORECASE)
_UNITS = {"b": 0, "": 10, "k": 10, "m": 20, "g": 30}  # powers of two

_wanted: int | None = None
_openmp_limit_at_import = 1
_unlimited = threading.local()  # its `openmp`: OpenMP's setting, as we have left it


@contextlib.contextmanager
def short_spins() -> Iterator[None]:
    """Let an OpenMP runtime that is loaded inside the block spin briefly when idle.

    libgomp reads the setting when it is loaded; the environment is as before after the
    block, and untouched where the user has chosen.
    """
    if any(name in os.environ for name in _SPIN_SETTINGS):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def worker_stack(environment: Mapping[str, str]) -> int:
    """Bytes of the stacks that libgomp gives its threads; 0: the system's default."""
    for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"):
        found = _STACK_SIZE.fullmatch(environment.get(name, ""))
        if found and (size := int(found[1]) << _UNITS[found[2].lower()]) < 1 << 63:
            return size
    return 0


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(*path: str) -> str:
    with open(os.path.join(*path)) as file:
        return file.read()


def _quota_v2(folder: str) -> float:
    quota, period = _text(folder, "cpu.max").split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: str) -> float:
    quota = int(_text(folder, "cpu.cfs_quota_us"))
    period = int(_text(folder, "cpu.cfs_period_us"))
    return quota / period if quota > 0 else math.inf


def quota_below(root: str, cgroups: str) -> float:
    """CPUs' worth of time that the control groups of a process grant it.

    `cgroups` is the text of /proc/self/cgroup, `root` where the hierarchies are
    mounted. A group is bound by the quotas of its ancestors, too.
    """
    least = math.inf
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        read = _quota_v1 if controllers else _quota_v2
        folder = os.path.join(root, "cpu") if controllers else root
        for name in ("", *path.strip("/").split("/")):
            folder = os.path.join(folder, name)
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                least = min(least, read(folder))
    return least


@functools.cache
def _quota() -> float:
    try:
        return quota_below("/sys/fs/cgroup", _text("/proc/self/cgroup"))
    except (OSError, ValueError):
        return math.inf


def count(openmp_limit: int) -> int:
    """How many threads a job may use now.

    `openmp_limit` is what OpenMP would use by itself. A number that the user has set
    stands in for the machine's limits, but not for a limit that was put on OpenMP later
    (threadpoolctl).
    """
    if _wanted is None:
        return max(1, int(min(openmp_limit, _affinity(), _quota())))
    unlimited = getattr(_unlimited, "openmp", _openmp_limit_at_import)
    return _wanted if openmp_limit >= unlimited else min(_wanted, openmp_limit)


def note_openmp_limit(limit: int) -> None:
    """Remember what OpenMP would use at import."""
    global _openmp_limit_at_import
    _openmp_limit_at_import = limit


def openmp_setting(limit: int) -> int:
    """Return what OpenMP's own setting in this thread must be, where it is `limit`.

    No less than what we want, unless it is limited: else a later limit that is what
    the machine has would go unseen (threadpoolctl's 1 on one CPU).
    """
    at_import = _openmp_limit_at_import
    ours = getattr(_unlimited, "openmp", at_import)
    if limit == at_import or limit >= ours > at_import:
        limit = _unlimited.openmp = max(at_import, _wanted or 1)
    return limit


def want(n: int | None) -> None:
    """Use n threads from now on; None: as many as the machine allows."""
    global _wanted
    if n is None:
        _wanted = None
        return
    import numpy as np  # not above: with its BLAS it may load OpenMP's runtime

    if isinstance(n, (bool, np.bool_)):
        raise TypeError(f"n must be an integer or None, got {n!r}")
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"n must be an integer or None, got {n!r}") from None
    if not 1 <= number <= 1024:
        raise ValueError(f"n must be from 1 to 1024, got {number}")
    _wanted = number
