"""Hinge losses equal PyTorch's multi_margin_loss, on PyTorch's own samples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from oracle.arithmetic import Array, silently

from fastsoftmax import hinge_loss

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

multi_margin_loss = torch.nn.functional.multi_margin_loss
of_both_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def samples_of(dtype: Any) -> list[Any]:
    [op] = [op for op in op_db if op.name == "nn.functional.multi_margin_loss"]
    torch.manual_seed(1)
    kind = getattr(torch, np.dtype(dtype).name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(op.reference_inputs("cpu", kind, requires_grad=True))


def theirs(x: Any, target: Any, **options: Any) -> tuple[Array, Array]:
    """The loss, and the gradient of its sum, both without their 1 / classes."""
    classes = x.shape[-1] if x.ndim else 1
    loss = multi_margin_loss(x, target, **options)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach().numpy() * classes, grad.numpy() * classes


def ours(
    x: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    **options: Any,
) -> tuple[Array, Array]:
    """The same call: they take a vector, or a number, for a batch of one row."""
    scores = np.atleast_2d(x.detach().numpy())
    labels = np.atleast_1d(target.numpy())
    if weight is not None:
        options["sample_weight"] = weight.numpy()[labels]
    loss, grad = silently(
        hinge_loss, scores, labels, **options, reduction=reduction, return_grad=True
    )
    return np.asarray(loss), grad.reshape(x.shape)


def assert_equal(x: Any, target: Any, **options: Any) -> None:
    loss, grad = ours(x, target, **options)
    # They add up in the type of the scores: what that costs at most, and some products.
    bound = (x.numel() / 2 + 10) * float(np.finfo(grad.dtype).eps)
    right, right_grad = theirs(x, target, **options)
    # Weights of either sign cancel in sums; a row's loss is a product.
    size = np.abs(ours(x, target, **{**options, "reduction": "none"})[0]).max()
    np.testing.assert_allclose(
        loss.reshape(right.shape), right, rtol=bound, atol=bound * size
    )
    largest = np.abs(right_grad).max()
    np.testing.assert_allclose(grad, right_grad, rtol=bound, atol=bound * largest)


@of_both_dtypes
def test_their_samples(dtype):
    samples = samples_of(dtype)
    compared = 0
    for sample in samples:
        x, (target,), options = sample.input, sample.args, sample.kwargs
        if options.get("margin", 1) < 0:
            with pytest.raises(ValueError, match="margin must be finite and >= 0"):
                ours(x, target, **options)
            continue
        assert_equal(x, target, **options)
        compared += 1
    assert compared > 100


def draw(shape: tuple[int, int], dtype: Any) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng([*shape])
    x = torch.tensor(rng.normal(0, 1, shape).astype(dtype), requires_grad=True)
    target = torch.tensor(rng.integers(0, shape[1], shape[0]))
    return x, target, torch.tensor(rng.random(shape[1]).astype(dtype))


@of_both_dtypes
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("shape", [(1, 2), (9, 16), (130, 17), (200, 10), (5, 3000)])
def test_other_shapes(shape, reduction, p, dtype):
    x, target, weight = draw(shape, dtype)
    for margin in (0.0, 0.25, 3.0):
        for weights in (None, weight):
            assert_equal(
                x, target, p=p, margin=margin, weight=weights, reduction=reduction
            )


@of_both_dtypes
def test_columns_in_memory(dtype):
    x, target, _ = draw((130, 30), dtype)
    columns = x.detach().T.contiguous().T.requires_grad_()
    assert not columns.is_contiguous()
    assert_equal(columns, target)


@of_both_dtypes
@pytest.mark.parametrize("classes", [4, 40])
def test_a_nan_that_they_swallow_shows_here(classes, dtype):
    x, target, _ = draw((3, classes), dtype)
    with torch.no_grad():
        x[:] = -100
        x[range(3), target] = 0
        x[1, (target[1] + 1) % classes] = float("nan")
    right, _ = theirs(x, target, reduction="none")
    np.testing.assert_array_equal(right, 0)
    loss, grad = ours(x, target, reduction="none")
    np.testing.assert_array_equal(loss, [0, np.nan, 0])
    assert np.isnan(grad[1]).sum() == 2
