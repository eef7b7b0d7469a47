"""The softmax family for CuPy arrays, on the stand-in: no GPU runs."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from oracle.softmaxes import by_table

from fastsoftmax import (
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    softmax,
    softmax_vjp,
)
from gpu import stand_in
from gpu.judging import (
    DTYPES,
    HALVES,
    LAYOUTS,
    Array,
    assert_close,
    computed,
    draw,
    reference,
    run,
)

FUNCTIONS = [softmax, log_softmax, logsumexp]
of_all = pytest.mark.parametrize("function", FUNCTIONS)
of_two = pytest.mark.parametrize("function", [softmax, logsumexp])
of_both = pytest.mark.parametrize("function", FUNCTIONS[:2])
of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def check(function: Any, result: Array, x: Array, axis: Any) -> None:
    """Judge a result for finite logits."""
    assert result.dtype == (np.float64 if x.dtype.kind in "biu" else x.dtype)
    wide = x.astype(np.float64)
    expected = reference(function.__name__, wide, axis)
    magnitude = None
    if function is logsumexp:
        magnitude = reference("largest", wide, axis)
    assert_close(result, expected, magnitude)


def _extent(array: Any) -> int:
    """Bytes from the first element to the last, if no stride is negative."""
    steps = zip(array.shape, array.strides, strict=True)
    return array.itemsize + sum((size - 1) * step for size, step in steps)


# ---- types, axes, layouts ----


@of_all
@of_every_dtype
def test_every_dtype(cupy, dtype, function):
    cases = [((37, 10), -1), ((3, 10, 5), 1), ((5, 64), -1), ((3, 33), 1)]
    for shape, axis in cases[:2] if dtype in HALVES else cases:
        x = draw(shape, dtype)
        check(function, run(function, cupy.asarray(x), axis=axis), x, axis)


@of_all
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64])
def test_integers(cupy, dtype, function):
    x = np.random.default_rng(0).integers(0, 50, (6, 10)).astype(dtype)
    y = run(function, cupy.asarray(x), axis=-1)
    check(function, y, x, -1)
    single = run(function, cupy.asarray(x), axis=-1, dtype=np.float32)
    assert single.dtype == np.float32
    assert_close(single, y)


@of_two
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(cupy, layout, function):
    x = draw((4, 6, 8))
    array = LAYOUTS[layout](cupy, x)
    np.testing.assert_array_equal(array.get(), x)
    for axis in (-1, 0, None, (0, 2)):
        y = function(array, axis=axis)
        check(function, y.get(), x, axis)
        dense = _extent(array) == array.nbytes
        if function is not logsumexp and dense and axis != (0, 2):
            assert y.strides == array.strides


@of_all
def test_a_broadcast_array(cupy, function):
    x = draw((6, 1, 8))
    array = cupy.broadcast_to(cupy.asarray(x), (6, 5, 8))
    whole = np.broadcast_to(x, (6, 5, 8))
    for axis in (-1, 1, (0, 1)):
        check(function, run(function, array, axis=axis), whole, axis)


LONG = [
    ((2, 2000), 1, 1),
    ((2, 9001), 1, 1),
    ((1, 40_000), 1, 1),
    ((1, 262_149), 1, 2),
    ((2, 70, 33), 1, 1),
    ((1, 1500, 33), 1, 1),
    ((1, 8200, 2), 1, 2),
]


@of_all
@pytest.mark.parametrize(("shape", "axis", "count"), LONG, ids=str)
def test_long_rows_and_columns(cupy, counted, shape, axis, count, function):
    x = draw(shape)
    y = run(function, cupy.asarray(x), axis=axis)
    check(function, y, x, axis)
    most = 2 if function is logsumexp else count  # nothing to write: no clusters
    assert count <= len(stand_in.machine.launches) <= most


def test_long_rows_in_double(cupy):
    function = softmax
    for shape in ((2, 1000), (2, 3001), (1, 20_000)):
        x = draw(shape, np.float64)
        check(function, run(function, cupy.asarray(x), axis=-1), x, -1)


@of_both
def test_temperature(cupy, function):
    x = draw((6, 10))
    for temperature in (0.5, 3.0, np.float32(7), 1e-3):
        y = run(function, cupy.asarray(x), axis=-1, temperature=temperature)
        divided = (x / np.float32(temperature)).astype(np.float32)
        check(function, y, divided, -1)


@of_all
@of_every_dtype
def test_dtype_argument(cupy, dtype, function):
    x = draw((6, 10), np.float64)
    y = run(function, cupy.asarray(x), axis=-1, dtype=dtype)
    assert y.dtype == dtype
    wide = x.astype(computed(dtype)).astype(np.float64)
    assert_close(
        y, reference(function.__name__, wide, -1), 40 * (function is logsumexp)
    )


@of_all
def test_logits_that_float16_cannot_hold(cupy, function):
    x = np.array([[70000.0, 69999.0, 0.0]])
    options = {"axis": -1, "dtype": np.float16}
    want = function(x, **options)
    y = run(function, cupy.asarray(x), **options)
    np.testing.assert_array_equal(y, want)
    out = cupy.empty(want.shape, np.float16)
    assert function(cupy.asarray(x), out=out, **options) is out
    np.testing.assert_array_equal(out.get(), want)
    with pytest.raises(TypeError, match="out must have dtype float16"):
        function(cupy.asarray(x), out=cupy.empty(want.shape, np.float32), **options)


# ---- where ----


@of_two
@pytest.mark.parametrize("layout", ["C", "swapped", "backwards", "one element off"])
def test_where(cupy, layout, function):
    x = draw((4, 6, 8))
    array = LAYOUTS[layout](cupy, x)
    rng = np.random.default_rng(1)
    for shape, axes in (((4, 6, 8), (-1, 0, (0, 2))), ((6, 1), (-1,)), ((8,), (0,))):
        mask = rng.random(shape) < 0.7
        on_device = cupy.asarray(mask)
        for axis in axes:
            y = run(function, array, axis=axis, where=on_device)
            want = function(x.astype(np.float64), axis=axis, where=mask)
            assert_close(y, want, 40 if function is logsumexp else None)


@of_all
def test_where_in_long_rows(cupy, function):
    for shape, axis in (((2, 2000), 1), ((1, 40_000), 1), ((1, 700, 33), 1)):
        x = draw(shape)
        mask = np.random.default_rng(2).random(shape) < 0.5
        mask[..., -1] = False
        y = run(function, cupy.asarray(x), axis=axis, where=cupy.asarray(mask))
        want = function(x.astype(np.float64), axis=axis, where=mask)
        assert_close(y, want, 40 if function is logsumexp else None)


@of_all
def test_where_as_a_python_bool(cupy, function):
    x = cupy.asarray(draw((6, 10)))
    np.testing.assert_array_equal(
        run(function, x, axis=-1, where=True), run(function, x, axis=-1)
    )
    nothing = run(function, x, axis=-1, where=False)
    assert (nothing == (0 if function is softmax else -np.inf)).all()


# ---- out ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place(cupy, layout):
    x, function = draw((4, 6, 8)), softmax
    for axis in (-1, (0, 2)):
        array = LAYOUTS[layout](cupy, x)
        assert function(array, axis=axis, out=array) is array
        check(function, array.get(), x, axis)


@of_two
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(cupy, layout, function):
    x = draw((4, 6, 8, 3))
    array = cupy.asarray(x)
    want = run(function, array, axis=-1)
    out = LAYOUTS[layout](cupy, np.zeros_like(want))
    assert function(array, axis=-1, out=out) is out
    np.testing.assert_array_equal(out.get(), want)


@of_both
def test_out_that_overlaps(cupy, function):
    """A row's results lie where the next row is read: a race, unless it is copied."""
    stand_in.machine.checks = True
    x = draw((5, 64))
    want = run(function, cupy.asarray(x), axis=-1)
    room = cupy.asarray(np.concatenate([x.ravel(), np.zeros(64, np.float32)]))
    array, out = room[:320].reshape(5, 64), room[64:].reshape(5, 64)
    function(array, axis=-1, out=out)
    np.testing.assert_array_equal(out.get(), want)


