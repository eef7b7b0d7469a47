"""Builds the kernels' driver (tests/kernels) for a machine, and gives it jobs."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from oracle.arithmetic import Array

from fastsoftmax import _cpu

TESTS = Path(__file__).resolve().parent
DRIVER = TESTS / "kernels"
EMULATED = DRIVER / "emulated"
ROOT = TESTS.parent
KERNELS = ROOT / "fastsoftmax" / "kernels"

# In the order of fs_type.
TYPES = (
    *map(np.dtype, ("f4", "f8", "f2", ml_dtypes.bfloat16, "?")),
    *map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")),
)
TASKS = ("softmax", "log_softmax", "logsumexp", "softmax_vjp", "log_softmax_vjp")

# The kernels set the rest by pragmas.
FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-D_DEFAULT_SOURCE")
# Those of setup.py, in its order: what ccache knows from building the package is not
# compiled again.
RELEASE = shlex.split("""
    -O3 -g0 -fno-fast-math -fno-unsafe-math-optimizations -ffp-contract=off
    -fopenmp-simd -fno-inline-functions -fno-split-loops -fno-unswitch-loops
    -fvect-cost-model=very-cheap -std=c11 -D_POSIX_C_SOURCE=200809L -MD -fopenmp
""")
AVX2 = ("-mavx2", "-mfma", "-mf16c")


def need(there: Any, reason: str) -> None:
    """Skip; or fail, where .ci/run has installed what is needed."""
    if not there and os.environ.get("FASTSOFTMAX_REQUIRE_CROSS"):
        pytest.fail(reason)
    if not there:
        pytest.skip(reason)


class Target(NamedTuple):
    """An instruction set and the machine it is for."""

    machine: str  # of compilers and emulators: x86_64, aarch64
    isa: str

    def __str__(self) -> str:
        return f"{self.machine}-{self.isa}"

    @property
    def native(self) -> bool:
        return self.machine == platform.machine()

    @property
    def emulated(self) -> bool:
        """Whether SIMDe stands in for the processor."""
        return self.native and self.isa not in _cpu.supported_isas

    @property
    def slow(self) -> bool:
        return self.emulated or not self.native

    @property
    def launcher(self) -> tuple[str, ...]:
        return () if self.native else (f"qemu-{self.machine}",)


def targets() -> list[Target]:
    """Every set there is: those of this machine first."""
    here = platform.machine()
    every = [Target("x86_64", isa) for isa in ("avx512", "avx2", "scalar")]
    every = [target for target in every if target.native]
    if here == "aarch64":
        every.append(Target(here, "scalar"))
    return [*every, Target("aarch64", "neon")]


def compiler(machine: str) -> str:
    """Python's own, of this machine: ccache tells gcc from cc."""
    if machine != platform.machine():
        return f"{machine}-linux-gnu-gcc"
    [own, *_] = shlex.split(sysconfig.get_config_var("CC") or "cc")
    return own if shutil.which(own) else "cc"


def has_simde() -> bool:
    return Path("/usr/include/simde/x86/avx512.h").exists()


def check_tools(target: Target) -> None:
    tools = (compiler(target.machine), *target.launcher)
    for tool in tools:
        need(shutil.which(tool), f"needs {tool}")
    if target.emulated:
        need(has_simde(), "needs SIMDe's headers")
        need("avx2" in _cpu.supported_isas, "the emulation is compiled for AVX2")


