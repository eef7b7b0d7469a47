"""Cross-entropy for CuPy arrays, on the stand-in, against formulas in long double."""

from __future__ import annotations

import itertools
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from oracle import entropies
from oracle.arithmetic import Array, assert_right, silently

from fastsoftmax import cross_entropy
from gpu import references, stand_in
from gpu.judging import HALVES, LAYOUTS, run

pytestmark = references.needs

INF, NAN = np.inf, np.nan
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int16]
REDUCTIONS = ("none", "sum", "mean")
# Subnormal numbers of float32 count as 0, in steps and in results.
FLUSHED = 2.0**-125


def draw(shape: tuple[int, ...], dtype: Any, spread: float = 3) -> Array:
    return np.random.default_rng([*shape]).normal(0, spread, shape).astype(dtype)


def call(cupy: Any, scores: Any, labels: Any, *args: Any, **options: Any) -> Any:
    """Pass what is of NumPy as arrays of the device."""
    options = {
        name: cupy.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    scores, labels = cupy.asarray(scores), cupy.asarray(labels)
    return run(cross_entropy, scores, labels, *args, **options)


def alike(cupy: Any, scores: Array, labels: Array, *args: Any, **options: Any) -> Any:
    """As the CPU has it, but for rounding; return what CuPy's gives."""
    got = call(cupy, scores, labels, *args, return_grad=True, **options)
    want = silently(cross_entropy, scores, labels, *args, return_grad=True, **options)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        rtol = 1e-2 if one.dtype in HALVES else 2e-6
        np.testing.assert_allclose(
            one.astype(float), other.astype(float), rtol=rtol, atol=1e-7
        )
    return got


@pytest.mark.parametrize("n", [1, 7, 40, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_losses_and_gradients(cupy, kind, dtype, n):
    rng = np.random.default_rng(n)
    x, labels = draw((6, n), dtype), rng.integers(0, n, 6)
    given: Array = labels
    if kind == "probabilities":
        given = rng.dirichlet(np.ones(n), 6).astype(np.float32)
    where = rng.random((6, n)) < 0.8
    where[np.arange(6), labels] = True
    weights = np.array([1, 2, 0, 0.5, 3, 1])
    compute = np.float64 if dtype in (np.float64, np.int16) else np.float32
    for smoothing, temperature, reduction in (
        (0, 1.0, "none"),
        (0.1, 0.3, "mean"),
        (0.1, 1.0, "sum"),
    ):
        options: dict[str, Any] = {
            "label_smoothing": smoothing,
            "temperature": temperature,
            "sample_weight": weights,
        }
        if reduction != "sum":
            options["where"] = where
        loss, grad = call(
            cupy, x, given, reduction=reduction, return_grad=True, **options
        )
        batch = entropies.batch(x, given, **options)
        assert_right(loss, batch.loss(dtype, reduction))
        right = batch.gradient(dtype, reduction)
        assert_right(grad, right._replace(allowed=right.allowed + FLUSHED))
        assert loss.dtype == compute
        assert grad.dtype == (compute if dtype is np.int16 else dtype)


def test_a_loss_next_to_0_is_accurate(cupy):
    loss = call(cupy, np.float32([[3000, 2990, 0]]), [0])
    np.testing.assert_allclose(loss, 4.539889921686465e-05, rtol=3e-7)
    loss = call(cupy, np.float16([[12, 3, 0]]), [0])
    np.testing.assert_allclose(loss, np.log1p(np.exp(-9) + np.exp(-12)), rtol=3e-7)


@pytest.mark.parametrize("shape", [(3, 5000), (2, 20_000), (1, 140_003)])
def test_long_rows(cupy, shape):
    """Of blocks, of clusters, split; their states join."""
    x = draw(shape, np.float32)
    x[:, 17] += 1000
    labels = np.arange(shape[0]) * 4097 % shape[1]
    alike(cupy, x, labels, reduction="none")
    alike(cupy, x, labels, label_smoothing=0.2, where=x < 5)
    t = np.random.default_rng(0).random(shape).astype(np.float32)
    alike(cupy, x, t, reduction="none", temperature=0.7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_every_axis_and_layout(cupy, axis, layout):
    x = draw((5, 7, 4), np.float32)
    labels = np.arange(140 // x.shape[axis]).reshape(np.delete(x.shape, axis)) % 4
    t = np.random.default_rng(0).dirichlet(np.ones(4), (5, 7)).astype(np.float32)
    where = t > 0.05
    lay = LAYOUTS[layout]
    for given in (labels, t):
        want, slopes = cross_entropy(
            x, given, axis, where=where, reduction="none", return_grad=True
        )
        loss, grad = run(
            cross_entropy,
            lay(cupy, x),
            lay(cupy, given),
            axis,
            where=lay(cupy, where),
            reduction="none",
            return_grad=True,
        )
        np.testing.assert_allclose(loss, want, rtol=2e-6)
        np.testing.assert_allclose(grad, slopes, rtol=2e-6, atol=1e-7)


def test_types_of_targets_and_weights(cupy):
    x = draw((6, 9), np.float32)
    labels = np.arange(6)
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        alike(cupy, x, labels.astype(dtype))
    t = np.random.default_rng(0).dirichlet(np.ones(9), 6)
    for scores, dtype in itertools.product((np.float16, np.float32, np.int8), DTYPES):
        alike(cupy, x.astype(scores), (8 * t).astype(dtype), reduction="sum")
    for dtype in (np.int8, np.float16, np.float32):
        alike(cupy, x, labels, sample_weight=np.arange(6).astype(dtype))
    for label in (3, np.int8(3), cupy.asarray(3)):
        loss = run(cross_entropy, cupy.asarray(x[0]), label)
        np.testing.assert_allclose(loss, cross_entropy(x[0], 3), rtol=1e-6)


# ---- rows that do not count ----


@pytest.mark.parametrize("n", [9, 40])
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_rows_that_do_not_count(cupy, dtype, n):
    x = draw((5, n), dtype)
    x[1], x[3, 1] = NAN, INF
    labels = np.array([0, -100, 1, -100, 2])
    rows = np.arange(5) % 2 == 0
    for options in (
        {"labels": labels, "ignore_index": -100},
        {"labels": abs(labels) % 3, "sample_weight": rows.astype(float)},
        {"labels": abs(labels) % 3, "where": rows[:, np.newaxis]},
    ):
        for reduction, smoothing in itertools.product(REDUCTIONS, (0.0, 0.3)):
            more = {"reduction": reduction, "label_smoothing": smoothing}
            _, grad = alike(cupy, x, **options, **more)
            assert not grad[~rows].astype(float).any()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"ignore_index": 7}, 2),
        ({"where": np.zeros((2, 9), bool)}, 2),
        ({"sample_weight": np.zeros(2)}, 2),
        ({}, 0),
    ],
    ids=["ignored", "masked", "weights", "no row"],
)
def test_a_mean_of_no_row_that_counts(cupy, options, count):
    x, labels = draw((count, 9), np.float32), np.full(count, 7)
    loss, grad = call(cupy, x, labels, return_grad=True, **options)
    assert np.isnan(loss)
    assert not grad.any()
    assert call(cupy, x, labels, reduction="sum", **options) == 0


def test_labels_that_are_ignored(cupy):
    x = draw((3, 5), np.float32)
    for dtype, ignored in ((np.uint64, 2**64 - 1), (np.int8, -1), (np.int64, 2)):
        labels = np.array([1, 0, ignored], dtype)
        alike(cupy, x, labels, ignore_index=ignored)
    alike(cupy, x, np.int8([1, 0, 2]), ignore_index=1000)


def test_a_mean_over_many_rows(cupy):
    """Weights and losses are added up in chunks."""
    x = draw((9000, 3), np.float32)
    labels = np.arange(9000) % 3
    weights = np.random.default_rng(0).random(9000)
    alike(cupy, x, labels)
    alike(cupy, x, labels, sample_weight=weights, ignore_index=1)


# ---- special values ----


@pytest.mark.parametrize("n", [6, 36])
def test_special_values(cupy, n):
    ordinary = np.arange(n) * 5 % 8 / 2 - 2
    rows = [ordinary, *(np.full(n, value) for value in (NAN, INF, -INF))]
    for entries in (
        {0: NAN},
        {0: INF},
        {0: -INF},
        {4: NAN},
        {4: INF},
        {4: -INF},
        {0: INF, 4: INF},
        {0: -INF, 4: INF},
        {0: INF, 4: -INF},
    ):
        row = ordinary.copy()
        row[list(entries)] = list(entries.values())
        rows.append(row)
    x = np.array(rows, np.float32)
    labels = np.zeros(len(x), int)
    t = np.where(np.arange(n) == 4, 0, 1 / n) * np.ones((len(x), 1), np.float32)
    for where in (None, np.arange(n) > 0, np.arange(n) != 4, np.zeros(n, bool)):
        more = {} if where is None else {"where": where}
        for smoothing in (0.0, 0.1, 1.0):
            options = {"label_smoothing": smoothing, "reduction": "none", **more}
            alike(cupy, x, labels, **options)
            alike(cupy, x, t, **options)


def test_a_label_outside_its_row_makes_its_loss_nan(cupy):
    x = draw((4, 9), np.float32)
    labels, bad = np.array([0, 9, 3, -1]), np.array([False, True, False, True])
    loss, grad = call(cupy, x, labels, reduction="none", return_grad=True)
    np.testing.assert_array_equal(np.isnan(loss), bad)
    np.testing.assert_array_equal(np.isnan(grad).all(axis=1), bad)
    np.testing.assert_array_equal(np.isnan(grad).any(axis=1), bad)
    assert np.isnan(call(cupy, x, labels))
    assert np.isnan(call(cupy, x[:, :0], [0] * 4))
    losses = call(cupy, x[:, :0], [0, 1, 1, 0], ignore_index=1, reduction="none")
    np.testing.assert_array_equal(losses, [np.nan, 0, 0, np.nan])


# ---- temperatures ----


def test_temperatures(cupy):
    x = np.float32([[-3.4e38, -3.4e38, -3.4e38], [1, 2, 3], [3e38, -3e38, 0]])
    labels = np.array([0, 2, 0])
    for t in (0.9, 3.0, np.float64([[0.9], [2], [0.3]])):
        alike(cupy, x, labels, temperature=t, reduction="none")
    small = np.float64([[1e-30], [2e-30], [1e-30]])
    for t in (1e-30, small):
        alike(cupy, x, labels[[2, 1, 0]], temperature=t, reduction="none")
    alike(cupy, x[:, 1], 1, temperature=2)
    half = draw((4, 6), np.float16)
    t = np.float32([[0.5], [1], [2], [7]])
    alike(cupy, half, np.arange(4), temperature=t)


# ---- bits, launches ----


@pytest.mark.parametrize("n", [5, 40, 3000])
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_a_row_alone_gives_what_it_gives_among_others(cupy, dtype, n):
    x, labels = draw((9, n), dtype, 5), np.arange(9) % n
    options = {"label_smoothing": 0.1, "reduction": "none", "return_grad": True}
    losses, grads = call(cupy, x, labels, **options)
    for i in (0, 7):
        loss, grad = call(cupy, x[i : i + 1], labels[i : i + 1], **options)
        references.same_bits(loss, losses[i : i + 1])
        references.same_bits(grad, grads[i : i + 1])


def test_what_is_launched(cupy, counted):
    """A kernel for rows, and a sum; two more where the device counts rows."""
    x, labels = cupy.asarray(draw((6, 10), np.float32)), cupy.asarray(np.arange(6))
    weights, t = cupy.asarray(np.ones(6)), cupy.asarray(draw((6, 10), np.float32))
    for given, options, count in (
        (labels, {}, 2),
        (t, {"reduction": "none", "return_grad": True}, 1),
        (labels, {"sample_weight": weights, "reduction": "sum"}, 2),
        (labels, {"sample_weight": weights, "ignore_index": 3}, 4),
        (labels, {"where": t > 0, "reduction": "none"}, 2),
    ):
        stand_in.machine.launches.clear()
        stand_in.machine.other_kernels.clear()
        cross_entropy(x, given, **options)
        assert len(stand_in.machine.launches) == count
        assert not stand_in.machine.other_kernels


def test_kernels_do_not_touch_what_they_must_not(cupy):
    """With every check of the interpreter."""
    stand_in.machine.checks = True
    for shape in ((130, 9), (5, 33), (1, 20_000)):
        x = draw(shape, np.float32)
        labels = np.arange(shape[0]) % shape[1]
        weights = np.arange(shape[0]) % 3
        alike(cupy, x, labels, where=x > -3, ignore_index=1, sample_weight=weights)


# ---- errors ----


def test_errors(cupy):
    x = draw((3, 4), np.float32)
    for words, error, options in (
        ("ignore_index needs labels", TypeError, {"labels": x, "ignore_index": 1}),
        ("must be an integer", TypeError, {"ignore_index": 1.0}),
        ("label_smoothing must be", ValueError, {"label_smoothing": 1.5}),
        ("reduction must be one of", ValueError, {"reduction": "pairs"}),
        ("axis must be one integer", TypeError, {"axis": (0, 1)}),
        ("labels must have one", ValueError, {"labels": np.array([0, 1])}),
        ("labels must be integers", TypeError, {"labels": np.array([0.0, 1, 2])}),
        ("argmax", ValueError, {"temperature": 0}),
        ("where of shape", ValueError, {"where": np.ones(3, bool)}),
        ("where must be boolean", TypeError, {"where": x}),
        ("a weight for each row", ValueError, {"sample_weight": np.array([1, 2])}),
    ):
        arguments = {"labels": np.array([0, 1, 2]), **options}
        with pytest.raises(error, match=words) as on_device:
            call(cupy, x, **arguments)
        with pytest.raises(error, match=re.escape(str(on_device.value))):
            cross_entropy(x, **arguments)
    with pytest.raises(ValueError, match="an axis of classes"):
        call(cupy, 1.0, 0)
    with pytest.raises(TypeError, match="labels must be a CuPy array"):
        cross_entropy(cupy.asarray(x), np.array([0, 1, 2]))
