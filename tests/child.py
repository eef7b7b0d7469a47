"""Runs scripts in fresh processes, on the package under test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastsoftmax

# What a user may have set for OpenMP's threads.
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")

# For tests of threads: a job large enough for them, and its right result.
THREADS = """
import os, signal, sys, threading, time
import numpy as np
import fastsoftmax
from fastsoftmax import softmax

x = np.random.default_rng(1).uniform(-30, 30, (256, 4096)).astype(np.float32)
fastsoftmax.set_num_threads(1)
right = softmax(x, axis=-1)
fastsoftmax.set_num_threads(None)
assert right.sum() > 255
fastsoftmax._cpu.share_always(True)

def works():
    return bool((softmax(x, axis=-1) == right).all())

def tasks():
    return set(os.listdir("/proc/self/task"))
"""


def environment(without: Iterable[str] = (), **changes: str) -> dict[str, str]:
    """Return the variables for a child that imports the package under test."""
    kept = {name: text for name, text in os.environ.items() if name not in without}
    here = str(Path(fastsoftmax.__file__).parents[1])
    return kept | {"PYTHONPATH": here} | changes


def attempt(
    folder: Path,
    script: str,
    *arguments: str,
    timeout: float = 120,
    without: Iterable[str] = (),
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=environment(without, **changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def python(folder: Path, script: str, *arguments: str, **options: Any) -> str:
    """Run a script, which must succeed, in a fresh process; return what it printed."""
    done = attempt(folder, script, *arguments, **options)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    return done.stdout


def with_threads(folder: Path, script: str, **options: Any) -> str:
    """Do so with a script that knows THREADS, without the user's own settings.

    Nor that of a service, whose threads may not move (process/place.h).
    """
    script = THREADS + textwrap.dedent(script)
    without = (*SETTINGS, "INVOCATION_ID")
    return python(folder, script, timeout=60, without=without, **options)
