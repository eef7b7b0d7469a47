"""Dask arrays: lazy, cut along any axis, as exact as NumPy arrays."""

from __future__ import annotations

import functools
import os
import signal
import time

import child
import numpy as np
import pytest

from fastsoftmax import (
    cross_entropy,
    hinge_loss,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array", reason="Dask is not installed")

SHAPE, CUT = (5, 23, 4), (2, 6, 3)
RTOL = {np.float16: 1e-3, np.float32: 2.0**-22, np.float64: 2.0**-44}
SETS = pytest.mark.parametrize("axis", [1, (0, 2)])
TYPES = pytest.mark.parametrize("dtype", RTOL, ids=lambda dtype: dtype.__name__)
SOFTMAXES = pytest.mark.parametrize(
    ("function", "gradient"),
    [(softmax, softmax_vjp), (log_softmax, log_softmax_vjp)],
    ids=["softmax", "log_softmax"],
)


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def draw(dtype=np.float32, scale=20.0, seed=0):
    return (np.random.default_rng(seed).normal(size=SHAPE) * scale).astype(dtype)


def cut(x, chunks=CUT):
    return da.from_array(x, chunks=chunks)


def assert_like(lazy, expected, rtol, atol=0.0):
    """Lazy, of the type and shape that NumPy arrays give, and close."""
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == expected.dtype
    assert lazy.ndim == np.ndim(expected)
    assert all(
        known == size or np.isnan(known)
        for known, size in zip(lazy.shape, np.shape(expected), strict=True)
    )
    found = lazy.compute()
    assert np.shape(found) == np.shape(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
        np.asarray(found, float), np.asarray(expected, float), rtol=rtol, atol=atol
    )


def ulps(found, exact):
    least = np.spacing(np.abs(exact).astype(found.dtype)).astype(float)
    return float(np.max(np.abs(found.astype(float) - exact) / least))


# ---- the softmax family ----


def with_special_values(dtype):
    x = draw(dtype)
    x[0, :, 0] = -np.inf
    x[1, 20, 1] = np.inf
    x[2, 3, 2] = np.nan
    x[3, :10, 3] = -np.inf
    return x


MASKS = {
    "no mask": lambda rng: None,
    "NumPy's": lambda rng: rng.random(SHAPE) < 0.6,
    "a column": lambda rng: rng.random((23, 1)) < 0.6,
    "Dask's, cut elsewhere": lambda rng: cut(rng.random(SHAPE) < 0.6, (5, 4, 2)),
    "nothing left": lambda rng: np.zeros((5, 1, 1), bool),
}


@SETS
@TYPES
@SOFTMAXES
@pytest.mark.parametrize("name", MASKS)
def test_softmax_and_gradient(name, function, gradient, dtype, axis):
    where = MASKS[name](np.random.default_rng(1))
    mask = None if where is None else np.asarray(where)
    x = with_special_values(dtype)
    lazy = function(cut(x), axis, temperature=0.7, where=where)
    expected = function(x, axis, temperature=0.7, where=mask)
    assert lazy.chunks == cut(x).chunks
    tiny = np.finfo(dtype).smallest_subnormal
    assert_like(lazy, expected, RTOL[dtype], tiny)
    dy = draw(dtype, 1.0, seed=2)[0]
    dx = gradient(expected, dy, axis, temperature=0.7, where=mask)
    # The sums are float64 ones; of log_softmax's gradient, terms cancel.
    lost = 2.0**-48 * np.abs(dy).sum()
    if function is log_softmax:
        lost += RTOL[dtype] * float(np.abs(dy).max())
    lazy = gradient(cut(expected), dy, axis, temperature=0.7, where=where)
    assert_like(lazy, dx, RTOL[dtype], max(lost, tiny))


@SETS
@TYPES
@pytest.mark.parametrize("name", MASKS)
def test_logsumexp(name, dtype, axis):
    where = MASKS[name](np.random.default_rng(1))
    mask = None if where is None else np.asarray(where)
    x = with_special_values(dtype)
    for options in ({}, {"keepdims": True}, {"dtype": np.float32}):
        expected = logsumexp(x, axis, where=mask, **options)
        rtol = RTOL[np.float32 if options.get("dtype") else dtype]
        assert_like(logsumexp(cut(x), axis, where=where, **options), expected, rtol)


@SETS
@pytest.mark.parametrize("weights", ["of both signs", "Dask's", "a number"])
def test_logsumexp_with_weights(weights, axis):
    x = draw(np.float64, 2.0)
    b = np.random.default_rng(3).normal(size=(2, *SHAPE[:2], 1))
    b[:, 0] = 0
    b = {"of both signs": b, "Dask's": cut(b, (1, 5, 4, 1)), "a number": 2.0}[weights]
    plain = b if weights == "a number" else np.asarray(b)
    found = logsumexp(cut(x), axis, b, return_sign=True)
    log, sign = logsumexp(x, axis, plain, return_sign=True)
    assert_like(found[0], log, 1e-12)
    assert_like(found[1], sign, 0)
    assert_like(logsumexp(cut(x), axis, b), logsumexp(x, axis, plain), 1e-12)


@pytest.mark.parametrize("largest", [300.0, np.inf])
def test_what_has_weight_0_is_not_the_largest(largest):
    x, b = np.array([1.0, largest, 2.0, 3.0]), np.array([1.0, 0.0, 1.0, 2.0])
    lazy = logsumexp(da.from_array(x, 2), b=b)
    assert lazy.compute() == pytest.approx(logsumexp(x, b=b), rel=1e-14)


@SOFTMAXES
@pytest.mark.parametrize("cuts", [CUT, SHAPE])
@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_temperature_for_each_set(is_lazy, cuts, function, gradient):
    x = draw(np.float32)
    temperature = np.random.default_rng(4).uniform(0.5, 2, (5, 1, 4))
    given = cut(temperature, 2) if is_lazy else temperature
    y = function(x, 1, temperature=temperature)
    assert_like(
        function(cut(x, cuts), 1, temperature=given), y, RTOL[np.float32], 1e-45
    )
    dx = gradient(y, x, 1, temperature=temperature)
    lazy = gradient(cut(y, cuts), cut(x, 3), 1, temperature=given)
    assert_like(lazy, dx, RTOL[np.float32], 1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quotients_that_overflow_keep_their_values(dtype):
    large = float(np.finfo(dtype).max)
    x = np.array([large / 2, -large, 1, large / 2], dtype)
    lazy = softmax(cut(x, 2), temperature=1e-3)
    np.testing.assert_array_equal(lazy.compute(), [0.5, 0, 0, 0.5])


@pytest.mark.parametrize("cuts", [3, 50])
@pytest.mark.parametrize("given", [np.int16, np.bool_, ">f4"])
def test_other_types(given, cuts):
    x = (np.arange(50) % 3).astype(given)
    assert_like(softmax(cut(x, cuts)), softmax(x), 1e-6)
    assert_like(logsumexp(cut(x, cuts)), logsumexp(x), 1e-6)


def test_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = draw(np.float32, 2.0).astype(bfloat16)
    for cuts in (CUT, SHAPE):
        assert_like(softmax(cut(x, cuts), 1), softmax(x, 1), 2.0**-8)


def test_without_axes_or_elements():
    for x in (np.float32(2), np.zeros((3, 0)), np.zeros(0)):
        lazy = da.from_array(np.asarray(x))
        assert_like(softmax(lazy), np.asarray(softmax(x)), 0)
        assert_like(logsumexp(lazy), np.asarray(logsumexp(x)), 0)
    x = draw()
    assert_like(softmax(cut(x), ()), softmax(x, ()), 0)


def chunks_that_are_far_apart(kind):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(800, 2))
    if kind == "steps":  # each chunk's sum is rounded beside the others'
        x += np.arange(800)[:, None] // 10 * 0.11
    elif kind == "far from 0":
        x = x * 20 + 5000
    elif kind == "sure":  # log_softmax of the largest is next to 0
        x[234] = 40
    elif kind == "deep":  # down to subnormal results
        x *= 30
    elif kind == "equal":
        x[:] = 0.1
    return x.astype(np.float32)


@functools.cache
def exact(kind, whole):
    """Columns, or some of their rows; logsumexp, log_softmax and softmax of them."""
    import mpmath

    x = chunks_that_are_far_apart(kind)[slice(None) if whole else slice(200, 260)]
    with mpmath.workdps(40):
        columns = [list(map(mpmath.mpf, column)) for column in x.astype(float).T]
        sums = [mpmath.log(mpmath.fsum(map(mpmath.exp, each))) for each in columns]
        logs = [[v - s for v in c] for c, s in zip(columns, sums, strict=True)]
        numbers = [[mpmath.exp(v) for v in each] for each in logs]
        logs, numbers = (np.array(each, float).T for each in (logs, numbers))
        return x, np.array(sums, float), logs, numbers


@pytest.mark.parametrize("kind", ["steps", "far from 0", "sure", "deep", "equal"])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_float32_is_within_2_ulp_of_the_exact_value(size, kind):
    x, log_sums, logs, numbers = exact(kind, size > 1)
    lazy = cut(x, (size, 1))
    found = softmax(lazy, 0).compute()
    assert found.max() > 2.0**-12  # nothing trivial
    assert ulps(found, numbers) <= 2
    assert ulps(log_softmax(lazy, 0).compute(), logs) <= 2
    assert ulps(logsumexp(lazy, 0).compute(), log_sums) <= 1


# ---- losses ----

LABELS = np.random.default_rng(6).integers(0, 4, SHAPE[:2])
SOME_OF_THEM = {
    "plain": {},
    "weights": {"sample_weight": np.random.default_rng(7).integers(0, 3, SHAPE[:2])},
    "one weight": {"sample_weight": 0.5},
    "ignored": {"ignore_index": 2},
    "masked": {"where": np.random.default_rng(8).random(SHAPE) < 0.6},
    "none counts": {"where": np.zeros((1, 1, 1), bool)},
}


def assert_losses_alike(function, labels, options):
    x = draw(np.float32, 3.0)
    for reduction in ("none", "sum", "mean"):
        both = options | {"reduction": reduction, "return_grad": True}
        loss, grad = function(x, np.asarray(labels), **both)
        found = function(cut(x, (2, 6, 4)), labels, **both)
        assert_like(found[0], loss, 2.0**-21)
        assert_like(found[1], grad, 2.0**-21, 2.0**-25)
        assert found[1].chunks == cut(x, (2, 6, 4)).chunks


@pytest.mark.parametrize("name", SOME_OF_THEM)
def test_hinge_loss(name):
    labels = cut(LABELS, 3) if name == "weights" else LABELS
    assert_losses_alike(hinge_loss, labels, SOME_OF_THEM[name])
    options = {"p": 2, "variant": "max", "margin": 0.5} | SOME_OF_THEM[name]
    assert_losses_alike(hinge_loss, labels, options)


@pytest.mark.parametrize("name", SOME_OF_THEM)
def test_cross_entropy(name):
    labels = cut(LABELS, 3) if name == "weights" else LABELS
    options = SOME_OF_THEM[name] | {"label_smoothing": 0.1, "temperature": 2.0}
    assert_losses_alike(cross_entropy, labels, options)
    if name != "ignored":
        assert_losses_alike(cross_entropy, softmax(draw(seed=9), -1), options)


def test_cross_entropy_of_one_row():
    loss = cross_entropy(da.zeros(5), da.asarray(2), temperature=da.full(1, 0.5))
    assert loss.compute() == np.log(5)


def test_cross_entropy_along_another_axis():
    x, labels = draw(), LABELS[:, :4] % 3
    lazy = cut(x, (2, 23, 3))
    found = cross_entropy(lazy, labels, 1, return_grad=True)
    expected = cross_entropy(x, labels, 1, return_grad=True)
    assert_like(found[0], expected[0], 2.0**-21)
    assert_like(found[1], expected[1], 2.0**-21, 2.0**-25)


@pytest.mark.parametrize("function", [hinge_loss, cross_entropy])
@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": np.zeros(6)},
        {"sample_weight": np.array([1.0, 0, 0, -1, 0, 0])},
        {"sample_weight": 2.0},
        {"sample_weight": np.array([np.inf, 1, 0, 0, 0, 0])},
        {"where": np.arange(6)[:, None] < 2},
    ],
    ids=["of weight 0", "whose weights cancel", "alike", "one infinite", "masked out"],
)
@pytest.mark.parametrize("classes", [1, 3])
def test_means_and_their_gradients_of_rows(classes, options, function):
    """With one class, rows have no negative, and cost nothing; they count."""
    x, labels = np.ones((6, classes), "f4"), np.zeros(6, int)
    both = options | {"reduction": "mean", "return_grad": True}
    found = function(cut(x, (4, classes)), labels, **both)
    loss, grad = function(x, labels, **both)
    assert_like(found[0], loss, 2.0**-21)
    assert_like(found[1], grad, 2.0**-21)


