"""Where large results live: arrays like any others, and in memory of ours."""

from __future__ import annotations

import ctypes
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_memory import MIB, get_handler_name, python

from fastsoftmax import (
    _cpu,
    hinge_loss,
    log_softmax,
    log_softmax_vjp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)

OURS, NUMPYS = "fastsoftmax", "default_allocator"


@pytest.fixture
def x() -> np.ndarray:
    """Return logits of 4 MiB."""
    if _cpu.keeps_mib()[0] < 64:
        pytest.skip("FASTSOFTMAX_KEEP_MIB is set too low")
    return np.random.default_rng(3).uniform(-90, 90, (1000, 1049)).astype(np.float32)


# ---- arrays like any others ----


def test_large_results_are_in_our_memory_and_small_ones_in_numpys(
    x: np.ndarray,
) -> None:
    assert x.nbytes > 4 * MIB
    assert get_handler_name(softmax(x, axis=-1)) == OURS
    assert get_handler_name(softmax(x[:2], axis=-1)) == NUMPYS
    assert get_handler_name(softmax(x[:249], axis=-1)) == NUMPYS  # 3 KB below
    assert get_handler_name(softmax(x[:250], axis=-1)) == OURS  # 1 KB above
    assert get_handler_name() == NUMPYS
    assert get_handler_name(softmax(x, axis=-1).copy()) == NUMPYS


def test_results_own_writable_memory(x: np.ndarray) -> None:
    y = softmax(x, axis=-1)
    assert y.flags.owndata
    assert y.base is None
    assert y.flags.writeable
    assert y.flags.aligned
    assert y.ctypes.data % 64 == 0
    assert type(y) is np.ndarray


