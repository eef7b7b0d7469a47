"""The common calls never reach `plan`, and give the bits that it would."""

from __future__ import annotations

import numpy as np
import pytest

from fastsoftmax import (
    _plan,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    softmax,
    softmax_vjp,
)

ELEMENTWISE = [softmax, log_softmax]
FUNCTIONS = [*ELEMENTWISE, logsumexp]
SHAPES = [((10,), -1), ((7, 33), -1), ((7, 33), 0), ((5, 4, 70), 1), ((6, 5), None)]


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this call asked the plan")


@pytest.fixture
def no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any call fail that asks `plan`."""
    monkeypatch.setattr(_plan, "as_call", refuse)


def given(shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers, and which of them count."""
    rng = np.random.default_rng(len(shape))
    return rng.normal(0, 5, shape).astype(dtype), rng.random(shape) < 0.7


def strided(a: np.ndarray) -> np.ndarray:
    """Return an equal array with gaps in its memory, which only `plan` can read."""
    return np.repeat(a, 2, axis=-1)[..., ::2]


def reduced(x: np.ndarray, axis: int | None) -> np.ndarray:
    return np.empty(x.sum(axis=axis).shape, x.dtype)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_give_the_bits_of_the_plan(function, shape, axis, dtype, monkeypatch):
    x, counts = given(shape, dtype)
    options = [{}, {"where": counts}]
    if function is not logsumexp:
        options += [{"temperature": 0.7}, {"temperature": 2.0, "where": counts}]
    for option in options:
        masked = {**option}
        if "where" in option:
            masked["where"] = strided(counts)
        planned = function(strided(x), axis=axis, **masked)
        with monkeypatch.context() as patched:
            patched.setattr(_plan, "as_call", refuse)
            fast = function(x, axis=axis, **option)
        assert np.asarray(fast).tobytes() == np.asarray(planned).tobytes(), option


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES[1:4])  # a 0-d out is the plan's
def test_out_is_written_and_returned(function, shape, axis):
    x, counts = given(shape, np.float32)
    out = np.empty_like(x) if function is not logsumexp else reduced(x, axis)
    for option in ({}, {"where": counts}):
        assert function(x, axis=axis, out=out, **option) is out
        expected = function(x, axis=axis, **option)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("function", ELEMENTWISE)
def test_out_may_be_x_itself(function):
    x, counts = given((9, 20), np.float64)
    for option in ({}, {"where": counts}, {"temperature": 3.0}):
        for axis in (0, 1):
            y = x.copy()
            expected = function(x, axis=axis, **option)
            assert function(y, axis=axis, out=y, **option) is y
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_too(function, shape, axis, temperature, monkeypatch):
    y, dy = given(shape, np.float32)[0], given((*shape, 1), np.float32)[0][..., 0]
    options = {"axis": axis, "temperature": temperature}
    planned = function(strided(y), strided(dy), **options)
    monkeypatch.setattr(_plan, "as_vjp_call", refuse)
    assert function(y, dy, **options).tobytes() == planned.tobytes()
    for out in (np.empty_like(y), y, dy):
        given_to = (y.copy() if out is dy else y, dy.copy() if out is y else dy)
        assert function(*given_to, out=out, **options) is out
        assert out.tobytes() == planned.tobytes()
        y, dy = given(shape, np.float32)[0], given((*shape, 1), np.float32)[0][..., 0]


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_gradients_refuse_what_does_not_fit(function):
    y = np.ones((2, 3), np.float32)
    for option, error in (
        ({"temperature": 0.0}, ValueError),
        ({"temperature": "1"}, TypeError),
        ({"out": np.empty((3, 2), np.float32)}, ValueError),
        ({"out": np.empty((2, 3))}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(option))):
            function(y, y, axis=-1, **option)
    memory = np.random.default_rng(0).normal(size=60)
    expected = function(memory[:50].copy(), memory[10:].copy())
    assert np.array_equal(
        function(memory[:50].copy(), memory[10:], out=memory[:50]), expected
    )


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_memory_that_overlaps_is_left_to_the_plan(function):
    memory = np.random.default_rng(3).normal(size=70)
    for shift in (1, 5, 30):
        both = memory.copy()
        x, out = both[:40].reshape(4, 10), both[shift : 40 + shift].reshape(4, 10)
        expected = function(x.copy(), axis=-1)
        function(x, axis=-1, out=out)
        np.testing.assert_array_equal(out, expected)


def test_a_mask_that_overlaps_out_is_left_to_the_plan():
    x, counts = given((8, 8), np.float64)
    expected = softmax(x, axis=-1, where=counts)
    memory = np.zeros(64 * 8 + 64, np.uint8)
    mask, out = memory[:64].view(bool).reshape(8, 8), memory[8:520].view(np.float64)
    mask[...] = counts
    softmax(x, axis=-1, where=mask, out=out.reshape(8, 8))
    np.testing.assert_array_equal(out.reshape(8, 8), expected)


@pytest.mark.parametrize(
    ("option", "error", "named"),
    [
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"temperature": 1e300}, ValueError, "temperature"),
        ({"temperature": "1"}, TypeError, "temperature"),
        ({"where": np.ones((2, 3))}, TypeError, "where"),
        ({"where": np.ones((3, 3), bool)}, ValueError, "where"),
        ({"out": np.empty((3, 2), np.float32)}, ValueError, "out"),
        ({"out": np.empty((2, 3))}, TypeError, "out"),
        ({"out": [1.0]}, TypeError, "out"),
    ],
)
def test_what_does_not_fit_is_refused_as_ever(option, error, named):
    with pytest.raises(error, match=named):
        softmax(np.ones((2, 3), np.float32), axis=-1, **option)


def test_a_read_only_out_is_refused_and_a_read_only_mask_is_not():
    x, counts = given((2, 3), np.float32)
    out = np.zeros_like(x)
    out.flags.writeable = counts.flags.writeable = False
    softmax(x, axis=-1, where=counts)
    with pytest.raises(ValueError, match="read-only"):
        softmax(x, axis=-1, out=out)
    assert not out.any()