# ---- chunks of unknown sizes ----


def selected(x, dtype=np.float32):
    """A selection of rows: the same, of an array and lazily."""
    keep = np.arange(20) % 3 != 1
    x = np.asarray(x, dtype)
    lazy = da.from_array(x, (7, *x.shape[1:]))[da.from_array(keep, 7)]
    assert np.isnan(lazy.shape[0])
    return lazy, x[keep]


@pytest.mark.parametrize("axis", [-1, 0, None])
def test_rows_that_were_selected(axis):
    x = np.random.default_rng(4).normal(size=(20, 6))
    column = np.arange(6) % 3 != 0
    for lazy, plain in (selected(x), (selected(x)[0].rechunk({1: 4}), selected(x)[1])):
        for mask in (lambda given: given > -0.5, lambda given: column):
            options = {"axis": axis, "where": mask(lazy)}
            y = softmax(plain, axis, where=mask(plain))
            assert_like(softmax(lazy, **options), y, 1e-6)
            total = logsumexp(plain, axis, plain**2, where=mask(plain))
            assert_like(logsumexp(lazy, b=lazy**2, **options), total, 1e-6)
            dy = softmax_vjp(plain, plain, axis, where=mask(plain))
            assert_like(softmax_vjp(lazy, lazy, **options), dy, 1e-5, 1e-6)
    if axis == -1:
        lazy, plain = selected(x)
        found = softmax(lazy, -1, temperature=abs(lazy[:, :1]))
        assert_like(found, softmax(plain, -1, temperature=abs(plain[:, :1])), 1e-6)