def run(*command: Any, given: bytes | None = None, cwd: Path | None = None) -> bytes:
    """Return what a command prints; fail with what it complains of."""
    done = subprocess.run(
        [str(part) for part in command],
        input=given,
        capture_output=True,
        timeout=240,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, (command, done.returncode, done.stderr[-2000:])
    return done.stdout


def emulation(isa: str) -> tuple[str, ...]:
    """Flags that put SIMDe's functions in the place of the compiler's."""
    if isa != "avx512":
        return ()
    return (f"-I{EMULATED}", "-DISA_IS_EMULATED", "-Wno-psabi", "-O1", *AVX2)


def compile_to(folder: Path, machine: str) -> Path:
    """Compile the driver, with AVX-512 emulated where this machine lacks it."""
    native = machine == platform.machine()
    emulate = Target("x86_64", "avx512").emulated and has_simde()
    sources = [*sorted(KERNELS.rglob("*.c")), *sorted(DRIVER.glob("driver*.c"))]
    of_python = shlex.split(sysconfig.get_config_var("CFLAGS") or "") if native else []

    def compile_one(source: Path) -> Path:
        to = folder / f"{source.stem}.o"
        flags = [*of_python, "-fPIC", *RELEASE]
        if emulate and source.name.startswith("avx512") and machine == "x86_64":
            flags += emulation("avx512")
        if not native and source.name.startswith("scalar"):  # linked, not run
            flags += ["-O1"]
        if source.parent == DRIVER:
            flags = [*FLAGS, f"-I{DRIVER}"]
        include = f"-I{KERNELS.relative_to(ROOT)}"
        source = source.relative_to(ROOT)
        run(compiler(machine), *flags, include, "-c", source, "-o", to, cwd=ROOT)
        return to

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    driver = folder / "driver"
    static = () if native else ("-static",)
    run(compiler(machine), *static, *objects, "-lm", "-o", driver)
    return driver


def compile_alone(folder: Path, target: Target, name: str, *flags: str) -> Build:
    """Compile a program that tests one part of the kernels for one instruction set."""
    if target.emulated:
        flags += emulation(target.isa)
    program = folder / f"{name}_{target}{len(list(folder.iterdir()))}"
    static = () if target.native else ("-static",)
    include = (f"-I{KERNELS}", f"-I{DRIVER}")
    source = DRIVER / f"{name}.c"
    command = (compiler(target.machine), *FLAGS, "-O1", *flags, *include, *static)
    run(*command, source, "-lm", "-o", program)
    return Build(program, target.launcher)


def compile_words(folder: Path, target: Target) -> Build:
    """Compile the test of one vocabulary."""
    flags = [f"-DISA={target.isa}"]
    if target.isa == "scalar":  # plain C: an instruction of another knows its address
        flags += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
    return compile_alone(folder, target, "words", *flags)


def compile_terms(folder: Path, target: Target, dtype: str) -> Build:
    """Compile the test of one exponential."""
    is_f32 = int(dtype == "float32")
    return compile_alone(
        folder, target, "terms", f"-DISA={target.isa}", f"-DT_IS_F32={is_f32}"
    )


# ---- jobs ----


class Job(NamedTuple):
    """Bytes for the driver, and the shapes and types of what comes back."""

    request: bytes
    results: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    wide = dtype.kind in "iub" or dtype == np.float64
    return np.dtype(np.float64 if wide else np.float32)


def graded(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64) if dtype.kind in "iub" else dtype


def pack(task: int, x: Array, arrays: Sequence[Array | None], **options: Any) -> bytes:
    """The request of driver.h: x is [outer, n, inner]."""
    fields = (
        "masked",
        "in_place",
        "in_pieces",
        "past_caches",
        "p",
        "largest",
        "labelled",
    )
    types = (computed(x.dtype), x.dtype, graded(x.dtype))
    header = struct.pack(
        "14q2d",
        task,
        *map(TYPES.index, types),
        *x.shape,
        *(int(options.get(field, 0)) for field in fields),
        options.get("temperature", 1.0),
        options.get("margin", 1.0),
    )
    return header + b"".join(a.tobytes() for a in (x, *arrays) if a is not None)


def job(task: str, x: Array, second: Array | None = None, **options: Any) -> Job:
    """A softmax; `second` is a mask or, for the gradients, dy."""
    masked = second is not None and not task.endswith("vjp")
    shape = (x.shape[0], x.shape[2]) if task == "logsumexp" else x.shape
    request = pack(TASKS.index(task), x, [second], masked=masked, **options)
    return Job(request, ((shape, graded(x.dtype)),))


def weighted_job(
    x: Array, weights: Array, mask: Array | None = None, **options: Any
) -> Job:
    """A logsumexp of x with weights: logarithms and signs."""
    options["masked"] = mask is not None
    request = pack(len(TASKS) + 1, x, [mask, weights], **options)
    results = ((x.shape[0], x.shape[2]), graded(x.dtype))
    return Job(request, (results, results))


def hinge_job(
    x: Array, positives: Array, mask: Array | None = None, **options: Any
) -> Job:
    """Losses and gradient of x = [rows, n, 1] or [1, n, columns].

    `positives` are labels if they are int64, else scores, whose gradient comes last.
    """
    labelled = positives.dtype == np.int64
    options |= {"masked": mask is not None, "labelled": labelled}
    request = pack(len(TASKS), x, [mask, positives], **options)
    rows, gradient = (x.shape[0] * x.shape[2],), graded(x.dtype)
    results = [(rows, computed(x.dtype)), (x.shape, gradient)]
    return Job(request, (*results, *([] if labelled else [(rows, gradient)])))


class Build(NamedTuple):
    """A driver, and how to start it."""

    program: Path
    launcher: tuple[str, ...] = ()

    def print(self, *arguments: Any) -> str:
        return run(*self.launcher, self.program, *arguments).decode()

    def do(self, isa: str, jobs: Sequence[Job]) -> list[list[Array]]:
        """Return the results of each job."""
        given = b"".join(one.request for one in jobs)
        printed = run(*self.launcher, self.program, "run", isa, given=given)
        results, at = [], 0
        for one in jobs:
            results.append([])
            for shape, dtype in one.results:
                count = int(np.prod(shape))
                flat = np.frombuffer(printed, dtype, count, at)
                results[-1].append(flat.reshape(shape))
                at += flat.nbytes
        assert at == len(printed)
        return results
