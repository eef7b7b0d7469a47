"""Times the CuPy half on a GPU: python -m bench.gpu [--match WORDS ...] [--json FILE].

Every library works on one stream, which waits for no other, and so do the events around
a call. Each call finds the L2 cache cold: more than it holds is read before. That work
keeps the device busy until the call is queued, so that times are those of the device
alone, not of the Python around it; a cell's libraries take turns. Beside each time
stands the share of cupy.copyto's bandwidth: bytes that must be moved (each input read
once, each output written once) in the time of the library, over those of a copy of the
same array; the peers' times over ours; and the largest error in ULP in some of the
sets. What a call costs in Python is measured by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from . import accuracy
from .cases import Case, matching

OURS = "fastsoftmax"
COPY = "cupy.copyto"
ENTROPIES = ("cross_entropy", "cross_entropy_grad")
OF_ROWS = ("hinge", *ENTROPIES)
OPS = ("softmax", "log_softmax", "logsumexp", "softmax_vjp", *OF_ROWS)
DTYPES = ("float32", "float16", "float64")
# Short, odd, long and few rows; then columns, and long ones.
ROWS = (
    "1048576x11 65536x128 300000x48 65536x777 65536x1024 20000x3333 16384x4096 "
    "2048x32768 4096x50257 512x131072 1x128256 64x128256"
)
COLUMNS = "2x10x3000000 16x19x263169 64x1000x1024 1x8000x8192 1x50000x1000"
HOST = (64, 128)
ROUNDS = 25
# At 3 TB/s half a millisecond, in which Python queues any call.
FLUSHED_BYTES = 3 << 29
JUDGED = 4  # sets of a cell, a long way from one another

Call = Callable[[], Any]


def cells(patterns: list[str]) -> list[Case]:
    """Return the cells that have every word of one of the patterns."""
    table = []
    for op, dtype in product(OPS, DTYPES):
        for shapes, axis in ((ROWS, -1), (COLUMNS, 1)):
            if axis == 1 and op in OF_ROWS:
                continue
            sizes = [tuple(map(int, shape.split("x"))) for shape in shapes.split()]
            table += [Case(op, dtype, size, axis, cache="cold") for size in sizes]
    return matching(table, patterns)


def moved_bytes(case: Case) -> int:
    """Return the bytes that a perfect kernel moves."""
    arrays = {"logsumexp": 1, "hinge": 1, "cross_entropy": 1, "softmax_vjp": 3}
    labels = 8 * case.size // case.n if case.op in ENTROPIES else 0
    return arrays.get(case.op, 2) * case.nbytes + labels


# ---- libraries ----


def ours(cupy: Any, case: Case, x: Any, second: Any) -> Call:
    import fastsoftmax

    axis = case.axis
    if case.op == "hinge":
        return lambda: fastsoftmax.hinge_loss(x, reduction="none")
    if case.op in ENTROPIES:
        return lambda: fastsoftmax.cross_entropy(
            x, second, return_grad=case.op == "cross_entropy_grad"
        )
    if case.op == "logsumexp":
        return lambda: fastsoftmax.logsumexp(x, axis)
    function, out = getattr(fastsoftmax, case.op), cupy.empty_like(x)
    if case.op == "softmax_vjp":
        return lambda: function(x, second, axis, out=out)
    return lambda: function(x, axis, out=out)


def cupyx_special(cupy: Any, case: Case, x: Any, second: Any) -> Call | None:
    from cupyx.scipy import special

    if case.op in ENTROPIES:
        return lambda: entropy(cupy, special.log_softmax, case, x, second)
    function = getattr(special, case.op, None)
    return None if function is None else lambda: function(x, axis=case.axis)


def entropy(cupy: Any, log_softmax: Any, case: Case, x: Any, labels: Any) -> Any:
    """Cross-entropy as formulas have it: its mean, and the gradient."""
    chosen = cupy.arange(len(x)), labels
    logarithms = log_softmax(x, axis=-1)
    loss = -logarithms[chosen].mean()
    if case.op == "cross_entropy":
        return loss
    gradient = cupy.exp(logarithms)
    gradient[chosen] -= 1
    gradient /= len(x)
    return loss, gradient


def torch_call(case: Case, x: Any, second: Any) -> Call | None:
    torch = torch_on_gpu()
    if torch is None:
        return None
    a, b, axis = torch.from_dlpack(x), torch.from_dlpack(second), case.axis
    calls: dict[str, Call] = {
        "softmax": lambda: torch.softmax(a, axis),
        "log_softmax": lambda: torch.log_softmax(a, axis),
        "logsumexp": lambda: torch.logsumexp(a, axis),
        "softmax_vjp": lambda: torch._softmax_backward_data(b, a, axis, a.dtype),
        "cross_entropy": lambda: torch.nn.functional.cross_entropy(a, b),
        "cross_entropy_grad": lambda: torch_gradient(torch, a, b),
    }
    return calls.get(case.op)


def torch_gradient(torch: Any, a: Any, labels: Any) -> Any:
    scores = a.requires_grad_()
    loss = torch.nn.functional.cross_entropy(scores, labels)
    return loss, *torch.autograd.grad(loss, scores)


def torch_on_gpu() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


@contextlib.contextmanager
def one_stream(cupy: Any, torch: Any) -> Iterator[Any]:
    """Put CuPy and PyTorch on one stream; PyTorch knows no null stream from outside."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stream)
        if torch is not None:
            theirs = torch.cuda.ExternalStream(stream.ptr)
            stack.enter_context(torch.cuda.stream(theirs))
        yield stream