@pytest.mark.parametrize("function", [hinge_loss, cross_entropy])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_losses_of_rows_that_were_selected(reduction, function):
    rng = np.random.default_rng(5)
    lazy, plain = selected(rng.normal(size=(20, 6)))
    labels, weights = selected(rng.integers(0, 6, 20), int), selected(rng.random(20))
    for w in (weights, (None, None), (2.0, 2.0)):
        both = {"reduction": reduction, "return_grad": True, "ignore_index": 2}
        of_lazy = both | {"sample_weight": w[0], "where": lazy > -0.5}
        of_plain = both | {"sample_weight": w[1], "where": plain > -0.5}
        found = function(lazy, labels[0], **of_lazy)
        loss, grad = function(plain, labels[1], **of_plain)
        assert_like(found[0], loss, 1e-5)
        assert_like(found[1], grad, 1e-5, 1e-7)


def test_unknown_sizes_beside_known_ones_are_refused():
    lazy, plain = selected(np.ones((20, 6)))
    for call in (
        lambda: softmax(lazy, -1, where=plain > 0),
        lambda: softmax(lazy, -1, where=(lazy > 0).rechunk({1: 3})[:, :5]),
        lambda: softmax(lazy, -1, where=da.concatenate([lazy > 0, lazy > 0])),
        lambda: logsumexp(lazy, -1, plain),
    ):
        with pytest.raises(ValueError, match="compute_chunk_sizes"):
            call()


