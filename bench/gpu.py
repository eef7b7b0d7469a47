"""Times the CuPy half on a GPU: python -m bench.gpu [--match WORD ...] [--json FILE].

Every call finds the L2 cache cold: more than it holds is read before. That work keeps
the device busy until the call is queued, so that times, between two events, are those
of the device alone, not of the Python around it; a cell's libraries take turns. Beside
each time stands the share of cupy.copyto's bandwidth: bytes that must be moved (each
input read once, each output written once) in the time of the library, over those of a
copy of the same array.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

OPERATIONS = ("softmax", "log_softmax", "logsumexp", "softmax_vjp", "hinge_loss")
DTYPES = ("float32", "float16", "float64")
SHAPES = (
    (65536, 10),
    (65536, 128),
    (4096, 1000),
    (4096, 1024),
    (4096, 4096),
    (8192, 32768),
    (256, 50257),
    (1, 128256),
    (64, 128256),
)
ROUNDS = 25
# At 3 TB/s half a millisecond, in which Python queues any call.
FLUSHED_BYTES = 3 << 29

Call = Callable[[], Any]


class Cell(NamedTuple):
    """One line of the table."""

    operation: str
    dtype: str
    shape: tuple[int, int]

    @property
    def words(self) -> str:
        rows, n = self.shape
        return f"{self.operation} {self.dtype} {rows}x{n}"

    @property
    def moved_bytes(self) -> int:
        """Bytes that a perfect kernel moves."""
        rows, n = self.shape
        size = {"float16": 2, "float32": 4, "float64": 8}[self.dtype]
        arrays = {"logsumexp": 1, "hinge_loss": 1, "softmax_vjp": 3}
        return arrays.get(self.operation, 2) * rows * n * size

    @property
    def copied_bytes(self) -> int:
        rows, n = self.shape
        return 2 * rows * n * {"float16": 2, "float32": 4, "float64": 8}[self.dtype]


def cells(words: list[str]) -> Iterator[Cell]:
    """Yield the cells in which all words occur."""
    for operation in OPERATIONS:
        for dtype in DTYPES:
            for shape in SHAPES:
                cell = Cell(operation, dtype, shape)
                if all(word in cell.words.split() for word in words):
                    yield cell


# ---- libraries ----


def ours(cupy: Any, cell: Cell, x: Any, dy: Any) -> Call:
    import fastsoftmax

    function = getattr(fastsoftmax, cell.operation)
    if cell.operation == "hinge_loss":
        return lambda: function(x, reduction="none")
    if cell.operation == "logsumexp":
        return lambda: function(x, axis=-1)
    out = cupy.empty_like(x)
    if cell.operation == "softmax_vjp":
        return lambda: function(x, dy, axis=-1, out=out)
    return lambda: function(x, axis=-1, out=out)


def cupyx_special(cell: Cell, x: Any) -> Call | None:
    from cupyx.scipy import special

    function = getattr(special, cell.operation, None)
    return None if function is None else lambda: function(x, axis=-1)


def torch_call(cell: Cell, x: Any, dy: Any) -> Call | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    a, b = torch.from_dlpack(x), torch.from_dlpack(dy)
    calls: dict[str, Call] = {
        "softmax": lambda: torch.softmax(a, -1),
        "log_softmax": lambda: torch.log_softmax(a, -1),
        "logsumexp": lambda: torch.logsumexp(a, -1),
        "softmax_vjp": lambda: torch._softmax_backward_data(b, a, -1, a.dtype),
    }
    return calls.get(cell.operation)


def libraries(cupy: Any, cell: Cell) -> dict[str, Call]:
    """Return what is to be called, by library; the copy among them."""
    x = cupy.random.standard_normal(cell.shape, dtype=cupy.float32).astype(cell.dtype)
    dy, target = x[::-1].copy(), cupy.empty_like(x)
    found: dict[str, Call | None] = {
        "fastsoftmax": ours(cupy, cell, x, dy),
        "cupyx.scipy.special": cupyx_special(cell, x),
        "torch": torch_call(cell, x, dy),
        "cupy.copyto": lambda: cupy.copyto(target, x),
    }
    return {name: call for name, call in found.items() if call is not None}


# ---- timing ----


def seconds(cupy: Any, calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Return the median time of each, in turns, with a cold L2 cache."""
    device = cupy.cuda.Device()
    size = 2 * device.attributes["L2CacheSize"] + FLUSHED_BYTES
    flush, total = cupy.zeros(size // 4, cupy.float32), cupy.zeros((), cupy.float32)
    stream = cupy.cuda.get_current_stream()
    times: dict[str, list[float]] = {name: [] for name in calls}
    with on_stream_of_torch(stream):
        for call in calls.values():
            for _ in range(3):
                call()
        for _ in range(rounds):
            for name, call in calls.items():
                cupy.sum(flush, out=total)
                start, stop = cupy.cuda.Event(), cupy.cuda.Event()
                start.record(stream)
                call()
                stop.record(stream)
                stop.synchronize()
                elapsed = cupy.cuda.get_elapsed_time(start, stop)
                times[name].append(elapsed / 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def on_stream_of_torch(stream: Any) -> Any:
    """Make PyTorch, if it is there, work on CuPy's stream, where the events are."""
    from contextlib import nullcontext

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr))


def row(cell: Cell, times: dict[str, float]) -> dict[str, Any]:
    """Return times in microseconds, ratios to ours, and the share of the copy."""
    bandwidth = cell.copied_bytes / times["cupy.copyto"]
    return {
        "cell": cell.words,
        "microseconds": {name: 1e6 * time for name, time in times.items()},
        "ratio": {name: time / times["fastsoftmax"] for name, time in times.items()},
        "share_of_copy": cell.moved_bytes / times["fastsoftmax"] / bandwidth,
    }


def line(result: dict[str, Any]) -> str:
    """Write a row of the table."""
    ours = result["microseconds"]["fastsoftmax"]
    ratios = "  ".join(
        f"{name} {ratio:.2f}x"
        for name, ratio in result["ratio"].items()
        if name != "fastsoftmax"
    )
    share = result["share_of_copy"]
    return f"{result['cell']:36}{ours:10.1f} us {share:6.0%} of the copy  {ratios}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--match", nargs="*", default=[], metavar="WORD")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        print(f"no GPU that CuPy can use, nothing measured: {error}", file=sys.stderr)
        return 1
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}, CuPy {cupy.__version__}, {count} device(s); medians, L2 cold")
    results = []
    for cell in cells(options.match):
        times = seconds(cupy, libraries(cupy, cell), options.rounds)
        cupy.get_default_memory_pool().free_all_blocks()
        results.append(row(cell, times))
        print(line(results[-1]), flush=True)
    if options.json:
        document = {"device": name, "cupy": cupy.__version__, "cells": results}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
