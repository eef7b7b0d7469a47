"""What the machine could do at best: no peers, but what to hold results against."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..cases import Case
from ..data import Array, Data
from .base import Call, Library, UnsupportedError

SOURCE = Path(__file__).with_name("limits.c")
# Short work is repeated within C, so that the way there does not count.
ELEMENTS_AT_LEAST = 1 << 20


class Limit(Library):
    """NumPy's arrays, one thread."""

    module = package = "numpy"
    ops: tuple[str, ...] = ("softmax",)
    has_out = True
    is_limit = True
    one_thread_only = True

    def supports(self, case: Case) -> str:
        if self.one_thread_only and case.threads > 1:
            return "one thread only"
        return super().supports(case)


class Exp(Limit):
    """np.exp of the same array: what a call costs."""

    name = "np.exp"

    def call(self, data: Data) -> Call:
        x = data.x
        if data.case.call == "out=":
            out = data.out
            return Call(lambda: np.exp(x, out=out))
        return Call(lambda: np.exp(x))


class Max(Limit):
    """np.max of each row: what reading the scores costs."""

    name = "np.max"
    ops = ("hinge",)
    has_out = False

    def call(self, data: Data) -> Call:
        x = data.x
        return Call(lambda: np.max(x, axis=-1))


class Copy(Limit):
    """x.copy(); with `out=`, and beside a loss's gradient, np.copyto."""

    name = "copy"
    ops = ("softmax", "hinge_grad")
    one_thread_only = False

    def call(self, data: Data) -> Call:
        x = data.x
        if data.case.call == "out=" or data.case.op == "hinge_grad":
            out = data.out
            return Call(lambda: np.copyto(out, x))
        return Call(lambda: x.copy())


class StreamCopy(Limit):
    """A copy in C whose stores bypass the caches, into an array that exists."""

    name = "stream copy"

    def start(self) -> None:
        self.c = compiled()

    def supports(self, case: Case) -> str:
        return super().supports(case) or (
            "" if case.call == "out=" else "only with out="
        )

    def call(self, data: Data) -> Call:
        copy, x, out = self.c.stream_copy, data.x, data.out
        count, to, source = ctypes.c_long(x.nbytes), _address(out), _address(x)
        if not copy(to, source, count):
            raise UnsupportedError("the compiler has no such store")
        return Call(lambda: copy(to, source, count), lambda _: out)


class ThreePasses(Limit):
    """Max, exponential and sum, scale: in C, without care, into a warm array."""

    name = "three passes"

    def start(self) -> None:
        self.c = compiled()

    def supports(self, case: Case) -> str:
        if case.axis_word != "last":
            return "last axis only"
        if case.n < self.c.least_n(ctypes.c_long(case.nbytes // case.size)):
            return "rows shorter than four vectors"
        return super().supports(case)

    def call(self, data: Data) -> Call:
        case, x, out = data.case, data.x, data.out
        kind = "float" if case.dtype == "float32" else "double"
        function = getattr(self.c, f"three_passes_{kind}")
        times = max(1, ELEMENTS_AT_LEAST // case.size) if case.cache == "warm" else 1
        counts = [ctypes.c_long(c) for c in (case.size // case.n, case.n, times)]
        arguments = (_address(x), _address(out), *counts)
        return Call(lambda: function(*arguments), lambda _: out, times)


def _address(x: Array) -> ctypes.c_void_p:
    """Return a pointer that keeps the array alive."""
    return x.ctypes.data_as(ctypes.c_void_p)


def compiler() -> str | None:
    """Return the system's C compiler, if there is one."""
    return shutil.which(os.environ.get("CC", "cc"))


def compiled() -> Any:
    """Return limits.c, compiled for this machine; UnsupportedError says why not."""
    cc = compiler()
    if cc is None:
        raise UnsupportedError("no C compiler found")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limits.so"
        command = [cc, "-O3", "-march=native", "-shared", "-fPIC", str(SOURCE)]
        done = subprocess.run(
            [*command, "-o", str(library)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise UnsupportedError(
                f"limits.c does not compile: {done.stderr.strip()[:200]}"
            )
        return ctypes.CDLL(str(library))
