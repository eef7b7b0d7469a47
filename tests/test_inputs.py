"""Every kind of input and of axis: the documented result, or a clear error."""

from __future__ import annotations

import itertools
import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.exceptions import AxisError
from oracle import LAYOUTS, right
from oracle.arithmetic import HALVES, INTEGERS, Array, assert_right, silently
from oracle.arrays import frozen
from softmax_calls import (
    INF,
    NAN,
    draw,
    of_all,
    of_both,
)

from fastsoftmax import log_softmax, logsumexp, softmax

# ---- layouts ----


@of_all
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_layouts(dtype, layout, function):
    plain = draw((5, 19, 7), dtype)
    x = LAYOUTS[layout](plain)
    assert x.dtype.newbyteorder("=") == dtype
    for axis in (0, 1, 2, -1, None, (0, 1), (2, 0), (0, 1, 2)):
        y = silently(function, x, axis=axis)
        assert_right(y, right(function, plain, axis=axis), f"axis {axis}")
        assert y.dtype == (np.float64 if dtype is np.int32 else dtype)
        assert y.dtype.isnative
        assert np.ndim(y) == 0 or y.flags.writeable
        assert not np.may_share_memory(x, y)
    np.testing.assert_array_equal(x, plain)


@of_all
@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
@pytest.mark.parametrize("shape", [(4, 1), (1, 6), (1, 1)])
def test_broadcast(shape, axis, function):
    x = np.broadcast_to(draw(shape), (4, 6))
    assert_right(function(x, axis=axis), right(function, x.copy(), axis=axis))
    np.testing.assert_array_equal(x, np.broadcast_to(draw(shape), (4, 6)))


@of_all
@pytest.mark.parametrize("axis", [0, 1])
def test_overlapping_windows(axis, function):
    x = np.lib.stride_tricks.sliding_window_view(draw((40,)), 9)
    assert_right(function(x, axis=axis), right(function, x.copy(), axis=axis))


@of_all
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("mode", ["r", "c"])
def test_memory_mapped(tmp_path, mode, axis, function):
    np.save(tmp_path / "x.npy", draw((30, 50)))
    x = np.load(tmp_path / "x.npy", mmap_mode=mode)
    y = function(x, axis=axis)
    assert type(y) is np.ndarray
    assert_right(y, right(function, draw((30, 50)), axis=axis))


@of_both
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_laid_out_like_the_input(layout, axis, function):
    x = LAYOUTS[layout](draw((5, 19, 7)))
    assert function(x, axis=axis).strides == np.positive(x).strides


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 1), (0, 2)])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_logsumexp_is_laid_out_like_the_input(order, axis):
    x = draw((5, 19, 7)).transpose(order)
    assert logsumexp(x, axis=axis).strides == np.add.reduce(x, axis=axis).strides


@of_all
@pytest.mark.parametrize("ndim", [4, 9, 20, 64])
def test_many_dimensions(ndim, function):
    shape = (2,) * 4 + (1,) * (ndim - 4)
    x = draw(shape)
    for axis in (0, 2, (0, 3), ndim - 1):
        y = function(x, axis=axis)
        assert_right(y, right(function, x, axis=axis))


@of_all
def test_input_is_never_written_to(function):
    for layout, dtype in itertools.product(LAYOUTS, (np.float32, np.float64, np.int8)):
        x = LAYOUTS[layout](draw((3, 70, 5), dtype))
        before = x.copy()
        for axis in (0, 1, 2, (0, 2), None):
            function(frozen(x), axis=axis, where=frozen(before > 0))
            function(x, axis=axis, dtype=np.float64)
            function(x, axis=axis)
        np.testing.assert_array_equal(x, before)


# ---- kinds of input ----


@of_all
@pytest.mark.parametrize(
    "x",
    [[1.0, 2.5], (1, 2), [[1, 2], [3, 4.5]], [True, False], range(5), [np.float32(3)]],
)
def test_lists(x, function):
    y = function(x)
    assert_right(y, right(function, x))
    assert y.dtype == (np.float32 if isinstance(x[0], np.float32) else np.float64)


@of_all
@pytest.mark.parametrize(
    ("x", "scalar"),
    [
        (2, np.float64),
        (2.5, np.float64),
        (True, np.float64),
        (np.float32(2.5), np.float32),
        (np.float16(2.5), np.float16),
        (np.int8(2), np.float64),
        (np.array(2.5, ">f4"), np.float32),
        (ml_dtypes.bfloat16(2.5), ml_dtypes.bfloat16),
    ],
)
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_scalars_give_numpy_scalars(x, scalar, axis, function):
    y = function(x, axis=axis)
    assert type(y) is scalar
    assert y == {softmax: 1, log_softmax: 0, logsumexp: x}[function]


