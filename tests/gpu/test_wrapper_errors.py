"""What the functions refuse of CuPy arrays, before anything is launched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

from fastsoftmax import (
    hinge_loss,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)
from gpu import stand_in
from gpu.judging import draw

of_all = pytest.mark.parametrize("function", [softmax, log_softmax, logsumexp])
of_both = pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
HOST = draw((4, 6))


@pytest.fixture
def x(cupy: Any) -> Iterator[Any]:
    yield cupy.asarray(HOST)
    assert not stand_in.machine.launches
    assert not stand_in.machine.waits


# ---- NumPy beside CuPy ----


@of_all
def test_numpy_arrays_beside_cupy_arrays(cupy, x, function):
    for name, value in (("where", HOST > 0), ("out", HOST), ("where", [True] * 6)):
        message = f"{name} must be a CuPy array.*{type(value).__name__}"
        with pytest.raises(TypeError, match=message):
            function(x, axis=-1, **{name: value})
    with pytest.raises(TypeError, match="must be a CuPy array"):
        function(HOST, axis=-1, where=x)


def test_numpy_weights_beside_cupy_exponents(cupy, x):
    with pytest.raises(TypeError, match=r"b must be a CuPy array.*numpy\.ndarray"):
        logsumexp(x, b=HOST)
    with pytest.raises(TypeError, match="a must be a CuPy array"):
        logsumexp(HOST, b=x)


@of_both
def test_numpy_gradients_beside_cupy_arrays(cupy, x, function):
    with pytest.raises(TypeError, match="dy must be a CuPy array"):
        function(x, HOST)
    with pytest.raises(TypeError, match="y must be a CuPy array"):
        function(HOST, x)
    with pytest.raises(TypeError, match="out must be a CuPy array"):
        function(x, x, out=HOST)


def test_numpy_beside_cupy_in_hinge_losses(cupy, x):
    for name, value in (
        ("labels", np.zeros(4, int)),
        ("labels", [0, 1, 2, 3]),
        ("sample_weight", np.ones(4)),
        ("where", HOST > 0),
    ):
        with pytest.raises(TypeError, match=f"{name} must be a CuPy array"):
            hinge_loss(x, **{name: value})
    with pytest.raises(TypeError, match="neg must be a CuPy array"):
        pair_hinge_loss(x[:, 0], HOST)
    with pytest.raises(TypeError, match="pos must be a CuPy array"):
        pair_hinge_loss(HOST[:, 0], x)


def test_none_beside_cupy_arrays(cupy, x):
    for call, name in (
        (lambda: softmax(None, where=x), "x"),
        (lambda: logsumexp(None, b=x), "a"),
        (lambda: softmax_vjp(None, x), "y"),
        (lambda: softmax_vjp(x, None), "dy"),
        (lambda: pair_hinge_loss(x, None), "neg"),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be a CuPy array, got None"):
            call()


# ---- types ----


@of_all
def test_complex_numbers(cupy, x, function):
    with pytest.raises(TypeError, match=r"real numbers.*complex64"):
        function(x.astype(np.complex64))
    with pytest.raises(TypeError, match=r"dtype.*complex128"):
        function(x, dtype=np.complex128)


@of_all
def test_dtypes_that_no_kernel_has(cupy, x, function):
    for dtype in (np.longdouble, np.int32, bool):
        with pytest.raises(TypeError, match="dtype"):
            function(x, dtype=dtype)


@of_both
def test_complex_gradients(cupy, x, function):
    for arrays in ((x, x.astype(np.complex64)), (x.astype(np.complex64), x)):
        with pytest.raises(TypeError, match="real"):
            function(*arrays)


def test_types_in_hinge_losses(cupy, x):
    for arrays in ((x.astype(np.complex64),), (x, x[:, 0].astype(np.complex64))):
        with pytest.raises(TypeError):
            hinge_loss(*arrays)
    with pytest.raises(TypeError, match="labels must be integers"):
        hinge_loss(x, x[:, 0])
    with pytest.raises(TypeError, match="labels must be integers"):
        hinge_loss(x, cupy.asarray(np.ones(4, bool)))
    with pytest.raises(TypeError, match="labels must be integers"):
        hinge_loss(x[0], 1.5)
    with pytest.raises(TypeError, match="sample_weight"):
        hinge_loss(x, sample_weight=x[:, 0].astype(np.complex64))
    with pytest.raises(TypeError, match="where must be boolean"):
        hinge_loss(x, where=x)
    with pytest.raises(TypeError, match="not both"):
        hinge_loss(x, cupy.asarray(np.zeros(4, int)), negatives=2)


@of_all
def test_where_that_is_not_boolean(cupy, x, function):
    with pytest.raises(TypeError, match="where must be boolean, got dtype float32"):
        function(x, where=x)


# ---- shapes, axes, numbers ----


@of_all
def test_axes(cupy, x, function):
    for axis in (2, -3, (0, 5)):
        with pytest.raises(AxisError):
            function(x, axis=axis)
    with pytest.raises(ValueError, match="duplicate"):
        function(x, axis=(0, 0))
    for axis in (1.0, "0", True):
        with pytest.raises(TypeError, match="axis"):
            function(x, axis=axis)


@of_all
def test_where_that_does_not_broadcast(cupy, x, function):
    for shape in ((5,), (4, 5), (2, 4, 6)):
        with pytest.raises(ValueError, match="where of shape"):
            function(x, where=cupy.asarray(np.ones(shape, bool)))


@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_out_that_does_not_fit(cupy, x, function):
    for shape, dtype, error in (
        ((4, 6), np.float64, TypeError),
        ((4, 6), np.float16, TypeError),
        ((6, 4), np.float32, ValueError),
        ((4, 6, 1), np.float32, ValueError),
        ((24,), np.float32, ValueError),
    ):
        with pytest.raises(error, match="out must have"):
            function(x, axis=-1, out=cupy.empty(shape, dtype))
    with pytest.raises(TypeError, match="out must have dtype float64"):
        function(x, axis=-1, dtype=np.float64, out=x)


def test_out_of_logsumexp_that_does_not_fit(cupy, x):
    for shape, dtype, error in (
        ((4,), np.float64, TypeError),
        ((6,), np.float32, ValueError),
        ((4, 1), np.float32, ValueError),
        ((), np.float32, ValueError),
    ):
        with pytest.raises(error, match="out must have"):
            logsumexp(x, axis=-1, out=cupy.empty(shape, dtype))
    with pytest.raises(ValueError, match=r"shape \(4, 1\)"):
        logsumexp(x, -1, keepdims=True, out=cupy.empty((4,), np.float32))


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("temperature", [0, -1.0, np.inf, np.nan, 1e300])
def test_temperatures(cupy, x, temperature, function):
    with pytest.raises(ValueError, match="temperature must be finite and > 0"):
        function(x, temperature=temperature)


def test_a_temperature_that_is_no_number(cupy, x):
    for temperature in ("1", None, 1j):
        with pytest.raises(TypeError, match="temperature"):
            softmax(x, temperature=temperature)


@of_both
def test_gradients_that_do_not_broadcast(cupy, x, function):
    with pytest.raises(ValueError, match="dy of shape"):
        function(x, x[:, :5])
    with pytest.raises(ValueError, match="dy of shape"):
        function(x[0], x)


def test_weights_that_do_not_broadcast(cupy, x):
    with pytest.raises(ValueError, match="b of shape"):
        logsumexp(x, b=x[:, :5])


def test_shapes_in_hinge_losses(cupy, x):
    labels = cupy.asarray(np.zeros(5, int))
    for call, message in (
        (lambda: hinge_loss(x, labels), "labels must have one element"),
        (lambda: hinge_loss(x, sample_weight=x[:3, 0]), "a weight for each row"),
        (lambda: hinge_loss(x, negatives=2), "flat vector"),
        (lambda: hinge_loss(x.reshape(-1), negatives=4), "multiple of 5"),
        (lambda: hinge_loss(x[:, :0]), "a positive and its negatives"),
        (lambda: hinge_loss(cupy.asarray(1.0)), "a positive and its negatives"),
        (lambda: pair_hinge_loss(x[:3, 0], x), "one score for each row"),
        (lambda: hinge_loss(x, where=cupy.asarray([True] * 5)), "where of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_options_of_hinge_losses(cupy, x):
    for options, message in (
        ({"p": 3}, "p must be 1 or 2"),
        ({"variant": "most"}, "variant must be one of"),
        ({"reduction": "all"}, "reduction must be one of"),
        ({"margin": -1.0}, "margin must be finite"),
        ({"margin": np.nan}, "margin must be finite"),
        ({"reduction": "pairs", "return_grad": True}, "return_grad=True needs a loss"),
    ):
        with pytest.raises(ValueError, match=message):
            hinge_loss(x, **options)
        with pytest.raises(ValueError, match=message):
            pair_hinge_loss(x[:, 0], x, **options)
