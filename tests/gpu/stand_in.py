"""A stand-in for the module `cupy` on machines without a GPU: no GPU runs here.

NVRTC compiles the kernels as CuPy would; the interpreter of PTX runs them.

A. It has what fastsoftmax/cuda/ and its tests use, under CuPy's names only.
B. It refuses what CuPy lets pass, to read or write the wrong memory: arrays for a
   kernel that are not contiguous or of another device, scalars of another width.
C. What nobody has written is known as such, and must not be read.
D. `machine` counts launches, and what would have waited for the device.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastsoftmax import _arguments
from gpu import nvrtc, ptx
from gpu.ptx.types import size_of
from gpu.spans import Spans

Host = np.ndarray[Any, np.dtype[Any]]

GARBAGE = 0xA5
ALLOCATION = 512  # CuPy's allocations begin on multiples of so many bytes
PLAIN_SHARED_BYTES = 48 * 1024
MOST_BLOCKS = (2**31 - 1, 65535, 65535)


class Card(NamedTuple):
    """A device, as far as programs can ask about it."""

    arch: int
    processors: int
    shared_bytes: int


CARDS = (Card(90, 132, 227 * 1024), Card(86, 82, 99 * 1024))


class Launched(NamedTuple):
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, ...]
    shared_bytes: int
    device: int


@dataclass
class Machine:
    """What there is one of: the current device, and what has happened."""

    device: int = 0
    checks: bool = False
    launches: list[Launched] = field(default_factory=list)
    lookups: int = 0
    waits: int = 0
    other_kernels: list[str] = field(default_factory=list)  # CuPy's own
    top: list[int] = field(default_factory=lambda: [ALLOCATION] * len(CARDS))

    def reset(self) -> None:
        vars(self).update(vars(Machine()))

    @property
    def card(self) -> Card:
        return CARDS[self.device]

    def place(self, size: int, device: int) -> int:
        """Return an address of the device's memory that nobody else has."""
        address = self.top[device] + (device << 40)
        self.top[device] += -(-(size + 1) // ALLOCATION) * ALLOCATION
        return address


machine = Machine()


# ---- memory ----


class _Buffer:
    """An allocation: its bytes, and which of them have been written."""

    def __init__(self, size: int) -> None:
        self.device = machine.device
        self.address = machine.place(size, self.device) if size else 0
        self.bytes = np.full(size, GARBAGE, np.uint8)
        self.known = np.zeros(size, np.bool_)

    def offset(self, host: Host) -> int:
        """Return where an array in this buffer begins, in bytes."""
        if host.size == 0:
            return 0
        return _address(host) - _address(self.bytes)


def _address(host: Host) -> int:
    address: int = host.__array_interface__["data"][0]
    return address


class MemoryPointer:
    def __init__(self, ptr: int, device_id: int) -> None:
        self.ptr = ptr
        self.device_id = device_id


class _Flags:
    def __init__(self, host: Host) -> None:
        self.c_contiguous = host.flags.c_contiguous
        self.f_contiguous = host.flags.f_contiguous


def _new(values: Host, operation: str = "") -> ndarray:
    """Return a new array of the current device, laid out as `values`."""
    array = _uninitialised(values.shape, values.dtype, values.strides)
    array._write(values)
    if operation:
        machine.other_kernels.append(operation)
    return array


def _uninitialised(
    shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None = None
) -> ndarray:
    dtype = np.dtype(dtype)
    buffer = _Buffer(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return ndarray(np.ndarray(shape, dtype, buffer.bytes, 0, strides), buffer)


class ndarray:  # noqa: N801 - CuPy's name
    """Not one of NumPy's: whatever takes it for memory of the host fails."""

    __module__ = "cupy"
    __array_priority__ = 100
    __iter__ = None

    def __init__(self, host: Host, buffer: _Buffer) -> None:
        self._host = host
        self._buffer = buffer
        self.shape = host.shape
        self.dtype = host.dtype
        self.ndim = host.ndim
        self.size = host.size
        self.strides = host.strides
        self.itemsize = host.itemsize
        self.nbytes = host.nbytes
        self.flags = _Flags(host)
        address = buffer.address + buffer.offset(host) if host.size else 0
        self.data = MemoryPointer(address, buffer.device)

    # What only looks at memory in another way

    def _view(self, host: Host) -> ndarray:
        return ndarray(host, self._buffer)

    def __getitem__(self, key: Any) -> ndarray:
        for part in key if isinstance(key, tuple) else (key,):
            if not (part is None or part is ... or isinstance(part, (int, slice))):
                raise NotImplementedError(f"no index {part!r} in the stand-in")
        key = key if isinstance(key, tuple) else (key,)
        return self._view(
            self._host[(*key, ...)] if ... not in key else self._host[key]
        )

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes))

    @property
    def T(self) -> ndarray:  # noqa: N802 - CuPy's name
        return self.transpose()

    def reshape(self, *shape: Any) -> ndarray:
        """Return a view where there can be one, as CuPy does."""
        reshaped = self._host.reshape(*shape)
        if self.size == 0 or np.may_share_memory(reshaped, self._host):
            return self._view(reshaped)
        return _new(self._read().reshape(*shape), "reshape")

    # What runs a kernel of CuPy's

    def _known(self) -> Host:
        return np.lib.stride_tricks.as_strided(
            self._buffer.known[self._buffer.offset(self._host) :],
            (*self.shape, self.itemsize),
            (*self.strides, 1),
        )

    def _require_here(self) -> None:
        if self._buffer.device != machine.device:
            raise ValueError(
                f"Array device must be same as the current device: array device = "
                f"{self._buffer.device} while current = {machine.device}"
            )

    def _read(self) -> Host:
        self._require_here()
        assert self._known().all(), "a kernel of CuPy's reads what nobody has written"
        return self._host

    def _write(self, values: Any) -> None:
        self._require_here()
        self._host[...] = values
        self._known()[...] = True

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        if isinstance(value, ndarray):
            value = value._read()
        elif not np.isscalar(value):
            raise ValueError("non-scalar NumPy arrays cannot be assigned")
        target._write(value)
        machine.other_kernels.append("copy")

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        with np.errstate(all="ignore"):
            return _new(self._read().astype(dtype), "astype")

    def fill(self, value: Any) -> None:
        self._write(value)
        machine.other_kernels.append("fill")

    def sum(self) -> ndarray:
        return _elementwise(np.sum, self)

    def max(self, axis: tuple[int, ...], keepdims: bool) -> ndarray:
        return _new(np.asarray(self._read().max(axis, keepdims=keepdims)), "max")

    def __abs__(self) -> ndarray:
        return _elementwise(np.abs, self)

    def __sub__(self, other: Any) -> ndarray:
        return _elementwise(np.subtract, self, other)

    def __mul__(self, other: Any) -> ndarray:
        return _elementwise(np.multiply, self, other)

    def __truediv__(self, other: Any) -> ndarray:
        return _elementwise(np.true_divide, self, other)

    def __gt__(self, other: Any) -> ndarray:
        return _elementwise(np.greater, self, other)

    # What waits for the device

    def get(self) -> Host:
        machine.waits += 1
        assert self._known().all(), "part of the result was never written"
        return self._host.copy(order="K")

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    # What CuPy refuses, or the stand-in does not know

    def __array__(self, *args: Any, **kwargs: Any) -> Host:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` "
            "to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a NumPy function of a CuPy array")

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a NumPy function of a CuPy array")

    def _unknown(self, *args: Any) -> Any:
        raise NotImplementedError("not in the stand-in")

    __eq__ = __ne__ = __lt__ = __le__ = __ge__ = __len__ = _unknown
    __hash__ = None  # type: ignore[assignment]


def _elementwise(function: Any, *args: Any) -> ndarray:
    given = [arg._read() if isinstance(arg, ndarray) else arg for arg in args]
    with np.errstate(all="ignore"):
        return _new(np.asarray(function(*given)), function.__name__)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    return _uninitialised(shape if isinstance(shape, tuple) else (shape,), dtype)


def clip(a: ndarray, a_min: float, a_max: float) -> ndarray:
    return _new(np.clip(a._read(), a_min, a_max), "clip")


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """Copy what is of the host to the current device, in C or Fortran order."""
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    values = np.asarray(a, dtype)
    if values.dtype.kind == "O":
        raise ValueError(f"Unsupported dtype {values.dtype}")
    if not values.flags.f_contiguous:
        values = np.ascontiguousarray(values)
    return _new(values)


def ascontiguousarray(a: ndarray) -> ndarray:
    if a.flags.c_contiguous:
        return a
    return _new(np.ascontiguousarray(a._read()), "ascontiguousarray")


def broadcast_to(array: ndarray, shape: tuple[int, ...]) -> ndarray:
    return array._view(np.broadcast_to(array._host, shape))


def where(condition: ndarray, x: Any, y: Any) -> ndarray:
    """Choose elements; CuPy has a loop for float32, and none for bfloat16."""
    if type(y) not in (int, float):
        raise NotImplementedError("the stand-in chooses an array or a Python number")
    wanted = np.dtype("f4") if x.dtype.name == "bfloat16" else x.dtype
    chosen = np.where(condition._read(), x._read().astype(wanted), wanted.type(y))
    return _new(chosen, "where")


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    return a._buffer is b._buffer and np.may_share_memory(a._host, b._host)


# ---- devices ----


class Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = machine.device if device is None else device
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(machine.device)
        machine.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        machine.device = self._before.pop()

    @property
    def compute_capability(self) -> str:
        return str(CARDS[self.id].arch)

    @property
    def attributes(self) -> dict[str, int]:
        card = CARDS[self.id]
        return {
            "MaxSharedMemoryPerBlockOptin": card.shared_bytes,
            "MultiProcessorCount": card.processors,
        }


def get_device() -> int:
    return machine.device


def get_device_count() -> int:
    return len(CARDS)


# ---- kernels ----


class DriverError(RuntimeError):
    """What the driver would have refused."""


@functools.cache
def _compiled(code: str, options: tuple[str, ...], name: str, arch: int) -> ptx.Kernel:
    more = [option for option in options if option not in nvrtc.OPTIONS]
    program = nvrtc.compile(code, [name], arch, "ptx", more)
    assert not program.log, program.log
    return ptx.parse(program.code).kernels[program.lowered[name]]


class RawModule:
    def __init__(
        self,
        code: str | None = None,
        *,
        options: tuple[str, ...] = (),
        name_expressions: tuple[str, ...] | None = None,
    ) -> None:
        if name_expressions and not any("-std=" in option for option in options):
            raise ValueError("name_expressions need an option --std=c++..")
        if not isinstance(options, tuple) or code is None:
            raise TypeError("RawModule needs code, and a tuple of options")
        self.code, self.options = code, options
        self.name_expressions = name_expressions or ()

    def get_function(self, name: str) -> RawKernel:
        machine.lookups += 1
        if name not in self.name_expressions:
            raise DriverError(f"named symbol not found: {name}")
        kernel = RawKernel(self, name)
        kernel._here()  # CuPy compiles now
        return kernel


class RawKernel:
    def __init__(self, module: RawModule, name: str) -> None:
        self._module, self.name = module, name
        self._shared_bytes: dict[int, int] = {}  # of each device

    def _here(self) -> ptx.Kernel:
        module = self._module
        return _compiled(module.code, module.options, self.name, machine.card.arch)

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        plain = PLAIN_SHARED_BYTES - self._here().shared_bytes
        return max(plain, self._shared_bytes.get(machine.device, 0))

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size + self._here().shared_bytes > machine.card.shared_bytes:
            raise DriverError(f"invalid value: {size} bytes of shared memory")
        self._shared_bytes[machine.device] = size

    def __call__(
        self, grid: Any, block: Any, args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        kernel = self._here()
        full_grid = (*grid, 1, 1)[:3]
        for size, most in zip(full_grid, MOST_BLOCKS, strict=True):
            if type(size) is not int or not 1 <= size <= most:
                raise DriverError(f"invalid value: a grid of {grid}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise DriverError(
                f"invalid value: {shared_mem} bytes of shared memory, "
                f"{self.max_dynamic_shared_size_bytes} allowed on this device"
            )
        if len(args) != len(kernel.parameters):
            raise DriverError(
                f"{len(args)} arguments for {len(kernel.parameters)} parameters"
            )
        for value, (_, type_) in zip(args, kernel.parameters, strict=True):
            _check_argument(value, size_of(type_))
        self._run(kernel, full_grid, tuple(block), args, shared_mem)

    def _run(
        self,
        kernel: ptx.Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int,
    ) -> None:
        assert grid[1:] == (1, 1), "the interpreter knows one dimension"
        spans = Spans([a for a in args if isinstance(a, ndarray)])
        values = [
            spans.pointer(a) if isinstance(a, ndarray) else 0 if a is None else a
            for a in args
        ]
        ptx.launch(
            kernel,
            spans.memory,
            grid[0],
            *block,
            values,
            shared_bytes,
            checks=machine.checks,
        )
        spans.bring_back()
        machine.launches.append(
            Launched(self.name, grid, block, shared_bytes, machine.device)
        )


def _check_argument(value: Any, size: int) -> None:
    """Refuse what CuPy would pass as something else."""
    if isinstance(value, ndarray):
        if value._buffer.device != machine.device:
            raise DriverError(
                f"an array of device {value._buffer.device} for a kernel on device "
                f"{machine.device}"
            )
        if not value.flags.c_contiguous:
            raise DriverError(
                f"an array with strides {value.strides}: kernels see none"
            )
        if size != 8:
            raise DriverError(f"an array for a parameter of {size} bytes")
    elif value is None:  # a null pointer
        if size != 8:
            raise DriverError(f"None for a parameter of {size} bytes")
    elif not isinstance(value, np.generic):
        raise TypeError(f"{value!r}: CuPy passes a Python number as 8 or 16 bytes")
    elif value.dtype.itemsize != size:
        raise DriverError(f"{value!r} for a parameter of {size} bytes")


# ---- the module ----

NAMES = (
    RawKernel,
    RawModule,
    asarray,
    ascontiguousarray,
    broadcast_to,
    clip,
    empty,
    may_share_memory,
    ndarray,
    where,
)


def _module() -> ModuleType:
    cupy, cuda = ModuleType("cupy", __doc__), ModuleType("cupy.cuda")
    for thing in NAMES:
        setattr(cupy, thing.__name__, thing)
    cuda.Device = Device  # type: ignore[attr-defined]
    cuda.MemoryPointer = MemoryPointer  # type: ignore[attr-defined]
    cuda.runtime = ModuleType("cupy.cuda.runtime")  # type: ignore[attr-defined]
    cuda.runtime.getDevice = get_device
    cuda.runtime.getDeviceCount = get_device_count
    cupy.cuda = cuda  # type: ignore[attr-defined]
    return cupy


@contextlib.contextmanager
def installed() -> Iterator[ModuleType]:
    """Put the stand-in in the place of CuPy; what is imported of it goes afterwards."""
    before = sys.modules.get("cupy")
    machine.reset()
    _forget_gpu()
    cupy = sys.modules["cupy"] = _module()
    try:
        yield cupy
    finally:
        _forget_gpu()
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before


def _forget_gpu() -> None:
    _arguments.module_of.cache_clear()
    cuda = sys.modules.get("fastsoftmax.cuda")
    for name in ("call", "launch", "losses", "temperatures"):
        sys.modules.pop(f"fastsoftmax.cuda.{name}", None)
        if hasattr(cuda, name):
            delattr(cuda, name)