# ---- nothing early, nothing gathered ----


def test_nothing_is_computed_early():
    def fail(block):
        raise AssertionError("computed")

    x = cut(draw()).map_blocks(fail, dtype=np.float32, meta=np.empty((0, 0, 0), "f4"))
    mask, rows = x > 0, x.rechunk((2, 6, 4))
    for axis in (1, None):
        for function in (softmax, log_softmax, logsumexp):
            function(x, axis, where=mask)
        for function in (softmax_vjp, log_softmax_vjp):
            function(x, x, axis, where=mask)
    logsumexp(x, b=x, return_sign=True)
    softmax(x, 1, temperature=rows.max(axis=1, keepdims=True))
    labels = rows[..., 0].astype(int)
    for function in (hinge_loss, cross_entropy):
        function(rows, labels, reduction="mean", where=mask, return_grad=True)
    with pytest.raises(AssertionError, match="computed"):
        softmax(x, 1).compute()


def test_nothing_is_gathered():
    """No task makes more than the float64 of one chunk."""
    sizes = []

    class Watch(dask.callbacks.Callback):
        def _posttask(self, key, result, dsk, state, worker_id):
            sizes.append(getattr(result, "nbytes", 0))

    x = da.random.default_rng(0).normal(size=(64_000, 2), chunks=(1000, 1))
    x = x.astype(np.float32)
    mask = x > -1
    for lazy in (softmax(x, 0, where=mask), logsumexp(x), softmax_vjp(x, x, 0)):
        with Watch():
            lazy.sum().compute(optimize_graph=False)
    assert len(sizes) > 500
    assert max(sizes) <= 8000


