"""The stand-in for CuPy refuses what it says, and has nothing that CuPy lacks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastsoftmax
from gpu import nvrtc, stand_in
from gpu.stand_in import DriverError

CODE = """
extern "C++" template <class T> __global__ void add(const T *x, T *y, int n, T more)
{
    extern __shared__ T kept[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        kept[threadIdx.x] = x[i];
    if (i < n)
        y[i] = kept[threadIdx.x] + more;
}
template <class T> __global__ void half(const T *x, T *y)
{
    if (threadIdx.x % 2 == 0)
        y[threadIdx.x] = x[threadIdx.x];
}
"""
OPTIONS = ("--std=c++17",)
HAS_CUPY = importlib.util.find_spec("cupy") is not None


def function(cupy: Any, name: str = "add<float>") -> Any:
    return cupy.RawModule(
        code=CODE, options=OPTIONS, name_expressions=(name,)
    ).get_function(name)


def arguments(x: Any, y: Any, **other: Any) -> tuple[Any, ...]:
    given = {"n": np.int32(x.size), "more": np.float32(1), **other}
    return x, y, given["n"], given["more"]


def array(cupy: Any, size: int = 32) -> Any:
    return cupy.asarray(np.arange(size, dtype=np.float32))


# ---- the same names ----


def public(thing: Any, path: str) -> set[str]:
    """Names that a program could use, with those of a class's members."""
    names = set()
    for name, value in vars(thing).items():
        if name.startswith("_"):
            continue
        names.add(f"{path}.{name}")
        if isinstance(value, (type, ModuleType)):
            names |= public(value, f"{path}.{name}")
    return names


def test_it_has_nothing_that_cupy_lacks(cupy):
    names = public(cupy, "cupy")
    x = array(cupy)
    for thing, path in (
        (x, "cupy.ndarray"),
        (x.data, "cupy.cuda.MemoryPointer"),
        (cupy.cuda.Device(0), "cupy.cuda.Device"),
        (function(cupy), "cupy.RawKernel"),
        (cupy.RawModule(CODE), "cupy.RawModule"),
    ):
        names |= {f"{path}.{name}" for name in vars(thing) if not name.startswith("_")}
    assert {"cupy.empty", "cupy.ndarray.shape", "cupy.cuda.runtime.getDevice"} <= names
    if not HAS_CUPY:
        pytest.skip(nvrtc.MISSING)
    program = (
        "import functools, json, sys, cupy\n"
        "def known(name):\n"
        "    try:\n"
        "        functools.reduce(getattr, name.split('.')[1:], cupy)\n"
        "    except AttributeError:\n"
        "        return False\n"
        "    return True\n"
        "print(json.dumps([n for n in json.load(sys.stdin) if not known(n)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([*sorted(names), "cupy.no_such_name"]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["cupy.no_such_name"]


def test_it_is_gone_afterwards(cupy):
    before = sys.modules["cupy"]
    with stand_in.installed() as another:
        assert sys.modules["cupy"] is another
        fastsoftmax.softmax(another.asarray(1.0))
        assert fastsoftmax.cuda.call.cupy is another
    assert sys.modules["cupy"] is before
    assert "fastsoftmax.cuda.call" not in sys.modules
    assert not hasattr(fastsoftmax.cuda, "call")


# ---- launches ----


def test_a_launch(cupy):
    x = array(cupy, 100)
    y = cupy.empty(100, np.float32)
    function(cupy)((4,), (32,), arguments(x, y), shared_mem=128)
    np.testing.assert_array_equal(y.get(), np.arange(100) + 1)
    launch = stand_in.machine.launches[0]
    assert launch.grid == (4, 1, 1)
    assert launch.shared_bytes == 128


def test_arrays_that_share_memory_do_so_in_a_launch(cupy):
    x = array(cupy, 40)
    function(cupy)((1,), (32,), arguments(x[:32], x[8:]), shared_mem=128)
    np.testing.assert_array_equal(x.get(), [*range(8), *range(1, 33)])


def test_what_is_around_an_array_is_out_of_bounds(cupy):
    x, y = array(cupy, 64), cupy.empty(64, np.float32)
    with pytest.raises(stand_in.ptx.Fault, match="bounds"):
        function(cupy)(
            (2,), (32,), arguments(x[:32], y, n=np.int32(64)), shared_mem=128
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": np.int64(32)}, "parameter of 4 bytes"),
        ({"more": np.float64(1)}, "parameter of 4 bytes"),
        ({"n": 32}, "Python number"),
        ({"more": 1.0}, "Python number"),
        ({"n": None}, "None for a parameter of 4 bytes"),
        ({"n": "x"}, "Python number"),
    ],
)
def test_arguments_of_another_width(cupy, change, message):
    x = array(cupy)
    with pytest.raises((TypeError, DriverError), match=message):
        function(cupy)((1,), (32,), arguments(x, x, **change), shared_mem=128)


def test_arguments_too_many_or_few(cupy):
    x = array(cupy)
    for args in (arguments(x, x)[:-1], (*arguments(x, x), x)):
        with pytest.raises(DriverError, match="for 4 parameters"):
            function(cupy)((1,), (32,), args, shared_mem=128)
    with pytest.raises(DriverError, match="an array for a parameter of 4 bytes"):
        function(cupy)((1,), (32,), arguments(x, x, n=x), shared_mem=128)


def test_arrays_that_are_not_contiguous(cupy):
    x = array(cupy, 64)
    for view in (
        x[::2],
        x[31::-1],
        x.reshape(8, 8).transpose(),
        x.reshape(8, 8)[:, :4],
    ):
        for args in (arguments(view, array(cupy)), arguments(array(cupy), view)):
            with pytest.raises(DriverError, match="strides"):
                function(cupy)((1,), (32,), args, shared_mem=128)


def test_arrays_of_another_device(cupy):
    x = array(cupy)
    add = function(cupy)
    with cupy.cuda.Device(1):
        y = array(cupy)
        assert cupy.cuda.runtime.getDevice() == 1
        with pytest.raises(DriverError, match="device 0"):
            add((1,), (32,), arguments(x, y), shared_mem=128)
    for use in (
        lambda: y.astype(np.float64),
        lambda: y.fill(0),
        lambda: y.sum(),
        lambda: y / 2,
        lambda: cupy.ascontiguousarray(y[::2]),
        lambda: y.__setitem__(..., x),
        lambda: x.__setitem__(..., y),
        lambda: cupy.where(x.astype(bool), y, 0),
    ):
        with pytest.raises(ValueError, match="must be same as the current device"):
            use()


def test_shared_memory_is_allowed_for_a_function_and_device(cupy):
    x, y = array(cupy), cupy.empty(32, np.float32)
    add = function(cupy)
    size = 60_000
    with pytest.raises(DriverError, match="60000 bytes"):
        add((1,), (32,), arguments(x, y), shared_mem=size)
    add.max_dynamic_shared_size_bytes = size
    add((1,), (32,), arguments(x, y), shared_mem=size)
    with cupy.cuda.Device(1):
        there = array(cupy)
        with pytest.raises(DriverError, match="60000 bytes"):
            add((1,), (32,), arguments(there, there), shared_mem=size)
        with pytest.raises(DriverError, match="shared memory"):
            add.max_dynamic_shared_size_bytes = 100 * 1024
    add.max_dynamic_shared_size_bytes = 100 * 1024
    with pytest.raises(DriverError, match="shared memory"):
        add.max_dynamic_shared_size_bytes = 228 * 1024


def test_grids(cupy):
    x = array(cupy)
    for grid in ((0,), (2**31,), (1, 65536), (1, 1, 65536), (1.0,), (np.int64(1),)):
        with pytest.raises(DriverError, match="a grid of"):
            function(cupy)(grid, (32,), arguments(x, x), shared_mem=128)
    with pytest.raises(stand_in.ptx.Fault, match="limits"):
        function(cupy)((1,), (2048,), arguments(x, x), shared_mem=8192)


# ---- modules ----


def test_modules(cupy):
    with pytest.raises(ValueError, match="--std"):
        cupy.RawModule(code=CODE, name_expressions=("add<float>",))
    module = cupy.RawModule(
        code=CODE, options=OPTIONS, name_expressions=("add<float>",)
    )
    with pytest.raises(DriverError, match="not found"):
        module.get_function("add<double>")
    assert stand_in.machine.lookups == 1
    with pytest.raises(stand_in.nvrtc.CompileError, match="no_such_type"):
        function(cupy, "add<no_such_type>")


# ---- memory ----


def test_what_nobody_has_written_must_not_be_read(cupy):
    x, y = array(cupy), cupy.empty(32, np.float32)
    with pytest.raises(AssertionError, match="never written"):
        y.get()
    for use in (lambda: y.astype(np.float64), lambda: y.sum(), lambda: y / 2):
        with pytest.raises(AssertionError, match="nobody has written"):
            use()
    function(cupy, "half<float>")((1,), (32,), (x, y))
    with pytest.raises(AssertionError, match="never written"):
        y.get()
    np.testing.assert_array_equal(y[::2].get(), np.arange(0, 32, 2))
    y[1::2] = x[1::2]
    np.testing.assert_array_equal(y.get(), np.arange(32))


def test_memory_is_garbage_at_first(cupy):
    assert (cupy.empty(8, np.uint8)._host == stand_in.GARBAGE).all()


def test_addresses(cupy):
    x, y = array(cupy), array(cupy)
    assert x.data.ptr % 512 == y.data.ptr % 512 == 0
    assert x[3:].data.ptr == x.data.ptr + 12
    assert x[::-1].data.ptr == x.data.ptr + 31 * 4
    assert cupy.empty((0, 3), np.float32).data.ptr == 0
    assert cupy.may_share_memory(x[:16], x[8:])
    assert not cupy.may_share_memory(x[:8], x[8:])
    assert not cupy.may_share_memory(x, y)


def test_views_share_memory(cupy):
    x = array(cupy).reshape(4, 8)
    for view in (x.transpose(), x[1:], x[:, ::-1], x.reshape(8, 4), x.T, x[None]):
        view[...] = 7.0
        assert (view.get() == 7).all()
        assert (x.get()[1:] == 7).all()
        x[...] = 0.0
    assert x.T.reshape(-1).data.ptr != x.data.ptr  # a copy


def test_a_copy_keeps_fortran_order_only(cupy):
    values = np.arange(24.0).reshape(2, 3, 4)
    assert cupy.asarray(np.asfortranarray(values)).flags.f_contiguous
    assert cupy.asarray(values.transpose(1, 0, 2)).flags.c_contiguous
    assert cupy.asarray(values[:, ::-1]).flags.c_contiguous


# ---- nothing becomes an array of the host by itself ----


@pytest.mark.parametrize(
    "use",
    [
        np.asarray,
        np.array,
        np.exp,
        np.sum,
        np.shape,
        np.atleast_1d,
        lambda x: np.float32(1) * x,
        lambda x: np.ones(32) + x,
        lambda x: np.broadcast_to(x, (2, 32)),
        lambda x: np.concatenate([x, x]),
        lambda x: np.ones(32).__setitem__(..., x),
        list,
    ],
)
def test_numpy_functions_fail(cupy, use):
    with pytest.raises(TypeError):
        use(array(cupy))


@pytest.mark.parametrize(
    "use", [lambda x: x == x, lambda x: x < 1, len, lambda x: x[x], lambda x: x[[0, 1]]]
)
def test_what_it_does_not_know_fails(cupy, use):
    with pytest.raises(NotImplementedError):
        use(array(cupy))


def test_whatever_waits_is_counted(cupy):
    x = cupy.asarray(1.5)
    for number, use in enumerate((bool, int, float, lambda x: x.get()), 1):
        use(x)
        assert stand_in.machine.waits == number


def test_choosing_among_bfloat16_gives_float32_as_cupy_does(cupy):
    import ml_dtypes

    x = cupy.asarray(np.ones(4, ml_dtypes.bfloat16))
    mask = cupy.asarray(np.array([True, False, True, False]))
    assert cupy.where(mask, x, 0).dtype == np.float32
    np.testing.assert_array_equal(
        cupy.where(mask, array(cupy, 4), 0).get(), [0, 0, 2, 0]
    )
