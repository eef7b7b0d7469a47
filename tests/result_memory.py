"""Scripts about the memory of large results, in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import CompletedProcess

import child
import pytest

try:
    from numpy._core.multiarray import get_handler_name as get_handler_name
except ImportError:
    pytest.skip("this NumPy does not tell its handlers", allow_module_level=True)

if sys.platform != "linux":
    pytest.skip("NumPy's own memory alone", allow_module_level=True)

MIB = 1 << 20

PRELUDE = """
import ctypes, gc, mmap, os, queue, random, re, resource, sys, threading
import numpy as np
import fastsoftmax
from fastsoftmax import _cpu, softmax
from numpy._core.multiarray import get_handler_name

MIB = 1 << 20
fastsoftmax.set_num_threads(1)

def logits(mib, value=0.0):
    # Of so many MiB, in four times 512 bytes.
    return np.broadcast_to(np.float32(value), (int(mib * 2048), 128))

def result(mib):
    return softmax(logits(mib), axis=-1)

def right(y):
    return bool((y == np.float32(1 / 128)).all())

def kept():
    return _cpu.kept_bytes() / MIB

def status(name):
    # In MiB.
    with open("/proc/self/status") as text:
        return int(re.search(name + r":\\s+(\\d+) kB", text.read())[1]) / 1024

def lazily_free():
    with open("/proc/self/smaps_rollup") as text:
        return int(re.search(r"LazyFree:\\s+(\\d+) kB", text.read())[1]) / 1024

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def child(work):
    # Runs it in a fork; its exit status is to be 0.
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
"""


# A cap of the user's is no part of a test.
WITHOUT = ("FASTSOFTMAX_KEEP_MIB",)


def attempt(folder: Path, script: str, **changes: str) -> CompletedProcess[str]:
    return child.attempt(folder, PRELUDE + script, without=WITHOUT, **changes)


def python(folder: Path, script: str, **changes: str) -> str:
    return child.python(folder, PRELUDE + script, without=WITHOUT, **changes)