def test_the_import_waits_for_the_first_array(tmp_path):
    code = (
        "import sys, numpy, fastsoftmax as f\n"
        "f.softmax([1.0]); f.hinge_loss(numpy.ones((2, 3)))\n"
        "assert not any(name.partition('.')[0] == 'dask' for name in sys.modules)\n"
        "assert 'fastsoftmax.dask' not in sys.modules\n"
        "import dask.array as da\n"
        "assert 'fastsoftmax.dask' not in sys.modules\n"
        "assert isinstance(f.softmax(da.ones(3)), da.Array)\n"
    )
    child.python(tmp_path, code)


def test_what_does_not_fit_is_refused_at_once():
    x, whole = cut(draw()), cut(draw(), (2, 6, 4))
    for error, words, call in (
        (TypeError, "out must be None", lambda: softmax(x, out=x)),
        (ValueError, "out of bounds", lambda: softmax(x, 5)),
        (ValueError, "temperature must be", lambda: softmax(x, temperature=0)),
        (ValueError, "temperature must", lambda: softmax(x, temperature=np.ones(4))),
        (TypeError, "where must be bool", lambda: softmax(x, where=np.ones(4))),
        (ValueError, "does not broadcast", lambda: softmax(x, where=np.ones(9, bool))),
        (ValueError, "does not broadcast", lambda: softmax_vjp(x, np.ones(9))),
        (ValueError, "does not broadcast", lambda: logsumexp(x, b=np.ones(9))),
        (TypeError, "64 bits", lambda: softmax(x.astype(complex))),
        (TypeError, "masked array", lambda: softmax(cut(np.ma.ones(3), 2))),
        (TypeError, "must hold numbers", lambda: softmax(x.astype(str))),
        (ValueError, "one chunk", lambda: hinge_loss(x)),
        (ValueError, "one chunk", lambda: cross_entropy(x, LABELS)),
        (ValueError, "p must be", lambda: hinge_loss(whole, p=3)),
        (ValueError, "labels must", lambda: hinge_loss(whole, LABELS[1:])),
        (ValueError, r"shape \(5, 23\), got", lambda: hinge_loss(whole, draw() > 0)),
        (TypeError, "labels must", lambda: cross_entropy(whole, LABELS * 1.0)),
        (ValueError, "reduction", lambda: cross_entropy(whole, LABELS, reduction="x")),
        (TypeError, "reshape", lambda: hinge_loss(da.ones(6), negatives=2)),
        (TypeError, "concatenate", lambda: pair_hinge_loss(x, x)),
    ):
        with pytest.raises(error, match=words):
            call()


