"""NVRTC through ctypes: needs the wheel nvidia-cuda-nvrtc, neither driver nor CuPy."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# What CuPy 14 adds to every compilation.
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")


class CompileError(Exception):
    """The source does not compile; the text is the log."""


@dataclass(frozen=True)
class Compiled:
    """The code, the lowered name of each name expression, and what NVRTC printed."""

    code: bytes
    lowered: dict[str, str]
    log: str


@functools.cache
def _library_path() -> Path | None:
    for folder in sys.path:
        for pattern in ("nvidia/*/lib/libnvrtc.so.*", "nvidia/*/bin/**/nvrtc64_*.dll"):
            for path in sorted(Path(folder).glob(pattern)):
                if "builtins" not in path.name and ".alt" not in path.name:
                    return path
    return None


MISSING = "what `pip install --group gpu-test` installs is not there"


def available() -> bool:
    """Tell whether NVRTC is there; where FASTSOFTMAX_REQUIRE_NVRTC=1, it must be."""
    found = _library_path() is not None
    assert found or os.environ.get("FASTSOFTMAX_REQUIRE_NVRTC") != "1", MISSING
    return found


@functools.cache
def _library() -> ctypes.CDLL:
    path = _library_path()
    if path is None:
        raise RuntimeError("the wheel nvidia-cuda-nvrtc is not installed")
    return ctypes.CDLL(str(path))


def architectures() -> list[int]:
    """Return the architectures that this NVRTC knows, as 75 or 120."""
    count = ctypes.c_int()
    _check(_library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    found = (ctypes.c_int * count.value)()
    _check(_library().nvrtcGetSupportedArchs(found))
    return list(found)


def compile(
    source: str,
    names: Sequence[str],
    arch: int,
    kind: Literal["ptx", "cubin"] = "ptx",
    options: Sequence[str] = (),
) -> Compiled:
    """Compile a source; `names` are the template instances to keep."""
    library, program = _library(), ctypes.c_void_p()
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None
        )
    )
    try:
        for name in names:
            _check(library.nvrtcAddNameExpression(program, name.encode()))
        target = f"-arch={'compute' if kind == 'ptx' else 'sm'}_{arch}"
        every = [option.encode() for option in (*OPTIONS, target, *options)]
        array = (ctypes.c_char_p * len(every))(*every)
        status = library.nvrtcCompileProgram(program, len(every), array)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode().strip()
        if status:
            raise CompileError(log or f"NVRTC error {status}")
        lowered = {name: _lowered(program, name) for name in names}
        return Compiled(_text(program, kind.upper()), lowered, log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC error {status}")


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _lowered(program: ctypes.c_void_p, name: str) -> str:
    lowered = ctypes.c_char_p()
    _check(
        _library().nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered))
    )
    assert lowered.value is not None
    return lowered.value.decode()