def test_logsumexp_out_that_overlaps(cupy):
    """A sum is written while others still read."""
    stand_in.machine.checks = True
    x = draw((5, 64))
    array = cupy.asarray(x)
    want = run(logsumexp, array, axis=-1)
    logsumexp(array, axis=-1, out=array[:, 0])
    np.testing.assert_array_equal(array[:, 0].get(), want)
    np.testing.assert_array_equal(array[:, 1:].get(), x[:, 1:])


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_out_that_overlaps_a_gradient(cupy, function):
    stand_in.machine.checks = True
    y, dy = softmax(draw((5, 64)), axis=-1), draw((5, 64), seed=1)
    want = run(function, cupy.asarray(y), cupy.asarray(dy), axis=-1)
    room = cupy.asarray(np.concatenate([dy.ravel(), np.zeros(64, np.float32)]))
    gradient, out = room[:320].reshape(5, 64), room[64:].reshape(5, 64)
    function(cupy.asarray(y), gradient, axis=-1, out=out)
    np.testing.assert_array_equal(out.get(), want)


# ---- logsumexp ----


def test_keepdims(cupy):
    x = draw((4, 6, 8))
    for layout in ("C", "F", "every third"):
        array = LAYOUTS[layout](cupy, x)
        for axis in (-1, 0, (0, 2), None, ()):
            kept = run(logsumexp, array, axis=axis, keepdims=True)
            want = logsumexp(x.astype(np.float64), axis=axis, keepdims=True)
            assert_close(kept, want, 40)