def test_bad_values_are_found_in_their_chunk():
    temperature = np.ones((5, 1, 4))
    temperature[3] = 0
    with pytest.raises(ValueError, match=r"got 0\.0 at 1, 0, 0 of its chunk"):
        softmax(cut(draw()), 1, temperature=cut(temperature, 2)).compute()
    labels = LABELS.copy()
    labels[3, 15] = 9
    for function in (hinge_loss, cross_entropy):
        for reduction in ("none", "mean"):
            loss = function(cut(draw(), (2, 6, 4)), labels, reduction=reduction)
            with pytest.raises(IndexError, match=r"label 9 of row 3, 15 is not in"):
                loss.compute()
    labels = np.where(np.arange(20) == 9, 6, 0)
    loss = cross_entropy(selected(np.ones((20, 6)))[0], selected(labels, int)[0])
    with pytest.raises(IndexError, match=r"label 6 of row 1 of its chunk is not in"):
        loss.compute()


def test_xarray_passes_dask_arrays_on():
    xr = pytest.importorskip("xarray")
    x = draw()
    data = xr.DataArray(cut(x), dims=["row", "label", "time"])
    y = xr.apply_ufunc(
        softmax,
        data,
        kwargs={"axis": -1},
        input_core_dims=[["label"]],
        output_core_dims=[["label"]],
        dask="allowed",
    )
    assert isinstance(y.data, da.Array)
    expected = softmax(x, 1).transpose(0, 2, 1)
    np.testing.assert_allclose(y.values, expected, rtol=2.0**-22)


# ---- two processes ----


def logits(start, stop):
    """Logits by their place: as good as random."""
    return (np.arange(start, stop) * 2654435761 % 2**20 / 2**16).astype(np.float32)


def block(block_info=None):
    ((start, stop),) = block_info[None]["array-location"]
    return logits(start, stop)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cluster_whose_workers_hold_a_part_and_one_is_killed(tmp_path):
    """A set of 400 MB in pieces; a worker may hold 335 MB, itself included."""
    distributed = pytest.importorskip("distributed")
    size, pieces = 100_000_000, 100
    x = da.map_blocks(
        block,
        chunks=((size // pieces,) * pieces,),
        dtype=np.float32,
        meta=np.empty(0, np.float32),
    )
    y = softmax(x)
    places = np.arange(0, size, 1_000_003)
    with (
        dask.config.set(
            {"scheduler": None, "distributed.admin.system-monitor.disk": False}
        ),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit="320MiB",
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        futures = client.compute([y[places], y.sum(dtype=float), logsumexp(x)])
        before = client.run(os.getpid)
        time.sleep(2)
        assert not any(future.done() for future in futures)
        os.kill(next(iter(before.values())), signal.SIGKILL)
        found, total, log = client.gather(futures)
        after = client.run(os.getpid)
    assert set(before.values()) != set(after.values())
    part = size // pieces
    log_of_sum = logsumexp(
        [
            logsumexp(logits(i * part, i * part + part), dtype=float)
            for i in range(pieces)
        ]
    )
    all_logits = np.array([logits(place, place + 1)[0] for place in places], float)
    exact = np.exp(all_logits - log_of_sum)
    assert ulps(found, exact) <= 2
    assert abs(float(log) - log_of_sum) <= np.spacing(np.float32(log_of_sum))
    assert abs(float(total) - 1) < 1e-7
