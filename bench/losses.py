"""Hinge losses and gradients beside NumPy's formulas, PyTorch and plain memory traffic.

Run `python bench/losses.py [--threads N]`; PyTorch is optional. All in one process in
turn; what counts are the ratios, some with a target.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import medians

import fastsoftmax
from fastsoftmax import hinge_loss, log_softmax_vjp, softmax, softmax_vjp

try:
    import torch
except ImportError:
    torch = None

Array = np.ndarray[Any, np.dtype[Any]]
Functions = dict[str, Callable[[], object]]

SHAPES = [(128, 20), (4096, 10), (65536, 3), (4096, 64), (4096, 1000), (64, 32000)]
# The ratio of the first to the second is to be at most the number.
TARGETS = [
    ("loss", "np.max", 1.3),
    ("loss and gradient", "np.copyto", 2.0),
    ("loss", "numpy loss", 1 / 5),
    ("loss and gradient", "numpy loss and gradient", 1 / 5),
    ("loss", "torch loss", 1.0),
    ("loss and gradient", "torch loss and gradient", 1.0),
    ("softmax_vjp", "torch softmax_vjp", 1.0),
    ("log_softmax_vjp", "torch log_softmax_vjp", 1.0),
]


def numpy_loss(scores: Array, labels: Array) -> tuple[Any, Array]:
    rows = np.arange(len(scores))
    terms = np.maximum(0, 1 - scores[rows, labels][:, None] + scores)
    terms[rows, labels] = 0
    return terms.sum(dtype=np.float64), terms


def numpy_gradient(scores: Array, labels: Array) -> tuple[Any, Array]:
    loss, terms = numpy_loss(scores, labels)
    gradient = (terms > 0).astype(scores.dtype)
    gradient[np.arange(len(scores)), labels] = -gradient.sum(axis=-1)
    return loss, gradient


def torch_gradient(scores: Any, labels: Any) -> Any:
    scores = scores.detach().requires_grad_(True)
    torch.nn.functional.multi_margin_loss(scores, labels).backward()
    return scores.grad


def functions(shape: tuple[int, int]) -> Functions:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0])
    y, warm = softmax(scores, axis=-1), np.empty_like(scores)
    log_y = np.log(y)
    found: Functions = {
        "np.max": lambda: np.max(scores, axis=-1),
        "np.copyto": lambda: np.copyto(warm, scores),
        "numpy loss": lambda: numpy_loss(scores, labels),
        "numpy loss and gradient": lambda: numpy_gradient(scores, labels),
        "loss": lambda: hinge_loss(scores, labels),
        "loss and gradient": lambda: hinge_loss(scores, labels, return_grad=True),
        "softmax_vjp": lambda: softmax_vjp(y, scores, axis=-1),
        "log_softmax_vjp": lambda: log_softmax_vjp(log_y, scores, axis=-1),
    }
    if torch is not None:
        s, c, p, q = (torch.from_numpy(a) for a in (scores, labels, y, log_y))
        real = torch.float32
        found |= {
            "torch loss": lambda: torch.nn.functional.multi_margin_loss(s, c),
            "torch loss and gradient": lambda: torch_gradient(s, c),
            "torch softmax_vjp": lambda: torch._softmax_backward_data(s, p, -1, real),
            "torch log_softmax_vjp": lambda: torch._log_softmax_backward_data(
                s, q, -1, real
            ),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    fastsoftmax.set_num_threads(options.threads)
    if torch is not None:
        torch.set_num_threads(options.threads)
    for shape in SHAPES:
        found = medians(functions(shape), options.rounds)
        print(f"float32 {shape}, threads: {options.threads}")
        for ours, theirs, target in TARGETS:
            if theirs in found:
                ratio = found[ours] / found[theirs]
                print(f"{ratio:8.2f}  of {theirs:24} {ours} (at most {target:.1f})")


if __name__ == "__main__":
    main()
