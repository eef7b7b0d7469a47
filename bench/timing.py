"""Medians of functions timed in turn, in one process."""

import statistics
import time
from collections.abc import Callable


def medians(
    functions: dict[str, Callable[[], object]], rounds: int = 15, seconds: float = 0.005
) -> dict[str, float]:
    """Seconds per call of each function: the median over rounds.

    In every round each function has a turn of some `seconds`, in rotating order, so
    that a slow phase of the machine falls on all of them.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        once = time.perf_counter() - start
        repeats[name] = max(1, int(seconds / max(once, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for _ in range(rounds):
        for name in order:
            function, count = functions[name], repeats[name]
            start = time.perf_counter()
            for _ in range(count):
                function()
            times[name].append((time.perf_counter() - start) / count)
        order.append(order.pop(0))
    return {name: statistics.median(values) for name, values in times.items()}