def test_scalars_along_no_axis():
    assert type(softmax(2.0, axis=())) is np.float64
    assert type(log_softmax(2.0, axis=())) is np.float64
    assert logsumexp(2.0, axis=()).shape == (1,)  # as SciPy's


@of_all
@pytest.mark.parametrize("axis", [1, -2, (0, 1)])
def test_scalars_have_no_other_axis(axis, function):
    with pytest.raises(AxisError):
        function(2.0, axis=axis)


@of_all
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_computed_in_float64(dtype, axis, function):
    least, most = (
        (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    )
    rng = np.random.default_rng(1)
    x = rng.integers(least, most, (9, 40), endpoint=True, dtype=dtype)
    x[::2] = rng.integers(0, 2, (5, 40))
    y = silently(function, x, axis=axis)
    assert y.dtype == np.float64
    assert_right(y, right(function, x, axis=axis))


@of_all
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2)])
@pytest.mark.parametrize("layout", ["C", "F", "backwards", "every third", "field"])
@pytest.mark.parametrize("dtype", HALVES)
def test_halves(dtype, layout, axis, function):
    x = LAYOUTS[layout](draw((5, 19, 7), dtype))
    y = silently(function, x, axis=axis)
    assert y.dtype == dtype
    assert_right(y, right(function, x, axis=axis))


class ArrayLike:
    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


class Subclass(np.ndarray):
    pass


@of_all
@pytest.mark.parametrize("wrap", [ArrayLike, lambda x: x.view(Subclass), memoryview])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_array_likes_give_plain_arrays(wrap, axis, function):
    x = draw((4, 6))
    y = function(wrap(x), axis=axis)
    assert type(y) is (np.float64 if y.ndim == 0 else np.ndarray)
    assert_right(y, right(function, x, axis=axis))


