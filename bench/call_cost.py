"""What a call costs beside its arithmetic: python -m bench.call_cost.

Every form on one array of (8, 20) float32, as a ratio to numpy.exp on the same array,
in turns within one process; medians.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from . import prefer_installed_package

prefer_installed_package()

from fastsoftmax import (  # noqa: E402
    hinge_loss,
    log_softmax,
    logsumexp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)

CALLS, ROUNDS = 2000, 15


def forms() -> dict[str, tuple[Callable[[], Any], float]]:
    """Return each form and the most that it may cost, in numpy.exp's.

    Most of what a list costs is NumPy's making an array of it: some 15.
    """
    x = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
    wide = np.repeat(x, 2, axis=1)
    half, whole, rows = x.astype(np.float16), (10 * x).astype(np.int64), x.tolist()
    mask, labels = np.arange(20) != 3, np.arange(8, dtype=np.int32)
    axis, two = np.int64(-1), np.float32(2)
    y, dy = softmax(x, axis=-1), np.ones((8, 1), np.float32)
    return {
        "softmax": (lambda: softmax(x, axis=-1), 1.5),
        "log_softmax": (lambda: log_softmax(x, axis=-1), 1.5),
        "logsumexp": (lambda: logsumexp(x, axis=-1), 1.5),
        "axis=(-1,)": (lambda: softmax(x, axis=(-1,)), 6),
        "axis of NumPy": (lambda: softmax(x, axis=axis), 6),
        "x.T": (lambda: softmax(x.T, axis=-1), 6),
        "x[:, ::2]": (lambda: softmax(wide[:, ::2], axis=-1), 6),
        "float16": (lambda: softmax(half, axis=-1), 6),
        "integers": (lambda: softmax(whole, axis=-1), 6),
        "a list": (lambda: softmax(rows, axis=-1), 18),  # 10 to 15 are np.asarray
        "keepdims": (lambda: logsumexp(x, axis=-1, keepdims=True), 6),
        "temperature=2": (lambda: softmax(x, axis=-1, temperature=2), 6),
        "temperature of NumPy": (lambda: softmax(x, axis=-1, temperature=two), 6),
        "dtype": (lambda: softmax(x, axis=-1, dtype=np.float64), 6),
        "where, broadcast": (lambda: softmax(x, axis=-1, where=mask), 6),
        "hinge, int32 labels": (lambda: hinge_loss(x, labels), 6),
        "hinge, where": (lambda: hinge_loss(x, where=mask), 6),
        "pair_hinge_loss": (lambda: pair_hinge_loss(x[:, 0], x), 6),
        "softmax_vjp, dy broadcast": (lambda: softmax_vjp(y, dy, axis=-1), 6),
    }


def ratios() -> dict[str, tuple[float, float]]:
    """Return what each form costs, and may cost, in numpy.exp's."""
    x = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
    found = {}
    for name, (call, most) in forms().items():
        turns = []
        for _ in range(ROUNDS):
            ours = timeit.timeit(call, number=CALLS)
            turns.append(ours / timeit.timeit(lambda: np.exp(x), number=CALLS))
        found[name] = median(turns), most
    return found


def main() -> int:
    """Print the table; fail where a form costs more than it may."""
    found = ratios()
    for name, (ratio, most) in found.items():
        print(f"{name:26} {ratio:5.2f}  (at most {most:g})")
    return int(any(ratio > most for ratio, most in found.values()))


if __name__ == "__main__":
    sys.exit(main())
