"""Every option of the softmaxes: the documented result, or a clear error."""

from __future__ import annotations

import contextlib

import ml_dtypes
import numpy as np
import pytest
from oracle import LAYOUTS, right
from oracle.arithmetic import Array, assert_right, assert_same_bits, silently
from oracle.arrays import WRITABLE, frozen
from softmax_calls import (
    INF,
    NAN,
    draw,
    of_all,
    of_both,
)

from fastsoftmax import log_softmax, logsumexp, softmax

# ---- out ----


@of_both
@pytest.mark.parametrize("axis", [0, 1, 2, None, (0, 2), (1, 2)])
@pytest.mark.parametrize("layout", WRITABLE)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_out_of_any_layout(dtype, layout, axis, function):
    x = draw((5, 19, 7), dtype)
    out = LAYOUTS[layout](np.full(x.shape, 9, dtype))
    assert function(x, axis=axis, out=out) is out
    assert_right(out, right(function, x, axis=axis))


@pytest.mark.parametrize("axis", [0, 1, 2, None, (0, 2), (1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_out_of_logsumexp(dtype, keepdims, axis):
    x = draw((5, 19, 7), dtype)
    shape = np.sum(x, axis=axis, keepdims=keepdims).shape
    for out in (
        np.empty(shape, dtype),
        np.empty(shape, dtype, order="F"),
        np.empty((2, *shape), dtype)[1, ...],
        np.empty((*shape, 3), dtype)[..., 1],
    ):
        assert logsumexp(x, axis, keepdims=keepdims, out=out) is out
        expected = right(logsumexp, x, axis=axis)
        assert_right(out.reshape(expected.value.shape), expected)


@of_both
def test_gaps_of_a_strided_out_are_left_alone(function):
    room = np.full((5, 40), 9.0)
    function(draw((5, 20)), axis=1, out=room[:, ::2])
    assert (room[:, 1::2] == 9).all()
    assert (room[:, ::2] < 9).all()


@of_both
@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("layout", WRITABLE)
def test_out_may_be_x_itself(layout, axis, function):
    plain = draw((30, 70), np.float32)
    x = LAYOUTS[layout](plain)
    assert function(x, axis=axis, out=x) is x
    assert_right(x, right(function, plain, axis=axis))


@of_both
@pytest.mark.parametrize("where", [None, np.arange(40) % 4 > 0])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_out_that_overlaps_x(dtype, axis, where, function):
    for of_x, of_out in (
        (np.s_[:-1], np.s_[1:]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[::-1], np.s_[:]),
        (np.s_[:, ::-1], np.s_[:]),
        (np.s_[::2], np.s_[:20]),
    ):
        room = draw((40, 40), dtype)
        expected = function(room[of_x].copy(), axis=axis, where=where)
        function(room[of_x], axis=axis, where=where, out=room[of_out])
        assert_same_bits(room[of_out], expected)
    room = draw((40, 40), dtype)
    expected = function(room.T.copy(), axis=axis, where=where)
    function(room.T, axis=axis, where=where, out=room)
    assert_same_bits(room, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_out_of_logsumexp_that_overlaps_a(axis):
    for place in (0, 17, 39):
        room = draw((40, 40))
        expected = logsumexp(room, axis=axis)
        for out in (room[place], room[:, place]):
            room[...] = draw((40, 40))
            logsumexp(room, axis=axis, out=out)
            np.testing.assert_array_equal(out, expected)


@of_both
def test_out_that_overlaps_where(function):
    x = draw((400, 16))
    out = np.zeros((400, 16))
    where = out.view(bool)[::-1, ::8]  # the last row's in what is written first
    where[...] = x > 0
    expected = function(x, axis=1, where=x > 0)
    np.testing.assert_array_equal(function(x, axis=1, where=where, out=out), expected)


@of_all
def test_out_that_does_not_fit(function):
    x = draw((3, 4), np.float32)
    shape = (3,) if function is logsumexp else (3, 4)
    good = np.empty(shape, np.float32)
    function(x, axis=1, out=good)
    for out, error, words in (
        (np.empty(shape, np.float64), TypeError, "float32.*float64"),
        (np.empty(shape, ">f4"), TypeError, "float32.*>f4"),
        (np.empty(shape, int), TypeError, "float32.*int64"),
        (np.empty((4, 3), np.float32), ValueError, rf"\({shape[0]},.*\(4, 3\)"),
        (np.empty((1, *shape), np.float32), ValueError, "shape"),
        (np.empty((), np.float32), ValueError, "shape"),
        (frozen(good.copy()), ValueError, "read-only"),
        ([0.0] * 3, TypeError, "list"),
        (np.float32(1), TypeError, "float32"),
        ((good,), TypeError, "tuple"),
    ):
        with pytest.raises(error, match=words):
            function(x, axis=1, out=out)


@of_all
def test_out_of_a_scalar(function):
    out = np.empty((), np.float64)
    assert function(2.0, out=out) is out
    assert out == {softmax: 1, log_softmax: 0, logsumexp: 2}[function]


@of_all
def test_out_of_empties(function):
    out = np.full((0, 3) if function is not logsumexp else (3,), 9.0)
    assert function(np.empty((0, 3)), axis=0, out=out) is out
    assert (out == -INF).all()


# ---- where ----


WHERE_SHAPES = [(5, 19, 7), (19, 7), (7,), (1, 7), (5, 1, 1), (5, 19, 1), (1,), ()]


@of_all
@pytest.mark.parametrize("shape", WHERE_SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float16])
def test_where_broadcasts(dtype, shape, function):
    x = draw((5, 19, 7), dtype)
    where = np.random.default_rng(2).random(shape) < 0.7
    kept = np.broadcast_to(where, x.shape)
    for axis in (0, 1, 2, None, (0, 2), (1, 2)):
        y = silently(function, x, axis=axis, where=where)
        assert_right(y, right(function, x, axis=axis, where=kept), f"axis {axis}")


@of_all
@pytest.mark.parametrize(
    "layout", ["F", "backwards", "every third", "first axis backwards"]
)
@pytest.mark.parametrize("axis", [0, 1, (0, 2)])
def test_where_of_any_layout(axis, layout, function):
    x = draw((5, 19, 7), np.float32)
    where = x > -3
    expected = function(x, axis=axis, where=where)
    y = function(x, axis=axis, where=LAYOUTS[layout](where))
    assert_same_bits(y, expected)
    y = function(x, axis=axis, where=where.tolist())
    np.testing.assert_array_equal(y, expected)


@of_all
@pytest.mark.parametrize("where", [True, np.True_, [True], np.ones((1, 1), bool)])
def test_where_true_is_everything(where, function):
    x = draw((4, 6))
    y = function(x, axis=1, where=where)
    assert_right(y, right(function, x, axis=1))


@of_all
@pytest.mark.parametrize(
    "where", [1, [1, 0, 1, 0], 1.0, "yes", np.ones(4, "u1"), [None]]
)
def test_where_must_be_boolean(where, function):
    with pytest.raises(TypeError, match="where must be boolean") as error:
        function(draw((3, 4)), axis=1, where=where)
    is_integer = np.asarray(where).dtype.kind in "iu"
    assert (".astype(bool)" in str(error.value)) == is_integer


def test_int64_beyond_what_a_double_holds_is_rounded_first():
    """The table of what differs from SciPy says so, and what helps."""
    x = np.array([2**53 + 1, 2**53])
    np.testing.assert_array_equal(softmax(x), 0.5)
    np.testing.assert_array_equal(softmax(x - x.max()), softmax([0, -1]))


@of_all
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 4), (1, 3, 4), (0,), (3, 5)])
def test_where_must_broadcast_to_x(shape, function):
    with pytest.raises(ValueError, match=r"where.*\(3, 4\)"):
        function(draw((3, 4)), axis=1, where=np.ones(shape, bool))