@of_all
def test_matrix(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        x = np.matrix(draw((4, 6)))
    y = function(x, axis=1)
    assert type(y) is np.ndarray
    assert_right(y, right(function, np.asarray(x), axis=1))


@of_all
@pytest.mark.parametrize(
    ("x", "name"),
    [
        (None, "object"),
        (np.array([1, None]), r"object: .*\.astype\(float\)"),
        ([{}], "object"),
        ({1, 2}, "object"),
        ("text", "<U4"),
        (["1", "2"], "<U1"),
        (b"1", r"\|S1"),
        (np.array(["2020-01-01"], "M8[D]"), r"datetime64\[D\]"),
        (np.array([1], "m8[s]"), r"timedelta64\[s\]"),
        (np.zeros(2, [("a", "f4"), ("b", "f4")]), "'a'"),
        (np.zeros(2, "V4"), r"\|V4"),
        (np.array(["1"], np.dtypes.StringDType()), "StringDType"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"axis": -1}, {"where": True}])
def test_what_is_not_numbers_names_its_dtype(x, name, options, function):
    with pytest.raises(TypeError, match=name):
        function(x, **options)


@of_all
def test_masked_arrays_name_where(function):
    x = np.ma.array([1.0, 2.0, 3.0], mask=[True, False, False])
    with pytest.raises(TypeError, match=r"where=~\w+\.mask"):
        function(x, axis=-1)
    y = np.atleast_1d(function(x.data, where=~x.mask))
    whole = right(function, x.data, where=~x.mask)
    assert_right(y, whole.at(np.s_[np.newaxis] if function is logsumexp else ...))


@of_all
def test_ragged_lists(function):
    for x in ([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]):
        with pytest.raises(ValueError, match="inhomogeneous"):
            function(x)


@pytest.mark.parametrize(
    "x",
    [
        [[1.0, NAN], [-INF, -0.0]],
        [[1.0, 2], [True, 4.0]],
        [[1.0, np.float32(2)], [3.0, 4.0]],
        [[1.0, 2.0], (3.0, 4.0)],
        [[1.0, 2.0], np.float32([3, 4])],
        [[1.0, 2.0], [3.0, 4j]],
        [[[1.0, 2.0]], [[3.0, 4.0]]],
        [[], []],
    ],
)
def test_lists_of_lists_are_what_numpy_makes_of_them(x):
    y = silently(softmax, x, axis=0)
    expected = silently(softmax, np.asarray(x), axis=0)
    np.testing.assert_array_equal(y, expected, strict=True)


@of_all
def test_complex_and_long_double_keep_their_dtype(function):
    for dtype in (np.complex64, np.complex128, np.longdouble, np.clongdouble):
        x = draw((3, 5)).astype(dtype)
        y = silently(function, x, axis=-1)
        assert y.dtype == dtype
        expected = right(function, x.real.astype(np.float64), axis=-1).value
        np.testing.assert_allclose(y.real, expected, rtol=1e-6)


# ---- axis ----


@of_all
@pytest.mark.parametrize(
    "axis", [np.int64(1), np.uint8(1), np.array(1), -2, (1,), (-2,)]
)
def test_integer_axes(axis, function):
    x = draw((4, 5, 6))
    np.testing.assert_array_equal(function(x, axis=axis), function(x, axis=1))


@of_all
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_tuples_of_axes(count, dtype, function):
    x = draw((3, 4, 2, 5), dtype)
    for axes in itertools.permutations(range(4), count):
        y = function(x, axis=axes)
        assert_right(y, right(function, x, axis=axes), f"axes {axes}")
        np.testing.assert_array_equal(y, function(x, axis=tuple(a - 4 for a in axes)))


@of_all
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_no_axes_means_every_element_alone(dtype, function):
    x = draw((3, 4), dtype)
    y = function(x, axis=())
    assert y.dtype == (np.float64 if dtype is np.int32 else dtype)
    expected = {softmax: x * 0 + 1, log_softmax: x * 0, logsumexp: x}[function]
    np.testing.assert_array_equal(y, expected)


@of_all
@pytest.mark.parametrize("axis", [[0], [0, 1], 1.0, "0", (0, 1.0), (0, "1"), b"0", {0}])
def test_axis_of_another_type(axis, function):
    with pytest.raises(TypeError, match="axis"):
        function(draw((3, 4)), axis=axis)


@of_all
@pytest.mark.parametrize("axis", [True, False, np.True_, (0, True)])
def test_booleans_are_no_axes(axis, function):
    with pytest.raises(TypeError, match="an integer is required"):
        function(draw((3, 4)), axis=axis)


@of_all
@pytest.mark.parametrize("axis", [(0, 0), (0, -2), (1, 0, 1)])
def test_repeated_axes(axis, function):
    with pytest.raises(ValueError, match="duplicate value in 'axis'"):
        function(draw((3, 4)), axis=axis)


@of_all
@pytest.mark.parametrize("axis", [2, -3, (0, 2), 2**40, -(2**40), 10**30, -(10**30)])
def test_axis_out_of_range(axis, function):
    # What does not fit a C int is an OverflowError, or ValueError, to NumPy.
    with pytest.raises((ValueError, OverflowError)):
        function(draw((3, 4)), axis=axis)
    if np.max(np.abs(axis)) < 10:
        with pytest.raises(AxisError, match="out of bounds"):
            function(draw((3, 4)), axis=axis)


@of_all
def test_errors_of_the_axis_are_numpys(function):
    for axis in ([0], 1.0, "0", (0, 0), 2, (0, 1.0)):
        with pytest.raises((TypeError, ValueError)) as numpys:
            np.sum(draw((3, 4)), axis=axis)
        with pytest.raises(numpys.type):
            function(draw((3, 4)), axis=axis)


# ---- empty ----


@of_all
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, *HALVES])
def test_empty(dtype, shape, function):
    x = np.empty(shape, dtype)
    for axis in (None, 0, -1, (), tuple(range(len(shape)))):
        y = silently(function, x, axis=axis)
        assert y.dtype == (np.float64 if dtype is np.int8 else dtype)
        assert np.shape(y) == (
            np.empty(shape).sum(axis=axis).shape if function is logsumexp else shape
        )
        assert function is not logsumexp or (np.asarray(y) == -INF).all()


@of_all
def test_empty_list(function):
    y = function([])
    assert y == -INF if function is logsumexp else y.shape == (0,)


# ---- random everything ----

FLOATING = st.sampled_from([np.float32, np.float64, np.float16])
NUMBERS = st.one_of(FLOATING, st.sampled_from([np.int8, np.uint16, np.int64, np.bool_]))


