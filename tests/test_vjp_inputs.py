"""Every kind of y, dy and out for the gradients: the right result, or a clear error."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.exceptions import AxisError
from oracle import LAYOUTS, right
from oracle.arithmetic import (
    HALVES,
    Array,
    assert_right,
    assert_same_bits,
    needs_wide,
    silently,
)
from oracle.arrays import WRITABLE as FOR_OUT
from oracle.arrays import frozen
from vjp_calls import draw, of_both

from fastsoftmax import softmax_vjp

SHAPE = (5, 19, 7)
AXES = [0, 1, -1, None, (0, 1), (0, 2)]
INF, NAN = np.inf, np.nan


# ---- layouts ----


@of_both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=needs_wide), *HALVES]
)
def test_layouts(dtype, layout, function):
    """Of y, beside every layout of dy."""
    y, dy = draw(function, SHAPE, dtype)
    laid_out = LAYOUTS[layout](y)
    for axis in AXES:
        expected = right(function, y, dy, axis=axis)
        for other in LAYOUTS:
            dx = silently(function, laid_out, LAYOUTS[other](dy), axis=axis)
            assert dx.dtype == dtype
            assert dx.dtype.isnative
            assert_right(dx, expected, f"axis {axis}, dy {other}")
    np.testing.assert_array_equal(laid_out, y)


@of_both
def test_inputs_are_never_written_to(function):
    for layout, dtype in itertools.product(LAYOUTS, (np.float32, np.float16)):
        given = [LAYOUTS[layout](x) for x in draw(function, (3, 70, 5), dtype)]
        before = [x.copy() for x in given]
        for axis in AXES:
            expected = function(*given, axis=axis)
            out = np.empty_like(expected)
            function(*given, axis=axis, temperature=2, out=out)
            for x, same in zip(given, before, strict=True):
                np.testing.assert_array_equal(x, same)
            assert_same_bits(function(*map(frozen, given), axis=axis), expected)


@of_both
@pytest.mark.parametrize("axis", [0, 1])
def test_overlapping_windows(axis, function):
    y, dy = draw(function, (40,), axis=None)
    windows = [np.lib.stride_tricks.sliding_window_view(x, 9) for x in (y, dy)]
    dx = function(*windows, axis=axis)
    assert_same_bits(dx, function(*(x.copy() for x in windows), axis=axis))


# ---- dy broadcasts against y ----

SHAPES_OF_DY = [(), (1,), (7,), (1, 7), (19, 1), (19, 7), (5, 1, 1), (1, 19, 7)]


@of_both
@pytest.mark.parametrize("axis", [*AXES, 2, (1, 2), ()])
@pytest.mark.parametrize("shape", [*SHAPES_OF_DY, (5, 19, 1), (5, 1, 7), (1, 1, 1)])
def test_dy_broadcasts(shape, axis, function):
    for dtype in (np.float32, np.float16):
        y = draw(function, SHAPE, dtype)[0]
        dy = np.random.default_rng(3).normal(size=shape).astype(dtype)
        for given in (dy, dy.tolist(), dy.astype(">f4")):
            dx = silently(function, y, given, axis=axis)
            assert dx.shape == SHAPE
            expected = right(function, y, dy, axis=axis, dtype=dx.dtype)
            assert_right(dx, expected, f"{dtype} {type(given)}")


@of_both
@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
@pytest.mark.parametrize("shape", [(4, 1), (1, 6), (1, 1)])
def test_y_may_be_broadcast(shape, axis, function):
    y = np.broadcast_to(draw(function, shape, np.float32)[0], (4, 6))
    dy = draw(function, (4, 6), np.float32)[1]
    assert_right(
        silently(function, y, dy, axis=axis), right(function, y, dy, axis=axis)
    )


@of_both
@pytest.mark.parametrize(
    ("of_y", "of_dy"),
    [
        ((3, 4), (3,)),
        ((3, 4), (4, 3)),
        ((3, 1), (3, 4)),
        ((1,), (3,)),
        ((4,), (1, 4)),
        ((4,), (3, 4)),
        ((), (1,)),
        ((), (2,)),
        ((0,), (2,)),
        ((3, 4), (0,)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"temperature": 2}, {"axis": -1}])
def test_dy_that_does_not_broadcast(options, of_y, of_dy, function):
    """Nor does y broadcast against dy: the result has the shape of y."""
    for dtype in (np.float32, np.longdouble):
        with pytest.raises(ValueError, match="dy of shape") as error:
            function(np.zeros(of_y, dtype), np.zeros(of_dy, dtype), **options)
        assert str(of_y) in str(error.value)
        assert f"dy of shape {of_dy}" in str(error.value)


# ---- kinds of input ----


@of_both
def test_lists_and_numbers(function):
    y = [0.25, 0.75]
    expected = function(np.array(y), np.array([1.0, 1.0]))
    for dy in ([1, 1], (1.0, 1), 1, 1.0, True, np.int8(1), np.float32(1)):
        dx = silently(function, y, dy)
        assert type(dx) is np.ndarray
        assert_same_bits(dx, expected)


@of_both
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.longdouble])
def test_pythons_numbers_take_the_type_of_y(dtype, function):
    y = draw(function, (3, 4), dtype)[0]
    for dy in (1, 0.5, True):
        assert function(y, dy, axis=-1).dtype == dtype


class Subclass(np.ndarray):
    pass


@of_both
@pytest.mark.parametrize("wrap", [memoryview, lambda x: x.view(Subclass)])
def test_array_likes_give_plain_arrays(wrap, function):
    y, dy = draw(function, (4, 6))
    for given in ((wrap(y), dy), (y, wrap(dy)), (wrap(y), wrap(dy))):
        dx = function(*given, axis=1)
        assert type(dx) is np.ndarray
        assert_same_bits(dx, function(y, dy, axis=1))


@of_both
@pytest.mark.parametrize("bad", ["text", ["1", "2"], None, np.zeros(2, "M8[s]")])
@pytest.mark.parametrize("options", [{}, {"axis": -1}, {"temperature": 2}])
def test_what_is_not_numbers(options, bad, function):
    good = np.ones(2)
    with pytest.raises(TypeError, match=r"^y must hold numbers"):
        function(bad, good, **options)
    with pytest.raises(TypeError, match=r"^dy must hold numbers"):
        function(good, bad, **options)


@of_both
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.clongdouble])
def test_complex_numbers_are_refused(dtype, function):
    good, bad = np.ones(3, np.float32), np.ones(3, dtype)
    for y, dy in ((good, bad), (bad, good), (bad, bad), (good, 1j)):
        with pytest.raises(TypeError, match="y and dy must be real") as error:
            function(y, dy, axis=0)
        for given in (y, dy):
            assert str(np.asarray(given).dtype) in str(error.value)


@of_both
def test_masked_arrays_are_refused(function):
    good, bad = np.ones(3), np.ma.array(np.ones(3), mask=[True, False, False])
    with pytest.raises(TypeError, match=r"^y is a masked array"):
        function(bad, good, axis=0)
    with pytest.raises(TypeError, match=r"^dy is a masked array"):
        function(good, bad, axis=0)


# ---- where and dtype ----


def with_rubbish(function, dtype) -> tuple[Array, Array, Array, list[Array]]:
    """y and dy with NaN and infinities where a mask is False; the mask; both without.

    Some sets are masked out as a whole.
    """
    rng = np.random.default_rng(5)
    where = rng.random(SHAPE) < 0.6
    where[1] = where[:, 2] = where[..., 3] = False
    y, dy = draw(function, SHAPE, dtype)
    clean = [
        np.where(where, y, np.array(0 if function is softmax_vjp else -INF, dtype)),
        np.where(where, dy, np.array(0, dtype)),
    ]
    for array in (y, dy):
        array[~where] = rng.choice([NAN, INF, -INF, 7], np.sum(~where)).astype(dtype)
    return y, dy, where, clean


@of_both
@pytest.mark.parametrize("layout", ["C", "F", "backwards", "byte-swapped"])
@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=needs_wide), *HALVES]
)
def test_what_is_masked_out_is_absent(dtype, layout, function):
    y, dy, where, clean = with_rubbish(function, dtype)
    of_sets = np.linspace(0.5, 2, 19, dtype=np.float32)[:, np.newaxis]
    for axis, temperature in itertools.product(AXES, (1.0, 0.7)):
        expected = right(function, *clean, axis=axis, temperature=temperature)
        given = LAYOUTS[layout](y), LAYOUTS[layout](dy)
        options = {"axis": axis, "where": where, "temperature": temperature}
        dx = silently(function, *given, **options)
        assert dx.dtype == dtype
        assert_right(dx, expected, f"axis {axis}")
        assert not dx[~where].any()
        for out in (np.empty_like(y), y.copy(), dy.copy()):
            assert silently(function, y, dy, out=out, **options) is out
            assert_right(out, expected)
        for place, out in enumerate(given):
            if out.dtype.isnative:
                silently(function, *given, out=out, **options)
                assert_right(out, expected)
                given[place][...] = (y, dy)[place]
    dx = silently(function, y, dy, axis=-1, where=where, temperature=of_sets)
    for i, value in enumerate(of_sets[:, 0]):
        expected = right(
            function, *(x[:, i] for x in clean), axis=-1, temperature=value
        )
        assert_right(dx[:, i], expected)


@of_both
def test_long_double_has_masks_too(function):
    y, dy, where, clean = with_rubbish(function, np.longdouble)
    for options in ({}, {"temperature": 3}, {"out": np.empty_like(y)}):
        dx = silently(function, y, dy, axis=1, where=where, **options)
        options = {"temperature": options.get("temperature", 1)}
        np.testing.assert_array_equal(dx, function(*clean, axis=1, **options))


@of_both
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_nan_in_a_set_leaves_what_is_masked_out_alone(dtype, function):
    y, dy = draw(function, (3, 70), dtype)
    dy[1, 0] = NAN
    where = np.arange(70) % 3 == 0
    dx = silently(function, y, dy, axis=1, where=where)
    assert not dx[:, ~where].any()
    assert np.isnan(dx[1, where]).all()
    assert np.isfinite(dx[::2]).all()


@of_both
def test_where_of_any_shape(function):
    y, dy = draw(function, (4, 6))
    for where in (True, False, [True] * 5 + [False], np.eye(4, 6) > 0, [[True]] * 4):
        expected = function(y, dy, axis=1, where=np.broadcast_to(where, y.shape))
        assert_same_bits(function(y, dy, axis=1, where=where), expected)
    assert function(0.5, 2.0, where=False) == 0
    assert function(np.empty((0, 3)), 1, axis=0, where=[True] * 3).shape == (0, 3)
    with pytest.raises(ValueError, match="where of shape"):
        function(y, dy, where=[True, False])
    with pytest.raises(TypeError, match="where must be boolean"):
        function(y, dy, where=1)


@of_both
@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=needs_wide), *HALVES]
)
def test_dtype_is_computed_in_and_returned(dtype, function):
    for given in (np.float32, np.float64, np.float16, np.longdouble):
        y, dy = draw(function, SHAPE, given)
        for options in ({}, {"temperature": 0.7}):
            dx = silently(function, y, dy, axis=1, dtype=dtype, **options)
            assert dx.dtype == dtype
            wide = np.result_type(given, np.float32 if dtype in HALVES else dtype)
            if wide in (np.dtype(dtype), np.float32):  # else inputs are rounded, too
                expected = right(function, y, dy, axis=1, dtype=dtype, **options)
                assert_right(dx, expected)
            compute = np.float32 if dtype in HALVES else dtype
            rounded = y.astype(compute), dy.astype(compute)
            assert_same_bits(dx, function(*rounded, axis=1, dtype=dtype, **options))
    out = np.empty(SHAPE, dtype)
    assert function(y, dy, axis=1, dtype=dtype, out=out) is out
    assert function([1, 2], [3, 4], dtype=dtype).dtype == dtype
    for bad in (np.complex128, np.int64):
        with pytest.raises(TypeError, match="dtype must be"):
            function(y, dy, dtype=bad)


# ---- axis and temperature ----


@of_both
@pytest.mark.parametrize("axis", [[0], 1.0, "0", (0, 1.0), True, (0, True)])
def test_axis_of_another_type(axis, function):
    with pytest.raises(TypeError, match="axis"):
        function(*draw(function, (3, 4)), axis=axis)


@of_both
def test_axes_that_repeat_or_do_not_exist(function):
    given = draw(function, (3, 4))
    for axis in ((0, 0), (0, -2), (1, 0, 1)):
        with pytest.raises(ValueError, match="duplicate value in 'axis'"):
            function(*given, axis=axis)
    for axis in (2, -3, (0, 2)):
        with pytest.raises(AxisError, match="out of bounds"):
            function(*given, axis=axis)


@of_both
@pytest.mark.parametrize("axis", [np.int64(1), np.array(1), -1, (1,), (-1,)])
def test_integer_axes(axis, function):
    given = draw(function, (3, 4))
    assert_same_bits(function(*given, axis=axis), function(*given, axis=1))


@of_both
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.longdouble])
def test_bad_temperatures(dtype, function):
    given = draw(function, (3, 4), dtype)
    for temperature in (0, -1, -0.0, NAN, INF, -INF):
        with pytest.raises(ValueError, match=f"temperature must.*{temperature}"):
            function(*given, axis=1, temperature=temperature)
    for temperature in ("a", None, 1j):
        with pytest.raises(TypeError, match="temperature must be a real number"):
            function(*given, axis=1, temperature=temperature)


@of_both
def test_options_are_keywords(function):
    with pytest.raises(TypeError, match="positional"):
        function([0.5, 0.5], [1.0, 2.0], -1, 2.0)


# ---- out ----


@of_both
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("layout", FOR_OUT)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.longdouble])
def test_out_of_any_layout(dtype, layout, axis, function):
    given = draw(function, SHAPE, dtype)
    out = LAYOUTS[layout](np.full(SHAPE, 9, dtype))
    for options in ({}, {"temperature": 0.7}):
        assert silently(function, *given, axis=axis, out=out, **options) is out
        assert_right(out, right(function, *given, axis=axis, **options))


@of_both
def test_gaps_of_a_strided_out_are_left_alone(function):
    for axis in (0, 1):
        room = np.full((5, 40), 9.0)
        function(*draw(function, (5, 20)), axis=axis, out=room[:, ::2])
        assert (room[:, 1::2] == 9).all()
        assert (room[:, ::2] != 9).all()


@of_both
@pytest.mark.parametrize("layout", FOR_OUT)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.longdouble])
def test_out_may_be_y_or_dy(dtype, layout, function):
    """And dy of any layout beside y in C order, and the other way round."""
    y, dy = draw(function, (9, 33, 6), dtype)
    for axis, other in itertools.product(AXES, ("C", layout)):
        expected = right(function, y, dy, axis=axis)
        out = LAYOUTS[layout](y)
        kept = LAYOUTS[other](dy)
        assert silently(function, out, kept, axis=axis, out=out) is out
        assert_right(out, expected, f"axis {axis}, y, dy {other}")
        np.testing.assert_array_equal(kept, dy)
        out = LAYOUTS[layout](dy)
        kept = LAYOUTS[other](y)
        assert silently(function, kept, out, axis=axis, out=out) is out
        assert_right(out, expected, f"axis {axis}, dy, y {other}")
        np.testing.assert_array_equal(kept, y)


@of_both
@pytest.mark.parametrize("axis", AXES)
def test_out_may_be_both(axis, function):
    y = draw(function, (9, 33, 6))[0]
    expected = function(y, y.copy(), axis=axis)
    assert function(y, y, axis=axis, out=y) is y
    assert_same_bits(y, expected)


OVERLAPS = [
    (np.s_[:-1], np.s_[1:]),
    (np.s_[1:], np.s_[:-1]),
    (np.s_[::-1], np.s_[:]),
    (np.s_[:, ::-1], np.s_[:]),
    (np.s_[::2], np.s_[:20]),
    (np.s_[20:], np.s_[1::2]),
]


@of_both
@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.longdouble])
@pytest.mark.parametrize(("of_input", "of_out"), [*OVERLAPS, ("T", np.s_[:])])
def test_out_that_overlaps_y_or_dy(of_input, of_out, dtype, axis, function):
    for overlapped in (0, 1):
        given = list(draw(function, (40, 40), dtype))
        room = given[overlapped]
        part = room.T if of_input == "T" else room[of_input]
        given = [x[: len(part)].copy() for x in given]
        expected = right(
            function, *_replaced(given, overlapped, part.copy()), axis=axis
        )
        given = _replaced(given, overlapped, part)
        silently(function, *given, axis=axis, out=room[of_out])
        assert_right(room[of_out], expected, f"argument {overlapped}")


def _replaced(given: list[Array], place: int, x: Array) -> list[Array]:
    return [*given[:place], x, *given[place + 1 :]]


@of_both
@pytest.mark.parametrize("axis", [0, 1])
def test_out_that_overlaps_both(axis, function):
    room = draw(function, (40, 40))[0]
    expected = right(function, room[:-2].copy(), room[2:].copy(), axis=axis)
    function(room[:-2], room[2:], axis=axis, out=room[1:-1])
    assert_right(room[1:-1], expected)


@of_both
@pytest.mark.parametrize("axis", [0, 1])
def test_out_that_overlaps_what_is_broadcast(axis, function):
    """A row or a column of out is dy, or of y."""
    for index in (np.s_[:1], np.s_[17], np.s_[:, :1], np.s_[:, -1:]):
        y, out = draw(function, (30, 30))
        expected = right(function, y, out[index].copy(), axis=axis)
        assert_right(function(y, out[index], axis=axis, out=out), expected)
        expected = right(function, y, y[index].copy(), axis=axis)
        assert_right(function(y, y[index], axis=axis, out=y), expected)


@of_both
def test_out_that_does_not_fit(function):
    y, dy = draw(function, (3, 4), np.float32)
    for out, error, words in (
        (np.empty((3, 4), np.float64), TypeError, "float32.*float64"),
        (np.empty((3, 4), ">f4"), TypeError, "float32.*>f4"),
        (np.empty((4, 3), np.float32), ValueError, r"\(3, 4\).*\(4, 3\)"),
        (np.empty((1, 3, 4), np.float32), ValueError, r"\(3, 4\).*\(1, 3, 4\)"),
        (np.empty(4, np.float32), ValueError, r"\(3, 4\).*\(4,\)"),
        (frozen(np.empty((3, 4), np.float32)), ValueError, "read-only"),
        (np.ma.zeros((3, 4), np.float32), TypeError, "MaskedArray"),
        ([0.0] * 3, TypeError, "list"),
    ):
        with pytest.raises(error, match=words):
            function(y, dy, axis=1, out=out)
    with pytest.raises(TypeError, match=r"float64.*float32"):
        function(y, dy.astype(np.float64), axis=1, out=y)


def test_out_of_a_scalar_and_of_nothing():
    out = np.empty(())
    assert softmax_vjp(0.5, 3.0, out=out) is out
    assert out == 0.75
    out = np.empty((0, 3))
    assert softmax_vjp(np.empty((0, 3)), np.empty((0, 3)), axis=0, out=out) is out
