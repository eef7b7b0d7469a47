"""The gradients equal those of PyTorch's autograd, computed in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle.arithmetic import Array, silently
from vjp_calls import FORWARD, of_both

from fastsoftmax import softmax_vjp

torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install torch")


def by_autograd(function, x: Array, dy: Array, axis, temperature: float) -> Array:
    """What backward() leaves in x.grad; PyTorch knows one axis, so they are joined."""
    forward = torch.softmax if function is softmax_vjp else torch.log_softmax
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis).astype(int)
    axes = tuple(int(a) % x.ndim for a in axes)
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    n = math.prod(x.shape[a] for a in axes)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    rows = leaf.permute(kept + axes).reshape(-1, n)
    gradient = torch.tensor(np.ascontiguousarray(dy), dtype=torch.float64)
    forward(rows / temperature, dim=-1).backward(
        gradient.permute(kept + axes).reshape(-1, n)
    )
    return leaf.grad.numpy()


@st.composite
def problems(draw):
    """Logits, a gradient that broadcasts against them, axes, a temperature."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=40))
    if math.prod(shape) > 20_000:
        shape = shape[:2]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(0, draw(st.sampled_from([0.1, 2, 15])), shape)
    first = draw(st.integers(0, len(shape)))
    narrow = [draw(st.booleans()) for _ in shape]
    shape_of_dy = tuple(
        1 if one else size for one, size in zip(narrow, shape, strict=True)
    )[first:]
    dtype = draw(
        st.sampled_from([np.float64, np.float32, np.float16, np.int8, np.int64])
    )
    dy = rng.normal(0, 3, shape_of_dy).astype(dtype)
    some = st.permutations(range(len(shape))).flatmap(
        lambda p: st.integers(1, len(shape)).map(lambda n: tuple(p[:n]))
    )
    one = st.integers(-len(shape), len(shape) - 1)
    axis = draw(st.one_of(st.none(), one, some))
    return x, dy, axis, draw(st.sampled_from([1.0, 0.5, 0.3, 7.0]))


def assert_agree(function, problem, dtype, rtol: float) -> None:
    """Relative to the largest entry of dy where the entries themselves cancel."""
    x, dy, axis, temperature = problem
    x = x.astype(dtype)
    y = FORWARD[function](x, axis=axis, temperature=temperature)
    dx = silently(function, y, dy, axis=axis, temperature=temperature)
    dy = np.broadcast_to(dy, x.shape).astype(np.float64)
    expected = by_autograd(function, x.astype(np.float64), dy, axis, temperature)
    assert dx.dtype == np.result_type(y, problem[1])
    n = math.prod(x.shape)
    atol = n * np.finfo(dtype).eps * abs(dy).max() / temperature
    np.testing.assert_allclose(dx, expected, rtol=rtol, atol=atol)


@of_both
@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_double(function, problem):
    assert_agree(function, problem, np.float64, 1e-9)


@of_both
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_float32_logits(function, problem):
    assert_agree(function, problem, np.float32, 1e-5)


@of_both
def test_agrees_over_axes_and_lengths(function):
    rng = np.random.default_rng(2)
    for shape in ((3, 5000), (300, 257), (2, 70_000), (6, 33, 65)):
        x, dy = rng.normal(size=(2, *shape))
        for axis in (0, 1, -1, None, (0, len(shape) - 1)):
            assert_agree(function, (x, dy, axis, 0.7), np.float64, 1e-9)