def libraries(cupy: Any, case: Case, x: Any) -> dict[str, Call]:
    """Return what is to be called, by library; the copy among them."""
    second, target = x[::-1].copy(), cupy.empty_like(x)
    if case.op in ENTROPIES:
        second = cupy.arange(len(x)) * 7919 % case.n  # labels far from one another
    found: dict[str, Call | None] = {
        OURS: ours(cupy, case, x, second),
        "cupyx": cupyx_special(cupy, case, x, second),
        "torch": torch_call(case, x, second),
        COPY: lambda: cupy.copyto(target, x),
    }
    return {name: call for name, call in found.items() if call is not None}


# ---- times and errors ----


def seconds(
    cupy: Any, stream: Any, calls: dict[str, Call], rounds: int
) -> dict[str, float]:
    """Return the median time of each, in turns, with a cold L2 cache."""
    size = 2 * cupy.cuda.Device().attributes["L2CacheSize"] + FLUSHED_BYTES
    flush, total = cupy.zeros(size // 4, cupy.float32), cupy.zeros((), cupy.float32)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _, (name, call) in product(range(rounds), calls.items()):
        cupy.sum(flush, out=total)
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(stream)
        call()
        stop.record(stream)
        stop.synchronize()
        times[name].append(cupy.cuda.get_elapsed_time(start, stop) / 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def errors(cupy: Any, case: Case, calls: dict[str, Call], x: Any) -> dict[str, float]:
    """Return the largest error of each library in a few sets, where judged."""
    if case.op not in accuracy.OPS or (
        case.dtype == "float64" and not accuracy.JUDGES_FLOAT64
    ):
        return {}

    def some(array: Any) -> Any:
        sets = cupy.moveaxis(array, case.axis, -1).reshape(-1, case.n)
        return sets[:: max(1, len(sets) // JUDGED)].get()

    exact = accuracy.exact(case.op, some(x), -1)
    found = {}
    for name, call in calls.items():
        if name != COPY:
            result = cupy.asarray(call())
            if case.op == "logsumexp":
                sets = result.reshape(-1)
                judged = sets[:: max(1, len(sets) // JUDGED)].get()
            else:
                judged = some(result)
            found[name] = float(accuracy.ulps(judged, exact, case.dtype).max())
    return found


def host_cost(cupy: Any, stream: Any) -> dict[str, float]:
    """Return what a call costs until it is queued: the least of many, in seconds."""
    case = Case("softmax", "float32", HOST)
    x = cupy.random.standard_normal(HOST, dtype=cupy.float32)
    empty = cupy.RawKernel('extern "C" __global__ void f(float *x) {}', "f")
    calls: dict[str, Call | None] = {
        OURS: lambda: __import__("fastsoftmax").softmax(x, axis=-1),
        "cupyx": cupyx_special(cupy, case, x, x),
        "torch": torch_call(case, x, x),
        "cupy.exp": lambda: cupy.exp(x),
        "RawKernel": lambda: empty((1,), (128,), (x,)),
    }
    least = {}
    for name, call in calls.items():
        if call is None:
            continue
        least[name] = math.inf
        for _ in range(50):
            call()
            stream.synchronize()
            begin = time.perf_counter()
            for _ in range(50):
                call()
            least[name] = min(least[name], (time.perf_counter() - begin) / 50)
    return least


# ---- the table ----


def row(
    case: Case, times: dict[str, float], found: dict[str, float] | None = None
) -> dict[str, Any]:
    """Return times in microseconds, ratios to ours, the share of the copy, errors."""
    bandwidth = 2 * case.nbytes / times[COPY]
    return {
        "cell": case.name,
        "microseconds": {name: 1e6 * time for name, time in times.items()},
        "ratio": {name: time / times[OURS] for name, time in times.items()},
        "share_of_copy": moved_bytes(case) / times[OURS] / bandwidth,
        "ulp": found or {},
    }


def line(result: dict[str, Any]) -> str:
    """Write a row of the table."""
    words = result["cell"].partition(" default")[0]
    ratios = "  ".join(
        f"{name} {ratio:.2f}x"
        for name, ratio in result["ratio"].items()
        if name != OURS
    )
    judged = "  ".join(f"{name} {ulp:.3g}" for name, ulp in result["ulp"].items())
    return (
        f"{words:44}{result['microseconds'][OURS]:10.1f} us "
        f"{result['share_of_copy']:6.0%} of the copy  {ratios}"
        + (f"  ULP: {judged}" if judged else "")
    )


def measure(cupy: Any, options: argparse.Namespace) -> dict[str, Any]:
    results = []
    with one_stream(cupy, torch_on_gpu()) as stream:
        for case in cells(options.match):
            x = cupy.random.standard_normal(case.shape, dtype=cupy.float32)
            x = (5 * x).astype(case.dtype)
            calls = libraries(cupy, case, x)
            times = seconds(cupy, stream, calls, options.rounds)
            results.append(row(case, times, errors(cupy, case, calls, x)))
            print(line(results[-1]), flush=True)
            del x, calls
            cupy.get_default_memory_pool().free_all_blocks()
        cost = host_cost(cupy, stream)
    listed = ", ".join(f"{name} {1e6 * least:.1f}" for name, least in cost.items())
    print(f"Python of a call, float32 {HOST[0]}x{HOST[1]}, in us: {listed}")
    return {"cells": results, "host_seconds": cost}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--match", nargs="*", default=[], metavar="WORDS")
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
    measured = measure(cupy, options)
    if options.json:
        document = {"device": name, "cupy": cupy.__version__, **measured}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
