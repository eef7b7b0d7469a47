"""The CuPy half on a real GPU, against this package's results on the CPU.

Skipped where CuPy finds no device. What arguments mean is tested on the stand-in, by
test_wrapper*.py; FASTSOFTMAX_TEST_DEVICE=1 runs those tests on the device, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastsoftmax
from fastsoftmax.cuda import choose


def _why_not() -> str:
    try:
        import cupy

        count: int = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"no CUDA device for CuPy: {error}"
    return "" if count else "CuPy counts 0 CUDA devices"


WHY_NOT = _why_not()

# Every variant of the table, one-by-one reads among them.
SHAPES = [
    (65536, 10),
    (1000, 32),
    (999, 33),
    (4096, 1000),
    (4096, 1024),
    (300, 1023),
    (500, 4096),
    (300, 4097),
    (300, 5120),
    (300, 20001),
    (300, 32000),
    (300, 40000),
    (300, 50257),
    (30, 65537),
    (2, 128256),
    (300, 65536),
    (20, 131072),
    (3, 262144),
    (1, 1_000_003),
    (1, 50_000_000),
]
COLUMNS = [
    (70, 10, 33),
    (5, 200, 1000),
    (2, 50, 300),
    (7, 900, 64),
    (3, 5000, 31),
    (1, 300_000, 3),
]
DTYPES = ["float16", "float32", "float64"]

# In units in the last place, beside a wider result of the CPU; float16 is rounded from
# float32.
ULP = {"float16": 0.501, "float32": 3, "float64": 3}


@pytest.fixture(scope="module")
def cupy() -> Any:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    import cupy

    return cupy


def data(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return logits of which exp overflows."""
    random = np.random.default_rng(seed)
    return (random.standard_normal(shape) * 8 + 20).astype(dtype)


def reference(function: Callable[..., Any], x: Any, axis: int) -> Any:
    wider = np.longdouble if x.dtype == np.float64 else np.float64
    return function(x, axis=axis, dtype=wider)


