"""Hinge losses are the same to the bit, whoever computes them and beside whatever."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hinge_reference import draw_labels
from references import LAYOUTS, Array

from fastsoftmax import hinge_loss, pair_hinge_loss

# From so many elements on, work is shared between threads.
FOR_THREADS = 262_144

MANY_ROWS = [(300_001, 2), (100_001, 4), (20_001, 17), (16_001, 18), (4001, 100)]
SOME_ROWS = [(130, 2050), (60, 5001), (5, 70_000)]
LONG_ROWS = [(1, 300_001), (3, 300_001), (3, 131_073), (5, 140_000)]
LOSSES = [(1, "sum"), (2, "sum"), (1, "max"), (2, "max")]
REDUCTIONS = ["sum", "mean", "none"]

of_every_loss = pytest.mark.parametrize(("p", "variant"), LOSSES)
of_both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """Without ties, so that an addition in another order shows."""
    return np.random.default_rng([*shape]).normal(size=shape).astype(dtype)


def bits(a: Any) -> Array:
    a = np.atleast_1d(np.ascontiguousarray(a))
    return a.view(f"u{a.dtype.itemsize}")


def assert_same_bits(result: Any, expected: Any) -> None:
    """Of a loss, or of a loss and its gradients."""
    if isinstance(expected, tuple):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_same_bits(one, other)
        return
    assert np.asarray(result).dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(bits(result), bits(expected))


def everything(scores: Array, labels: Array | None = None, **options: Any) -> Any:
    """Return every loss of the scores and its gradient."""
    return tuple(
        hinge_loss(scores, labels, **options, reduction=reduction, return_grad=True)
        for reduction in REDUCTIONS
    )


# ---- threads ----


@of_every_loss
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", [*MANY_ROWS, *SOME_ROWS, *LONG_ROWS])
def test_with_1_2_and_8_threads(shape, order, p, variant, use_threads):
    assert shape[0] * (shape[1] - 1) > FOR_THREADS
    scores = draw(shape, np.float64 if p == 1 else np.float32).copy(order=order)
    for labels in (None, draw_labels(scores.shape[:1], shape[1])):
        options = {"p": p, "variant": variant, "return_grad": True}
        use_threads(1)
        total = hinge_loss(scores, labels, **options)
        by_row = hinge_loss(scores, labels, p=p, variant=variant, reduction="none")
        for threads in (2, 8):
            use_threads(threads)
            assert_same_bits(hinge_loss(scores, labels, **options), total)
            again = hinge_loss(scores, labels, p=p, variant=variant, reduction="none")
            assert_same_bits(again, by_row)


@of_both_dtypes
@pytest.mark.parametrize("shape", [(100_001, 4), (4001, 100), (3, 300_001)])
def test_with_threads_and_options(shape, dtype, use_threads):
    scores = draw(shape, dtype)
    options = {
        "where": np.random.default_rng(1).random(shape) < 0.6,
        "sample_weight": np.random.default_rng(2).random(shape[0]),
    }
    calls: list[Callable[[], Any]] = [
        lambda: hinge_loss(scores, **options, reduction="mean", return_grad=True),
        lambda: hinge_loss(scores, **options, reduction="pairs"),
        lambda: pair_hinge_loss(scores[:, 0], scores[:, 1:], return_grad=True),
        lambda: hinge_loss(scores.ravel(), negatives=shape[1] - 1, return_grad=True),
        lambda: hinge_loss(scores.astype(np.float16), variant="max", return_grad=True),
    ]
    for call in calls:
        use_threads(1)
        expected = call()
        for threads in (2, 8):
            use_threads(threads)
            assert_same_bits(flattened(call()), flattened(expected))


def flattened(result: Any) -> Any:
    """Return a loss and its gradients, of two arrays too, as one tuple."""
    if not isinstance(result, tuple):
        return result
    grads = result[1] if isinstance(result[1], tuple) else result[1:]
    return (result[0], *grads)


def test_eight_threads_of_python_at_once():
    cases = [draw(shape, np.float32) for shape in ((300, 9), (90, 70), (3, 100_001))]
    cases += [np.asfortranarray(case) for case in cases]
    expected = [everything(case, variant="max") for case in cases]
    failures: list[str] = []
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        for _ in range(5):
            for case, right in zip(cases, expected, strict=True):
                try:
                    assert_same_bits(everything(case, variant="max"), right)
                except AssertionError as wrong:
                    failures.append(str(wrong))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- a row and its neighbours ----


LENGTHS = [2, 3, 9, 16, 17, 25, 26, 33, 65, 100, 130, 2049, 2050, 5000]


def by_rows(scores: Array, labels: Array | None, **options: Any) -> Any:
    return hinge_loss(scores, labels, **options, reduction="none", return_grad=True)


@of_both_dtypes
@of_every_loss
def test_a_row_in_a_batch_equals_the_row_alone(p, variant, dtype):
    for width in LENGTHS:
        scores = draw((140 if width <= 18 else 9, width), dtype)
        for labels in (None, draw_labels(scores.shape[:1], width)):
            losses, grad = by_rows(scores, labels, p=p, variant=variant)
            for i in range(0, len(scores), 1 if len(scores) < 10 else 23):
                label = None if labels is None else labels[i]
                alone = by_rows(scores[i].copy(), label, p=p, variant=variant)
                assert_same_bits(alone, (losses[i], grad[i]))


@of_both_dtypes
@pytest.mark.parametrize("order", "CF")
@of_every_loss
def test_a_row_does_not_see_its_neighbours(p, variant, order, dtype):
    for width in (3, 17, 25, 26, 40, 200):
        scores = draw((300, width), dtype).copy(order=order)
        labels = draw_labels((300,), width)
        losses, grad = by_rows(scores, labels, p=p, variant=variant)
        backwards = by_rows(
            scores[::-1].copy(order=order), labels[::-1], p=p, variant=variant
        )
        assert_same_bits(backwards, (losses[::-1], grad[::-1]))
        for first, last in ((0, 9), (1, 18), (63, 65), (127, 130), (128, 300)):
            some = slice(first, last)
            part = by_rows(
                scores[some].copy(order=order), labels[some], p=p, variant=variant
            )
            assert_same_bits(part, (losses[some], grad[some]))


@of_both_dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
@of_every_loss
def test_the_loss_does_not_depend_on_the_gradient(p, variant, layout, dtype):
    for width, reduction in itertools.product((4, 40), REDUCTIONS):
        scores = LAYOUTS[layout](draw((9, width), dtype))
        for labels in (None, draw_labels((9,), width)):
            options = {"p": p, "variant": variant, "reduction": reduction}
            loss, _ = hinge_loss(scores, labels, **options, return_grad=True)
            assert_same_bits(hinge_loss(scores, labels, **options), loss)


# ---- the fast path ----


WAYS: dict[str, Callable[[Array], tuple[Any, dict[str, Any]]]] = {
    "weights": lambda x: (x, {"sample_weight": np.ones(len(x), int)}),
    "a weight": lambda x: (x, {"sample_weight": 1}),
    "where=True": lambda x: (x, {"where": True}),
    "where": lambda x: (x, {"where": np.ones(x.shape, bool)}),
    "strided": lambda x: (LAYOUTS["every third"](x), {}),
    "backwards": lambda x: (LAYOUTS["backwards"](x), {}),
    "unaligned": lambda x: (LAYOUTS["one byte off"](x), {}),
    "byte-swapped": lambda x: (LAYOUTS["byte-swapped"](x), {}),
    "subclass": lambda x: (x.view(type("Scores", (np.ndarray,), {})), {}),
    "margin of NumPy": lambda x: (x, {"margin": np.float64(1)}),
    "p of NumPy": lambda x: (x, {"p": np.int64(1)}),
}


@of_both_dtypes
@pytest.mark.parametrize("way", WAYS)
def test_any_way_of_giving_scores(way, dtype):
    for shape, variant in itertools.product(
        ((9, 2), (300, 4), (7, 17), (130, 18), (5, 65), (3, 5000)), ("sum", "max")
    ):
        scores = draw(shape, dtype)
        labels = draw_labels(shape[:1], shape[1])
        for places in (None, labels):
            general, options = WAYS[way](scores)
            result = everything(general, places, variant=variant, **options)
            assert_same_bits(result, everything(scores, places, variant=variant))


@of_every_loss
def test_lists_and_flat_vectors(p, variant):
    for shape in ((9, 2), (300, 4), (7, 17), (5, 65)):
        scores = draw(shape)
        labels = draw_labels(shape[:1], shape[1])
        options = {"p": p, "variant": variant}
        for places in (None, labels):
            expected = everything(scores, places, **options)
            assert_same_bits(everything(scores.tolist(), places, **options), expected)
        small = labels.astype(np.int8)
        assert_same_bits(everything(scores, small, **options), expected)
        for flat in (scores.ravel(), np.repeat(scores.ravel(), 2)[::2]):
            result = everything(flat, negatives=shape[1] - 1, **options)
            right = everything(scores, **options)
            right = tuple((loss, grad.ravel()) for loss, grad in right)
            assert_same_bits(result, right)


@of_both_dtypes
@of_every_loss
def test_more_dimensions(p, variant, dtype):
    for width in (4, 40):
        scores = draw((3, 5, 7, width), dtype)
        labels = draw_labels(scores.shape[:-1], width)
        rows = scores.reshape(-1, width)
        for places in (None, labels):
            result = everything(scores, places, p=p, variant=variant)
            flat = None if places is None else places.ravel()
            for (loss, grad), (right, right_grad) in zip(
                result, everything(rows, flat, p=p, variant=variant), strict=True
            ):
                assert_same_bits(np.ravel(loss), np.ravel(right))
                assert_same_bits(grad.reshape(rows.shape), right_grad)
