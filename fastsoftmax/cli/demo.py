"""The example that ``fastsoftmax`` runs when it is called without arguments."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from fastsoftmax import softmax

__all__ = ["LABELS", "SCORES", "report", "ulps"]

Array = npt.NDArray[Any]

# Decision function, rounded to 2 decimals, of scikit-learn 1.9.1's
# LogisticRegression(max_iter=10000), fitted to images 0-1399 of its digits data
# (Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998), on
# images 1460-1475, which it had not seen; and what these images are labelled.
FIRST_IMAGE = 1460
SCORES = np.array(
    [
        (-7.31, -14.26, 5.62, 26.84, -22.83, 1.14, -8.59, 0.53, 13.35, 5.50),
        (2.83, -2.51, -5.45, 3.63, -15.17, 21.27, -3.33, -6.49, -0.38, 5.60),
        (3.19, 11.22, -5.97, -4.89, -1.95, -3.40, -5.54, -2.18, 0.36, 9.15),
        (20.68, -15.82, 4.51, -3.15, -8.51, 3.51, 3.47, -2.37, 0.33, -2.64),
        (19.02, -15.72, 7.42, 0.11, -9.77, 2.19, 1.54, -2.71, -0.57, -1.51),
        (-11.12, 0.27, 23.79, 15.64, -13.08, 1.27, -12.79, 4.79, 0.65, -9.43),
        (-8.12, 8.01, 22.20, 7.46, -14.29, 4.32, -6.97, -8.51, -0.30, -3.80),
        (-3.23, -11.77, -0.32, 5.79, 5.44, -0.33, -4.37, 19.42, -3.26, -7.38),
        (-1.46, -1.17, -11.05, 1.01, 1.32, 1.49, 1.99, -0.48, 6.31, 2.03),
        (-8.10, 1.78, 22.02, 10.52, -12.66, 4.53, -8.74, -4.53, 2.23, -7.04),
        (23.47, -18.43, 2.10, -2.45, -8.79, 5.05, 3.90, -1.61, -1.34, -1.89),
        (1.75, 6.39, -4.19, 1.23, -5.41, 0.36, -7.66, -2.69, 2.58, 7.64),
        (-9.62, 1.09, 18.43, 11.00, -11.94, 2.71, -6.91, -2.05, 6.55, -9.25),
        (10.67, -4.82, -6.23, -5.22, 3.04, 5.99, 18.32, -8.24, -3.28, -10.23),
        (-7.27, -3.11, 11.14, 22.13, -17.60, -1.08, -5.73, -3.35, 5.17, -0.31),
        (-6.02, -7.60, 12.28, 24.63, -18.72, -1.86, -5.65, -0.32, 3.50, -0.25),
    ],
    dtype=np.float32,
)
LABELS = np.array([3, 5, 1, 0, 0, 2, 2, 7, 8, 2, 0, 1, 2, 6, 3, 3])

SHOWN = (0, 2, 8, 11)  # a sure one, two less sure, and the one that is wrong
SHAPES = ((4096, 10), (64, 32000))
ROUNDS = 30
SECONDS_PER_SHAPE = 1.0


def report() -> Iterator[str]:
    """Yield the example's lines: the job, its accuracy, its speed."""
    yield "softmax(scores, axis=-1), scores of a digit classifier on unseen images:"
    yield from _job()
    yield ""
    yield "Median time of a call, float32, axis=-1:"
    for shape in SHAPES:
        yield _speed(shape)


def _job() -> Iterator[str]:
    """Yield what the probabilities say, and how exact they are."""
    probabilities = softmax(SCORES, axis=-1)
    predicted = probabilities.argmax(axis=-1)
    for row in SHOWN:
        digit = predicted[row]
        yield (
            f"  image {FIRST_IMAGE + row}: {digit} with probability "
            f"{probabilities[row, digit]:.4f}, labelled {LABELS[row]}"
        )
    right = int((predicted == LABELS).sum())
    yield f"  {right} of {len(LABELS)} images right"
    error = ulps(probabilities, three_lines(SCORES.astype(np.float64)))
    yield f"  largest error against the formula in float64: {error:.2f} ULP"


def three_lines(x: Array) -> Array:
    """Return softmax over the last axis as most NumPy programs spell it."""
    shifted = x - x.max(axis=-1, keepdims=True)
    terms = np.exp(shifted)
    return np.asarray(terms / terms.sum(axis=-1, keepdims=True))


def ulps(result: Array, exact: Array) -> float:
    """Return the largest error of `result` in units of its last place.

    Parameters
    ----------
    result : ndarray of float32
        What was computed.
    exact : ndarray of float64
        What it should be; its binades set the size of one unit.
    """
    digits = np.finfo(result.dtype).nmant + 1
    unit = np.ldexp(1.0, np.frexp(exact)[1] - digits)
    unit = np.maximum(unit, np.finfo(result.dtype).smallest_subnormal)
    return float((np.abs(result.astype(np.float64) - exact) / unit).max())


def _speed(shape: tuple[int, int]) -> str:
    """Return one line: our median time for `shape`, and the peers' beside it."""
    x = np.resize(SCORES, shape)
    peers: dict[str, Callable[[], Any]] = {
        "fastsoftmax": lambda: softmax(x, axis=-1),
        "NumPy's three lines": lambda: three_lines(x),
    }
    try:
        scipy = importlib.import_module("scipy.special")
        peers["SciPy"] = lambda: scipy.softmax(x, axis=-1)
    except ImportError:
        pass
    medians = _medians(peers)
    own = medians.pop("fastsoftmax")
    beside = ", ".join(
        f"{peer} {seconds / own:.1f} times that" for peer, seconds in medians.items()
    )
    return f"  {shape[0]} x {shape[1]}: {own * 1e6:.0f} us; {beside}"


def _medians(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median seconds of each call, every round in another order."""
    for call in calls.values():
        call()  # first calls load pages and start threads
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    deadline = time.perf_counter() + SECONDS_PER_SHAPE
    for _ in range(ROUNDS):
        for name in names:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
        names.append(names.pop(0))
        if time.perf_counter() > deadline:
            break
    return {name: median(values) for name, values in seconds.items()}