@of_every_dtype
def test_weights(cupy, dtype):
    a = draw((4, 6, 8), dtype)
    rng = np.random.default_rng(3)
    for shape in ((4, 6, 8), (8,), (6, 1), ()):
        b = np.abs(rng.normal(0, 1, shape)).astype(dtype)
        for axis in (-1, (0, 2)):
            y = run(logsumexp, cupy.asarray(a), axis=axis, b=cupy.asarray(b))
            assert y.dtype == dtype
            want = logsumexp(a.astype(float), axis=axis, b=b.astype(float))
            assert_close(y, want, 40)


@of_every_dtype
def test_signs(cupy, dtype):
    a = draw((40, 6), dtype)
    b = np.random.default_rng(3).normal(0, 1, (40, 6)).astype(dtype)
    b[::7] = 0
    mask = np.random.default_rng(4).random((40, 6)) < 0.7
    arrays = cupy.asarray(a), cupy.asarray(b), cupy.asarray(mask)
    with np.errstate(divide="ignore"):
        terms = np.where(mask, b.astype(float), 0) * np.exp(
            a.astype(float).astype(np.longdouble)
        )
        total = terms.sum(-1)
        want = np.log(abs(total))
    cancelling = abs(terms).sum(-1) / np.where(total == 0, 1, abs(total))
    log, sign = run(
        logsumexp, arrays[0], -1, b=arrays[1], where=arrays[2], return_sign=True
    )
    np.testing.assert_array_equal(sign.astype(float), np.sign(total).astype(float))
    assert (sign == -1).any()
    assert (sign == 0).any()
    assert log.dtype == sign.dtype == dtype
    assert_close(log, want, 40 * cancelling)
    alone = run(logsumexp, arrays[0], -1, b=arrays[1], where=arrays[2])
    want = np.where(sign < 0, np.nan, log.astype(float))
    np.testing.assert_array_equal(alone.astype(float), want)


