"""The extension module: its sources, and OpenMP where the compiler has it."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = Path("fastsoftmax/kernels")
WINDOWS = sys.platform == "win32"

# Never fast-math, whatever CFLAGS say: it drops NaN and compensated sums, and when
# linked in sets flush-to-zero for the whole process. Contracting a * b + c is left to
# the kernels, which say where they want it. -g0 takes two thirds off the file.
SAFE_MATH = (
    []
    if WINDOWS
    else [
        "-O3",
        "-g0",
        "-fno-fast-math",
        "-fno-unsafe-math-optimizations",
        "-ffp-contract=off",
    ]
)


def compiles_with(flags: list[str]) -> bool:
    """Tell whether the C compiler builds a program that calls OpenMP."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(
            "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        )
        command = [*compiler, *flags, str(source), "-o", str(Path(folder, "probe"))]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


def openmp_flags() -> list[str]:
    """Flags for compiling and linking with OpenMP; none for a serial build."""
    if os.environ.get("FASTSOFTMAX_OPENMP") == "0":
        return []
    if WINDOWS:
        return ["/openmp"]
    # Apple's clang has no -fopenmp of its own: libomp comes from elsewhere.
    candidates = [["-fopenmp"], ["-Xpreprocessor", "-fopenmp", "-lomp"]]
    for flags in candidates:
        if compiles_with(flags):
            return flags
    print("no OpenMP found: building without threads", file=sys.stderr)
    return []


openmp = openmp_flags()
extension = Extension(
    "fastsoftmax._cpu",
    sources=[
        "fastsoftmax/_cpu.pyx",
        *sorted(str(path) for path in KERNELS.rglob("*.c")),
    ],
    depends=[str(path) for path in sorted(KERNELS.rglob("*.h"))],
    include_dirs=["fastsoftmax", str(KERNELS), np.get_include()],
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
    ],
    extra_compile_args=SAFE_MATH
    + (["/std:c11"] if WINDOWS else ["-std=c11", "-D_POSIX_C_SOURCE=200809L"])
    + [flag for flag in openmp if not flag.startswith("-l")],
    extra_link_args=SAFE_MATH + ([] if WINDOWS else openmp),
)

setup(
    ext_modules=cythonize(
        [extension],
        language_level=3,
        force=True,  # what another NumPy's headers have generated may not compile
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    )
)