def assert_close(
    got: Any, want: Any, dtype: str, scale: Any = None, name: str = "softmax"
) -> None:
    """Check in units in the last place of the result, or of a larger term."""
    tiny = np.finfo(dtype).tiny
    size = np.abs(want) if scale is None else np.maximum(np.abs(want), scale)
    unit = np.spacing(np.maximum(size, tiny).astype(dtype)).astype(want.dtype)
    ordinary = size >= tiny
    error = np.abs(got.astype(want.dtype) - want)[ordinary] / unit[ordinary]
    assert got.dtype == dtype
    assert error.size > 0
    assert error.max() <= ULP[dtype] + (name == "log_softmax")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_rows(cupy: Any, name: str, shape: tuple[int, int], dtype: str) -> None:
    function = getattr(fastsoftmax, name)
    x = data(shape, dtype)
    got = function(cupy.asarray(x), axis=-1).get()
    scale = np.abs(x).max() if name == "logsumexp" else None
    assert_close(got, reference(function, x, -1), dtype, scale, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", COLUMNS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_columns(cupy: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
    function = getattr(fastsoftmax, name)
    x = data(shape, dtype)
    got = function(cupy.asarray(x), axis=1).get()
    scale = np.abs(x).max() if name == "logsumexp" else None
    assert_close(got, reference(function, x, 1), dtype, scale, name)


@pytest.mark.parametrize("shape", [*SHAPES, *COLUMNS])
@pytest.mark.parametrize("name", ["softmax_vjp", "log_softmax_vjp"])
def test_gradients(cupy: Any, name: str, shape: tuple[int, ...]) -> None:
    vjp = getattr(fastsoftmax, name)
    axis = 1
    y = getattr(fastsoftmax, name.removesuffix("_vjp"))(
        data(shape, "float32"), axis=axis
    )
    dy = data(shape, "float32", 1)
    got = vjp(cupy.asarray(y), cupy.asarray(dy), axis=axis).get()
    want = vjp(y.astype(np.float64), dy.astype(np.float64), axis=axis)
    size = np.abs(dy) if name == "log_softmax_vjp" else np.abs(y * dy)
    total = dy.astype(np.float64).sum(axis=axis, keepdims=True)
    if name == "log_softmax_vjp":
        size = size + np.exp(y.astype(np.float64)) * np.abs(total)
    else:
        size = size + y * np.abs((y.astype(np.float64) * dy).sum(axis, keepdims=True))
    assert np.all(np.abs(got - want) <= 4 * 2.0**-23 * size + 1e-37)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", ["sum", "max"])
def test_hinge_losses(cupy: Any, shape: tuple[int, int], variant: str) -> None:
    scores = data(shape, "float32")
    labels = np.random.default_rng(2).integers(0, shape[1], shape[0])
    options = {"variant": variant, "reduction": "none", "return_grad": True}
    loss, grad = fastsoftmax.hinge_loss(
        cupy.asarray(scores), cupy.asarray(labels), **options
    )
    want, want_grad = fastsoftmax.hinge_loss(scores, labels, **options)
    np.testing.assert_allclose(loss.get(), want, rtol=3 * 2.0**-23)
    np.testing.assert_allclose(grad.get(), want_grad, rtol=2.0**-23)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_cross_entropy(cupy: Any, shape: tuple[int, int], kind: str) -> None:
    scores, random = data(shape, "float32"), np.random.default_rng(2)
    labels = random.integers(0, shape[1], shape[0])
    if kind == "probabilities":
        labels = np.float32(random.random(shape))
    options = {"label_smoothing": 0.1, "reduction": "none", "return_grad": True}
    loss, grad = fastsoftmax.cross_entropy(
        cupy.asarray(scores), cupy.asarray(labels), **options
    )
    want, want_grad = fastsoftmax.cross_entropy(scores, labels, **options)
    np.testing.assert_allclose(loss.get(), want, rtol=8 * 2.0**-23)
    whole = max(1, shape[1] / 2 if kind == "probabilities" else 1)
    np.testing.assert_allclose(
        grad.get(), want_grad, rtol=10 * 2.0**-23, atol=10 * 2.0**-23 * whole
    )
    weights = cupy.asarray(random.random(shape[0]))
    mean = fastsoftmax.cross_entropy(
        cupy.asarray(scores), cupy.asarray(labels), sample_weight=weights
    )
    want = fastsoftmax.cross_entropy(scores, labels, sample_weight=weights.get())
    np.testing.assert_allclose(mean.get(), want, rtol=8 * 2.0**-23)


@pytest.mark.parametrize("shape", SHAPES)
def test_special_values(cupy: Any, shape: tuple[int, int]) -> None:
    rows = [[np.nan], [np.inf], [-np.inf, np.inf, np.nan], [np.inf, np.inf]]
    x = np.tile(data((1, shape[1]), "float32"), (len(rows) + 2, 1))
    for row, values in zip(x, rows, strict=False):
        row[: len(values)] = values[: shape[1]]
    x[-2] = -np.inf
    x[-1, ::2] = -np.inf
    mask = np.arange(shape[1]) % 3 != 0
    for name in ("softmax", "log_softmax", "logsumexp"):
        function = getattr(fastsoftmax, name)
        for where in (None, np.broadcast_to(mask, x.shape), np.zeros(x.shape, bool)):
            on_device = None if where is None else cupy.asarray(where)
            got = function(cupy.asarray(x), axis=-1, where=on_device).get()
            want = function(x, axis=-1, where=where)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_a_row_does_not_depend_on_its_batch(cupy: Any, shape: tuple[int, int]) -> None:
    x = cupy.asarray(data(shape, "float32"))
    batch = fastsoftmax.softmax(cupy.concatenate([x] * (400 // shape[0] + 1)), axis=-1)
    alone = fastsoftmax.softmax(x[:1], axis=-1)
    assert np.array_equal(batch[:1].get(), alone.get())


def test_works_on_the_current_stream(cupy: Any) -> None:
    """The other streams are busy: only on its own does a call see what was written."""
    want = fastsoftmax.softmax(cupy.asarray(data((512, 4096), "float32")), axis=-1)
    source, x = (
        cupy.asarray(data((512, 4096), "float32")),
        cupy.zeros((512, 4096), "f4"),
    )
    work = cupy.zeros(1 << 28, cupy.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    fastsoftmax.softmax(x, axis=-1)  # compiled before
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(50):  # some 100 ms
            work += 1
        x[...] = source
        y = fastsoftmax.softmax(x, axis=-1)
        assert not stream.done, "the device was too fast to tell"
    stream.synchronize()
    assert np.array_equal(y.get(), want.get())


def test_split_rows_on_two_streams(cupy: Any) -> None:
    """Their workspaces are their own."""
    arrays = [cupy.asarray(data((2, 3_000_000), "float32", seed)) for seed in (0, 1)]
    want = [fastsoftmax.softmax(x, axis=-1).get() for x in arrays]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    cupy.cuda.Device().synchronize()
    results: list[Any] = []
    for _ in range(20):
        for stream, x in zip(streams, arrays, strict=True):
            with stream:
                results.append(fastsoftmax.softmax(x, axis=-1))
    cupy.cuda.Device().synchronize()
    for number, result in enumerate(results):
        assert np.array_equal(result.get(), want[number % 2])


def test_work_goes_to_the_device_of_the_arrays(cupy: Any) -> None:
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device: nothing to choose")
    with cupy.cuda.Device(1):
        x = cupy.asarray(data((100, 1000), "float32"))
    y = fastsoftmax.softmax(x, axis=-1)
    assert y.device.id == 1
    assert cupy.cuda.runtime.getDevice() == 0
    assert_close(y.get(), reference(fastsoftmax.softmax, x.get(), -1), "float32")


def test_shapes_take_every_variant() -> None:
    """Lists of shapes that no longer do would test less than they say."""
    device = choose.Device(90)
    reached = set()
    for shape in [*SHAPES, *COLUMNS]:
        rows, n, inner = (*shape, 1)[:3]
        launches = choose.choose(
            choose.SOFTMAX, "float32", rows, n, inner, True, device
        )
        reached.add(launches.launches[0].variant)
    assert reached == {
        "tile",
        "rows",
        "cluster",
        "split",
        "columns",
        "column cluster",
        "split columns",
    }