def gradients(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    labels = np.arange(len(x)) % x.shape[1]
    one = hinge_loss(x, labels=labels, return_grad=True)[1]
    pairs = pair_hinge_loss(x[:, 0], x[:, 1:], return_grad=True)[1]
    return {"hinge": one, "hinge, pairs": pairs[1], "vjp": softmax_vjp(y, x, axis=-1)}


def test_every_way_to_a_result_of_the_shape_of_x_leads_to_our_memory(
    x: np.ndarray,
) -> None:
    y = softmax(x, axis=-1)
    results = {
        "fast": y,
        "temperature": softmax(x, axis=-1, temperature=2.0),
        "columns": log_softmax(x, axis=0),
        "integers": softmax(x.astype(np.int8), axis=-1),
        "halves": softmax(np.tile(x.astype(np.float16), (2, 1)), axis=-1),
        "Fortran": softmax(np.asfortranarray(x), axis=-1),
        "all": softmax(x),
        **gradients(x, y),
    }
    elsewhere = [name for name, y in results.items() if get_handler_name(y) != OURS]
    assert not elsewhere
    assert results["Fortran"].flags.f_contiguous


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_bits_that_out_gets(x: np.ndarray, dtype: type) -> None:
    x = x.astype(dtype)
    y, out = np.empty_like(x), np.empty_like(x)
    softmax(x, axis=-1, out=y)
    for axis in (0, -1):
        for function in (softmax, log_softmax):
            for _ in range(3):  # fresh memory, then used
                found = function(x, axis=axis)
                assert (found == function(x, axis=axis, out=out)).all()
                found[...] = np.nan
                del found
    for vjp in (softmax_vjp, log_softmax_vjp):
        assert (vjp(y, x, axis=-1) == vjp(y, x, axis=-1, out=out)).all()


def test_pickles_and_copies(x: np.ndarray) -> None:
    y = softmax(x, axis=-1)
    again = pickle.loads(pickle.dumps(y, protocol=5))
    assert (again == y).all()
    assert (y.copy() == y).all()
    assert y.T.base is y


@pytest.mark.parametrize("rows", [1, 7, 300, 999, 1000, 1001, 1777, 5000])
def test_resizes(x: np.ndarray, rows: int) -> None:
    y = softmax(x, axis=-1)
    before, both = y.copy(), min(rows, len(x))
    y.resize((rows, x.shape[1]), refcheck=False)
    assert get_handler_name(y) == OURS
    assert (y[:both] == before[:both]).all()
    assert not y[both:].any()
    y[...] = 1
    del y
    assert (softmax(x, axis=-1) == before).all()


def test_resizing_gives_back_what_it_no_longer_needs(tmp_path: Path) -> None:
    script = """
resident = status("VmRSS")
y = result(32)
y.resize((4096, 128), refcheck=False)
assert status("VmRSS") - resident < 4 and right(y)
y.resize((8192, 128), refcheck=False)
assert kept() == 2 and right(y[:4096])
del y
assert kept() == 6
"""
    python(tmp_path, script)


def test_tracemalloc_counts_results_while_they_live(x: np.ndarray) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        y = softmax(x, axis=-1)
        held = tracemalloc.get_traced_memory()[0] - before
        del y
        after = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert x.nbytes <= held < x.nbytes + 10_000
    assert after < 10_000


# ---- handlers ----

# By what NumPy's C headers say of an array and of its handler.
FUNCTIONS = """
keeper = result(1)
handler = ctypes.py_object.from_address(id(keeper) + object.__basicsize__ + 72).value
address = ctypes.pythonapi.PyCapsule_GetPointer
address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
struct = address(handler, b"mem_handler")
pointer, size = ctypes.c_void_p, ctypes.c_size_t

def function(place, *signature):
    at = pointer.from_address(struct + 136 + 8 * place).value
    call = ctypes.CFUNCTYPE(*signature)(at)  # without the GIL
    return lambda *arguments: call(None, *arguments)

malloc = function(0, pointer, pointer, size)
calloc = function(1, pointer, pointer, size, size)
realloc = function(2, pointer, pointer, pointer, size)
free = function(3, None, pointer, pointer, size)
"""


def test_functions_keep_the_promises_of_c(tmp_path: Path) -> None:
    script = """
a = malloc(3 * MIB)
ctypes.memset(a, 1, 3 * MIB)
free(a, 3 * MIB)
b = calloc(3, MIB)
assert b == a and ctypes.string_at(b, 3 * MIB) == bytes(3 * MIB)
assert calloc(1 << 40, 1 << 40) is None and malloc((1 << 64) - 1) is None
assert realloc(b, 1 << 60) is None and realloc(b, (1 << 64) - 1) is None
free(b, 3 * MIB)
c = realloc(None, MIB)
ctypes.memset(c, 5, MIB)
d = realloc(c, 2 * MIB)
assert ctypes.string_at(d, MIB) == b"\\5" * MIB
free(d, 2 * MIB)
free(None, 0)
for bytes_ in (0, 1, 4096, 65536):
    e = malloc(bytes_)
    ctypes.memset(e, 1, bytes_)
    free(e, bytes_)
"""
    python(tmp_path, FUNCTIONS + script)


def numpy_api(index: int, *signature: Any) -> Callable[..., Any]:
    """Return a function of NumPy's C API by its place in the table."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype = ctypes.c_void_p
    pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    table = pointer(np._core._multiarray_umath._ARRAY_API, None)
    address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[index]
    return ctypes.PYFUNCTYPE(*signature)(address)


def test_a_handler_of_the_users_stays_in_use(x: np.ndarray) -> None:
    set_handler = numpy_api(304, ctypes.py_object, ctypes.py_object)
    get_handler = numpy_api(305, ctypes.py_object)
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype = ctypes.py_object
    capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    default = get_handler()
    struct = ctypes.pythonapi.PyCapsule_GetPointer(default, b"mem_handler")
    users = capsule(struct, b"mem_handler", None)  # not NumPy's, though it works alike
    assert set_handler(users) is default
    try:
        assert get_handler_name(softmax(x, axis=-1)) == NUMPYS
        assert get_handler_name(softmax(x, axis=-1, temperature=2.0)) == NUMPYS
        assert get_handler() is users
    finally:
        set_handler(default)
    assert get_handler_name(softmax(x, axis=-1)) == OURS
    assert get_handler() is default


def test_numpys_handler_is_back_after_an_error(x: np.ndarray) -> None:
    endless = np.broadcast_to(np.float32(0), (1 << 50, 2))
    with pytest.raises(MemoryError):
        softmax(endless, axis=-1)
    with pytest.raises(ValueError, match=r"too (big|large)"):
        _cpu.empty_like(np.broadcast_to(np.int8(0), 1 << 61), np.dtype(np.float64))
    assert get_handler_name() == NUMPYS
    assert get_handler_name(np.empty(1 << 21)) == NUMPYS
    assert get_handler_name(softmax(x, axis=-1)) == OURS