@st.composite
def arrays(draw) -> Array:
    """Arrays of any shape, dtype and layout, of moderate numbers."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, max_side=9))
    seed = draw(st.integers(0, 2**32 - 1))
    spread = draw(st.sampled_from([0.1, 3, 40]))
    dtype = draw(NUMBERS)
    x = np.random.default_rng(seed).normal(0, spread, shape)
    if np.issubdtype(dtype, np.unsignedinteger):
        x = abs(x)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](x.astype(dtype))


@st.composite
def arrays_and_axes(draw):
    x = draw(arrays())
    ndim = x.ndim
    one = st.integers(-ndim, ndim - 1)
    some = st.permutations(range(ndim)).flatmap(
        lambda p: st.integers(0, ndim).map(lambda n: tuple(p[:n]))
    )
    return x, draw(st.one_of(st.none(), one, some))


@of_all
@settings(max_examples=150, deadline=None)
@given(given_=arrays_and_axes())
def test_random_arrays(function, given_):
    x, axis = given_
    before = x.copy()
    y = silently(function, x, axis=axis)
    np.testing.assert_array_equal(x, before)
    x64 = x.astype(np.float64)
    assert_right(y, right(function, x, axis=axis))
    scipys = getattr(scipy.special, function.__name__)(x64, axis=axis)
    eps = np.finfo(y.dtype).eps
    np.testing.assert_allclose(y, scipys, rtol=40 * eps, atol=400 * eps)


@of_all
@settings(max_examples=100, deadline=None)
@given(given_=arrays_and_axes(), data=st.data())
def test_random_masks(function, given_, data):
    x, axis = given_
    where = data.draw(hnp.arrays(bool, hnp.array_shapes(max_dims=1, max_side=1)))
    if data.draw(st.booleans()):
        where = np.random.default_rng(0).random(x.shape) < 0.6
    y = silently(function, x, axis=axis, where=where)
    kept = np.broadcast_to(where, x.shape)
    filled = np.where(kept, x.astype(np.float64), -INF)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(scipy.special, function.__name__)(filled, axis=axis)
    expected = np.array(expected)
    if function is not logsumexp:
        expected[~kept] = 0 if function is softmax else -INF
    eps = np.finfo(y.dtype).eps
    np.testing.assert_allclose(y, expected, rtol=40 * eps, atol=400 * eps)


# ---- no temporaries ----

SIZE = 2**24  # bytes of x: enough for threads
LITTLE = 2**18


def peak_beside_the_result(function, x: Array, **options) -> int:
    """Bytes that NumPy and Python held at once during a call, without the result's."""
    function(x[:1, :1], **{**options, "where": None})
    tracemalloc.start()
    try:
        y = function(x, **options)
        return tracemalloc.get_traced_memory()[1] - np.asarray(y).nbytes
    finally:
        tracemalloc.stop()


BIG = {
    "last axis": ((1024, -1), -1),
    "first axis": ((1024, -1), 0),
    "middle axis": ((64, 64, -1), 1),
    "everything": ((1024, -1), None),
    "adjacent leading axes": ((64, 64, -1), (0, 1)),
    "adjacent trailing axes": ((64, 64, -1), (1, 2)),
    "adjacent middle axes": ((16, 16, 16, -1), (1, 2)),
}


@of_all
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", BIG)
def test_no_temporaries_along(case, order, function):
    shape, axis = BIG[case]
    x = np.zeros(SIZE // 8).reshape(shape)
    x = x.T if order == "F" else x
    if order == "F" and axis is not None:
        axis = tuple(x.ndim - 1 - a % x.ndim for a in np.atleast_1d(axis))
    assert peak_beside_the_result(function, x, axis=axis) < LITTLE


@of_all
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, *HALVES, ">f8"])
def test_no_temporaries_of(dtype, axis, function):
    x = np.zeros((1024, SIZE // 1024 // np.dtype(dtype).itemsize // 2), dtype)
    assert peak_beside_the_result(function, x, axis=axis) < LITTLE


@of_all
@pytest.mark.parametrize("axis", [0, -1, None])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_no_temporaries_with_options(dtype, axis, function):
    x = np.zeros((1024, SIZE // 1024 // np.dtype(dtype).itemsize // 2), dtype)
    where = np.ones(x.shape, bool)
    assert peak_beside_the_result(function, x, axis=axis, where=where) < LITTLE
    if axis is not None:
        assert peak_beside_the_result(function, x, axis=axis, where=where[:1]) < LITTLE
    if function is not logsumexp:
        assert peak_beside_the_result(function, x, axis=axis, temperature=0.7) < LITTLE


@of_all
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_mask_that_is_broadcast_over_several_axes_costs_no_copy_of_x(dtype, function):
    """At most the mask itself is laid out like x."""
    x = np.zeros((1024, SIZE // 1024 // np.dtype(dtype).itemsize // 2), dtype)
    where = np.ones(x.shape[1], bool)
    assert peak_beside_the_result(function, x, where=where) < x.size + LITTLE


@of_both
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_no_temporaries_with_out(order, axis, function):
    x = np.zeros((1024, SIZE // 8 // 1024), order=order)
    for out in (x, np.empty_like(x)):
        function(x, axis=axis, out=out)
        tracemalloc.start()
        try:
            function(x, axis=axis, out=out)
            assert tracemalloc.get_traced_memory()[1] < LITTLE
        finally:
            tracemalloc.stop()