@of_all
def test_a_masked_where_is_refused(function):
    where = np.ma.array([True, False, True], mask=[True, False, False])
    with pytest.raises(TypeError, match=r"where\.filled"):
        function(np.zeros(3), where=where)


# ---- dtype ----


@of_all
@pytest.mark.parametrize("given", [np.float32, np.float64, np.float16, np.int32, bool])
@pytest.mark.parametrize("wanted", ["f4", np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_dtype_is_computed_in_and_returned(given, wanted, axis, function):
    x = draw((7, 70)).astype(given)
    y = silently(function, x, axis=axis, dtype=wanted)
    assert y.dtype == np.dtype(wanted)
    compute = np.float32 if np.dtype(wanted).itemsize == 2 else wanted
    expected = function(x.astype(compute), axis=axis).astype(wanted)
    np.testing.assert_array_equal(y.astype(np.float64), expected.astype(np.float64))


@of_all
@pytest.mark.parametrize("dtype", [np.longdouble, np.complex64])
def test_dtype_that_has_no_kernels(dtype, function):
    y = silently(function, draw((3, 4)), axis=1, dtype=dtype)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, function(draw((3, 4)), axis=1), rtol=1e-5)


@of_all
@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_dtype_is_native(dtype, function):
    y = function(draw((3, 4)), axis=1, dtype=dtype)
    assert y.dtype == np.dtype(dtype).newbyteorder("=")
    assert y.dtype.isnative


@of_all
@pytest.mark.parametrize("dtype", [int, bool, object, "M8[s]", "U3", [("a", "f4")]])
def test_dtype_must_be_floating(dtype, function):
    with pytest.raises(TypeError, match="dtype"):
        function(draw((3, 4)), axis=1, dtype=dtype)


@of_all
def test_dtype_must_hold_complex_numbers(function):
    with pytest.raises(TypeError, match="complex"):
        function(draw((3, 4)) + 1j, axis=1, dtype=np.float64)


@of_all
def test_values_beyond_float32(function):
    x = np.array([1e300, 0.0])
    expected = {softmax: [1, 0], log_softmax: [0, -INF], logsumexp: INF}[function]
    np.testing.assert_array_equal(silently(function, x, dtype=np.float32), expected)
    x = x.astype(np.longdouble)
    np.testing.assert_array_equal(silently(function, x, dtype=np.float32), expected)


# ---- temperature ----


@of_both
@pytest.mark.parametrize(
    "temperature", [0.5, 2, np.float32(0.7), np.array(3.0), 1, True]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("axis", [0, 1, None, (0, 2)])
def test_temperature(dtype, temperature, axis, function):
    x = draw((5, 19, 7), dtype)
    y = silently(function, x, axis=axis, temperature=temperature)
    assert_right(y, right(function, x, axis=axis, temperature=temperature))


@of_both
@pytest.mark.parametrize("layout", LAYOUTS)
def test_temperature_with_other_options(layout, function):
    x = LAYOUTS[layout](draw((5, 70), np.float32))
    where, out = x > -2, np.empty((5, 70), np.float64)
    options = {"axis": 1, "where": where, "dtype": np.float64}
    y = function(x, **options, temperature=0.3, out=out)
    assert y is out
    expected = function(x.astype(np.float64) / 0.3, axis=1, where=where)
    np.testing.assert_array_equal(y, expected)


@of_both
@pytest.mark.parametrize("temperature", [0, 0.0, -0.0, -1, NAN, INF, -INF, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.longdouble])
def test_temperature_must_be_finite_and_positive(dtype, temperature, function):
    with pytest.raises(ValueError, match="temperature must be finite and > 0"):
        function(draw((3, 4)).astype(dtype), axis=1, temperature=temperature)


@of_both
@pytest.mark.parametrize("temperature", [1e-50, 1e50])
def test_temperature_must_fit_the_dtype(temperature, function):
    x = draw((3, 4))
    with pytest.raises(ValueError, match=r"temperature.*float32"):
        function(x.astype(np.float32), axis=1, temperature=temperature)
    y = silently(function, x, axis=1, temperature=temperature)
    assert_right(y, right(function, x, axis=1, temperature=temperature))


@of_both
@pytest.mark.parametrize("temperature", [["1"], [1j], "1", None, 1j, "warm"])
def test_temperature_must_be_a_number(temperature, function):
    with pytest.raises(TypeError, match="temperature"):
        function(draw((3, 4)), axis=1, temperature=temperature)


@of_both
def test_temperatures_beyond_double(function):
    with pytest.raises(ValueError, match="temperature must be finite"):
        function(np.zeros(3), temperature=10**400)
    x, t = np.longdouble([1, 2, 3]), np.longdouble(1) / 10
    assert (function(x, temperature=t) == function(x / t)).all()


class Reshapes:
    """A mask that gives an argument another shape when it is asked for its array."""

    def __init__(self, argument: Array) -> None:
        self.argument = argument

    def __array__(self, dtype=None, copy=None) -> Array:
        self.argument.resize((1, *self.argument.shape[::-1]), refcheck=False)
        return np.array(True)


@pytest.mark.parametrize("which", ["a", "out"])
def test_arrays_that_change_shape_during_a_call_end_no_process(which):
    arrays = {"a": np.ones((20_000, 3)), "out": np.zeros(20_000)}
    with contextlib.suppress(ValueError):
        logsumexp(**arrays, axis=-1, where=Reshapes(arrays[which]))
