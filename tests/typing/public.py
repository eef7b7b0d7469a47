"""What the public functions return, for type checkers: `make lint` has two of them read
this, and tests/test_typing.py runs it, so that what they believe is what comes.
"""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import (
    cross_entropy,
    hinge_loss,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)

single: NDArray[np.float32] = np.ones((2, 3), np.float32)
double: NDArray[np.float64] = np.ones((2, 3))
both: NDArray[np.complex64] = np.ones((2, 3), np.complex64)
whole: NDArray[np.int64] = np.ones((2, 3), np.int64)
mask: NDArray[np.bool] = np.ones((2, 3), np.bool)
labels = [0, 2]

# The softmax family: an array of x's own type, or of dtype; a scalar of a scalar.
assert_type(softmax(single), NDArray[np.float32])
assert_type(softmax(double, axis=-1, temperature=2, where=mask), NDArray[np.float64])
assert_type(log_softmax(both, (0, 1)), NDArray[np.complex64])
assert_type(softmax(whole, 1), NDArray[np.float64])
assert_type(softmax(mask), NDArray[np.float64])
assert_type(softmax([[1.0, 2.0], [3.0, 4.0]], axis=-1), NDArray[Any])
assert_type(softmax(np.float32(1), dtype=np.float64), Any)
assert_type(softmax(whole, dtype=np.float32), NDArray[np.float32])
assert_type(softmax(double, dtype=np.dtype(np.float32)), NDArray[np.float32])
assert_type(log_softmax(single, dtype="float64"), NDArray[Any])
assert_type(softmax(single, out=single), NDArray[np.float32])
assert_type(softmax(single, dtype=np.float64, out=double), NDArray[np.float64])
assert_type(softmax(1.0), np.float64)
assert_type(softmax(2), np.float64)
assert_type(log_softmax(np.float32(1)), np.float32)

# logsumexp: a scalar of the whole array, Any where axes are left or not; a pair.
assert_type(logsumexp(single), np.float32)
assert_type(logsumexp(double, return_sign=True), tuple[np.float64, np.float64])
assert_type(logsumexp(single, axis=-1, keepdims=True), NDArray[np.float32])
assert_type(logsumexp(single, axis=-1, out=single[:, 0]), NDArray[np.float32])
assert_type(logsumexp([1.0, 2.0], b=[1.0, -1.0], return_sign=True), tuple[Any, Any])
assert_type(logsumexp(single, axis=-1), Any)

# Gradients.
assert_type(softmax_vjp(single, single, axis=-1), NDArray[np.float32])
assert_type(log_softmax_vjp(single, [1, 2, 3], where=mask), NDArray[Any])
assert_type(softmax_vjp(single, [1, 2, 3], dtype=np.float64), NDArray[np.float64])
assert_type(softmax_vjp(double, double, out=double), NDArray[np.float64])

# Losses: a scalar, terms, or a pair.
assert_type(hinge_loss(single), np.floating[Any])
assert_type(hinge_loss(double, labels, reduction="mean", p=2), np.floating[Any])
assert_type(hinge_loss([1.0, 2.0], negatives=1, reduction="pairs"), NDArray[Any])
assert_type(hinge_loss(single, reduction="none"), Any)
assert_type(
    hinge_loss(single, labels, ignore_index=2, return_grad=True),
    tuple[np.floating[Any], NDArray[np.float32]],
)
assert_type(
    hinge_loss(whole, reduction="none", return_grad=True), tuple[Any, NDArray[Any]]
)
assert_type(pair_hinge_loss(single[:, 0], single), np.floating[Any])
assert_type(pair_hinge_loss([1.0], [[2.0]], reduction="pairs"), NDArray[Any])
assert_type(
    pair_hinge_loss(single[:, 0], single, where=mask, return_grad=True),
    tuple[np.floating[Any], tuple[NDArray[np.float32], NDArray[np.float32]]],
)
assert_type(cross_entropy(double, labels, label_smoothing=0.1), np.floating[Any])
assert_type(
    cross_entropy(single, labels, temperature=2, return_grad=True),
    tuple[np.floating[Any], NDArray[np.float32]],
)
assert_type(cross_entropy(single, labels, reduction="none"), Any)
