"""The process of one library: does what the parent asks for, a line of JSON each."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

from . import prefer_installed_package

prefer_installed_package()

import numpy as np  # noqa: E402

from . import accuracy  # noqa: E402
from .cases import parse  # noqa: E402
from .data import Data, expected  # noqa: E402
from .machine import largest_cache  # noqa: E402
from .peers import Call, UnsupportedError, library_class  # noqa: E402

# Results of larger cells are not compared with the formula's: it would take too long.
CHECKED_SIZE = 1 << 22
TOLERANCE = 1e-2
BATCHES = 9


class WrongAnswerError(Exception):
    """A library's result is not the formula's."""


class Worker:
    """Holds the library, and the call of the cell at hand."""

    def __init__(self, library: str, threads: int, seconds: float) -> None:
        self.library = library_class(library)(threads)
        self.seconds = seconds
        self.run: Callable[[], Any] = int
        self.times = 1
        self.cold = False
        self.flushed: Any = None

    def prepare(self, name: str) -> dict[str, Any]:
        """Get ready for a cell; everything that is done once happens here."""
        self.run, self.times = int, 1
        gc.collect()
        case = parse(name)
        data = Data(case)
        call = self.library.prepare(data)
        self._check(call, data)
        self.run, self.times = call.run, call.times
        self.cold = case.cache == "cold"
        if self.cold and self.flushed is None:
            self.flushed = np.ones(2 * largest_cache() // 8)
        return {}

    def _check(self, call: Call, data: Data) -> None:
        if self.library.is_limit or data.case.size > CHECKED_SIZE:
            return
        result = np.asarray(call.finish(call.run()), np.float64)
        correct = expected(data)
        if result.shape != correct.shape:
            raise WrongAnswerError(f"shape {result.shape}, not {correct.shape}")
        scale = np.max(np.abs(correct), initial=1e-30)
        error = float(np.max(np.abs(result - correct)) / scale)
        if not error < TOLERANCE:
            raise WrongAnswerError(f"off by {error:.1e} of the largest entry")

    def block(self) -> dict[str, Any]:
        """Time one block: seconds per call, and how many processors were busy."""
        if self.cold:
            return {"seconds": self._cold_block()}
        once = self._settle()
        batch = max(1, int(self.seconds / BATCHES / once))
        batches = min(BATCHES, max(1, round(self.seconds / (batch * once))))
        start, busy = time.perf_counter(), time.process_time()
        values = [_batch(self.run, batch) for _ in range(batches)]
        busy = (time.process_time() - busy) / (time.perf_counter() - start)
        return {"seconds": statistics.median(values) / self.times, "busy": busy}

    def _settle(self) -> float:
        """Call for a tenth of a block, uncounted; return about what one call takes."""
        start = time.perf_counter()
        calls, passed = 0, 0.0
        while passed < self.seconds / 10:
            self.run()
            calls += 1
            passed = time.perf_counter() - start
        return max(passed / calls, 1e-7)

    def _cold_block(self) -> float:
        """Time single calls, each after a walk through twice the largest cache."""
        values = []
        for _ in range(BATCHES):
            self.flushed.sum()
            values.append(_batch(self.run, 1))
        return statistics.median(values) / self.times

    def errors(self, op: str, dtype: str) -> dict[str, Any]:
        """Return how far results are off."""
        return {"errors": accuracy.errors(self.library, op, dtype)}


def _batch(run: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in repeat(None, count):
        run()
    return (time.perf_counter() - start) / count


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]


def main() -> None:
    """Answer each line of standard input with a line."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between
    library, threads, seconds = sys.argv[1:]
    worker = None
    try:
        worker = Worker(library, int(threads), float(seconds))
        print(json.dumps({}), file=replies)
    except UnsupportedError as why:
        print(json.dumps({"failed": str(why)}), file=replies)
        return
    except Exception as error:
        print(json.dumps({"failed": _one_line(error)}), file=replies)
        return
    gc.disable()
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            reply = getattr(worker, method)(*arguments)
        except UnsupportedError as why:
            reply = {"unsupported": str(why)}
        except Exception as error:
            reply = {"failed": _one_line(error)}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
