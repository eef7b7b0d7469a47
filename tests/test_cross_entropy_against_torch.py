"""Cross-entropy equals PyTorch's, on PyTorch's own samples, and scikit-learn's."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from oracle.arithmetic import Array, silently

from fastsoftmax import cross_entropy, softmax

torch = pytest.importorskip(
    "torch", reason="PyTorch, which these tests compare with, is not installed"
)
pytest.importorskip(
    "expecttest", reason="PyTorch's own samples need the package expecttest"
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

DTYPES = [np.float32, np.float64]
of_both_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def samples_of(dtype: Any) -> list[Any]:
    [op] = [op for op in op_db if op.name == "nn.functional.cross_entropy"]
    torch.manual_seed(1)
    kind = getattr(torch, np.dtype(dtype).name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(op.reference_inputs("cpu", kind, requires_grad=True))


def ours(
    x: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Any, Array]:
    """The same call: classes are along axis 1, and have weights.

    Those of labels are the rows' weights; smoothed, or of probabilities, they multiply
    the targets, and a mean is a sum divided by what PyTorch divides by.
    """
    options: dict[str, Any] = {"reduction": reduction}
    is_hard = target.shape != x.shape
    if is_hard:
        options["ignore_index"] = ignore_index
    if weight is None or (is_hard and label_smoothing == 0):
        if weight is not None:
            options["sample_weight"] = weight[np.where(target < 0, 0, target)]
        options["label_smoothing"] = label_smoothing
        return silently(cross_entropy, x, target, 1, return_grad=True, **options)
    rows = target.size // x.shape[1]
    if is_hard:
        counts = target != ignore_index
        labels = np.where(counts, target, 0)
        rows = weight[labels][counts].sum()
        target = np.moveaxis(np.eye(x.shape[1])[labels], -1, 1)
        target *= np.expand_dims(counts, 1)
        label_smoothing = label_smoothing * np.expand_dims(counts, 1)
    target = target * (1 - label_smoothing) + label_smoothing / x.shape[1]
    target = target * weight.reshape(-1, *[1] * (x.ndim - 2))
    how = "sum" if reduction == "mean" else reduction
    loss, grad = silently(cross_entropy, x, target, 1, reduction=how, return_grad=True)
    if reduction == "mean":
        loss, grad = loss / rows, grad / rows
    return loss, grad


def assert_equal(x: Any, target: Any, **options: Any) -> None:
    right = torch.nn.functional.cross_entropy(x, target, **options)
    (right_grad,) = torch.autograd.grad(right.sum(), x)
    given = {
        name: value.detach().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    scores = x.detach().numpy()
    loss, grad = ours(scores, target.detach().numpy(), **given)
    # They add up in the type of the scores; what a row loses is of its largest score.
    bound = (10 + scores.size**0.5) * float(np.finfo(scores.dtype).eps)
    largest = np.abs(right.detach().numpy()).max() + np.log(scores.shape[1])
    np.testing.assert_allclose(
        loss, right.detach().numpy(), rtol=bound, atol=bound * largest
    )
    # Probabilities next to 1 lose what is left when the target is taken off them.
    np.testing.assert_allclose(grad, right_grad, rtol=bound, atol=bound)


@of_both_dtypes
def test_their_samples(dtype):
    samples = samples_of(dtype)
    for sample in samples:
        assert_equal(sample.input, *sample.args, **sample.kwargs)
        if "weight" not in sample.kwargs or sample.args[0].ndim == 1:
            smooth = {**sample.kwargs, "label_smoothing": 0.2}
            assert_equal(sample.input, *sample.args, **smooth)
    assert len(samples) > 20


@of_both_dtypes
@pytest.mark.parametrize("shape", [(1, 2), (130, 10), (9, 257), (5, 3000), (4, 7, 30)])
def test_other_shapes(shape, dtype):
    rng = np.random.default_rng([*shape])
    rows = (shape[0], *shape[2:])
    scores = rng.normal(0, 4, shape).astype(dtype)
    scores.flat[:3] += 500  # exp overflows
    x = torch.tensor(scores, requires_grad=True)
    weights = torch.tensor(rng.uniform(0.1, 2, shape[1]).astype(dtype))
    labels = torch.tensor(rng.integers(0, shape[1], rows))
    shares = torch.tensor(softmax(rng.normal(0, 2, shape), axis=1).astype(dtype))
    for reduction, smoothing, weight, target in itertools.product(
        ("sum", "mean", "none"), (0.0, 0.1), (None, weights), (labels, shares)
    ):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        assert_equal(x, target, weight=weight, **options)
        if target is labels and shape[0] > 1:
            ignored = int(labels.flatten()[1])
            assert_equal(x, target, weight=weight, ignore_index=ignored, **options)


def test_scikit_learns_log_loss():
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(0, 3, (200, 9)), rng.permutation(np.arange(200) % 9)
    weights = rng.uniform(0.1, 2, 200)
    for sample_weight in (None, weights):
        options = {"sample_weight": sample_weight}
        theirs = log_loss(labels, softmax(scores, axis=1), **options)
        loss = cross_entropy(scores, labels, **options)
        np.testing.assert_allclose(loss, theirs, rtol=1e-14)
        summed = log_loss(labels, softmax(scores, axis=1), normalize=False, **options)
        loss = cross_entropy(scores, labels, reduction="sum", **options)
        np.testing.assert_allclose(loss, summed, rtol=1e-14)