@pytest.mark.parametrize("layout", ["F", "swapped", "backwards"])
def test_signs_of_other_layouts(cupy, layout):
    a = draw((4, 6, 8), np.float64)
    b = np.random.default_rng(3).normal(0, 1, (4, 6, 8))
    for axis, keepdims in ((-1, False), (0, True), ((0, 2), False), (None, True)):
        options = {"axis": axis, "keepdims": keepdims, "return_sign": True}
        array, weights = LAYOUTS[layout](cupy, a), LAYOUTS[layout](cupy, b)
        for given, on_device in ((b, weights), (None, None)):
            log, sign = run(logsumexp, array, b=on_device, **options)
            want, want_sign = logsumexp(a, b=given, **options)
            np.testing.assert_array_equal(sign, want_sign)
            np.testing.assert_allclose(log, want, rtol=1e-13)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_signs_of_nothing(cupy, shape):
    x = np.zeros(shape, np.float32)
    for axis in (0, None):
        got = run(logsumexp, cupy.asarray(x), axis=axis, return_sign=True)
        want = logsumexp(x, axis=axis, return_sign=True)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_scalar_weight_and_a_sign_without_weights(cupy):
    a = draw((4, 6))
    array = cupy.asarray(a)
    assert_close(
        run(logsumexp, array, -1, b=2.0), logsumexp(a.astype(float), -1, b=2.0), 40
    )
    log, sign = run(logsumexp, array, -1, return_sign=True)
    assert_close(log, logsumexp(a.astype(float), -1), 40)
    np.testing.assert_array_equal(sign, np.ones(4, np.float32))


def test_types_of_a_and_b_together(cupy):
    for left, right in [
        (np.float32, np.float64),
        (np.float16, np.float32),
        (np.int64, np.float32),
        (ml_dtypes.bfloat16, np.float32),
        (ml_dtypes.bfloat16, np.float16),
        (np.int8, np.int8),
    ]:
        a, b = np.arange(6).reshape(2, 3).astype(left), np.ones(3, right)
        got = run(logsumexp, cupy.asarray(a), -1, b=cupy.asarray(b))
        assert got.dtype == logsumexp(a, -1, b=b).dtype, (left, right)


# ---- nothing, and one ----


@of_all
@of_every_dtype
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
def test_empty(cupy, shape, dtype, function):
    x = cupy.asarray(np.zeros(shape, dtype))
    for axis in (None, 0, -1):
        y = run(function, x, axis=axis)
        assert y.dtype == dtype
        want = function(np.zeros(shape, dtype), axis=axis)
        np.testing.assert_array_equal(y.astype(float), np.asarray(want).astype(float))
        assert y.shape == np.shape(want)
    assert not stand_in.machine.launches


@of_all
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, -np.inf])
def test_0_dimensions(cupy, value, dtype, function):
    x = np.array(value, dtype)
    for axis in (None, 0, ()) if value == 1.5 else (None,):
        y = run(function, cupy.asarray(x), axis=axis)
        assert y.shape == ()
        assert y.dtype == dtype
        want = by_table(function.__name__, x.reshape(1).astype(float))
        np.testing.assert_array_equal(y.astype(float), np.reshape(want, ()))


# ---- launches ----


@of_all
def test_one_launch_and_no_copy(cupy, counted, function):
    for shape, axis in [((4, 6, 8), -1), ((4, 6, 8), 1), ((4, 6, 8), (0, 1))]:
        array = cupy.asarray(draw(shape))
        function(array, axis=axis)
        assert len(stand_in.machine.launches) == 1
        assert not stand_in.machine.other_kernels
        stand_in.machine.launches.clear()


@of_all
def test_a_kernel_is_looked_up_once(cupy, counted, function):
    for _ in range(3):
        function(cupy.asarray(draw((4, 8))), axis=-1)
    assert stand_in.machine.lookups == 1


def test_kernels_do_not_touch_what_they_must_not(cupy):
    """With every check of the interpreter, one call of each variant."""
    stand_in.machine.checks = True
    shapes = [(130, 10), (3, 64), (3, 33), *(shape for shape, _, _ in LONG[:3])]
    shapes += [(1, 70, 33), (1, 1100, 3), (1, 8200, 2)]
    for shape in shapes:
        x = draw((min(shape[0], 130), *shape[1:]))[: 200_000 // math.prod(shape[1:])]
        mask = np.random.default_rng(0).random(x.shape) < 0.5
        y = run(softmax, cupy.asarray(x), axis=1, where=cupy.asarray(mask))
        assert_close(y, softmax(x.astype(float), axis=1, where=mask))
