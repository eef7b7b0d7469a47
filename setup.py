"""The extension module: its sources, and OpenMP where the compiler has it."""

import contextlib
import gzip
import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

KERNELS = Path("fastsoftmax/kernels")
WINDOWS = sys.platform == "win32"
DEBUG = os.environ.get("FASTSOFTMAX_DEBUG", "0") != "0"

# Never fast-math, whatever CFLAGS say: it drops NaN and compensated sums, and when
# linked in sets flush-to-zero for the whole process. Contracting a * b + c is left to
# the kernels, which say where they want it. -g0 takes two thirds off the file.
SAFE_MATH = ["-fno-fast-math", "-fno-unsafe-math-optimizations", "-ffp-contract=off"]
RELEASE = ["-O3", "-g0", *SAFE_MATH]
CHECKED = ["-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover", "-fno-wrapv"]
FLAGS = [] if WINDOWS else [*CHECKED, *SAFE_MATH] if DEBUG else RELEASE
# The kernels say what is to be inlined, and which plain loops are worth vectors ("omp
# simd"): the compiler's own choice makes them a quarter larger, and no faster.
SMALL = [
    "-fopenmp-simd",
    "-fno-inline-functions",
    "-fno-split-loops",
    "-fno-unswitch-loops",
    "-fvect-cost-model=very-cheap",
]
# -MD: what a file includes is noted beside its object.
DIALECT = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-MD"]


def words(*names: str) -> list[str]:
    """Split what environment variables hold as a shell would."""
    return [word for name in names for word in shlex.split(os.environ.get(name, ""))]


def builds(text: str, compile_flags: list[str], link_flags: list[str]) -> bool:
    """Tell whether the C compiler makes a program of a source."""
    compiler = words("CC") or shlex.split(sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(text)
        command = [*compiler, *words("CFLAGS", "CPPFLAGS"), *compile_flags, str(source)]
        command += ["-o", str(Path(folder, "probe")), *words("LDFLAGS"), *link_flags]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


def small_flags() -> list[str]:
    """SMALL, if the compiler knows all of it (GCC from 11 on)."""
    if WINDOWS or DEBUG or not builds("int main(void) { return 0; }\n", SMALL, []):
        return []
    return SMALL


def openmp_flags() -> tuple[list[str], list[str]]:
    """Flags for compiling and for linking with OpenMP; none for a serial build."""
    wanted = os.environ.get("FASTSOFTMAX_OPENMP")
    if wanted == "0":
        return [], []
    if WINDOWS:
        return ["/openmp"], []
    text = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
    candidates = [(["-fopenmp"], ["-fopenmp"])]
    if sys.platform == "darwin":
        # Apple's clang has no runtime of its own: it lies where the user's flags say,
        # or where Homebrew keeps it.
        apple = ["-Xpreprocessor", "-fopenmp"]
        candidates.append((apple, ["-lomp"]))
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            brew = ["brew", "--prefix", "libomp"]
            found = Path(subprocess.check_output(brew, text=True).strip())
            at = [f"-I{found / 'include'}"], [f"-L{found / 'lib'}"]
            candidates.append(([*apple, *at[0]], [*at[1], "-lomp"]))
    for flags in candidates:
        if builds(text, *flags):
            return flags
    if wanted == "1":
        raise SystemExit("FASTSOFTMAX_OPENMP=1, but no OpenMP was found")
    print("no OpenMP found: building without threads", file=sys.stderr)
    return [], []


def is_current(made: Path) -> bool:
    """Tell whether an object is newer than every file that went into it."""
    try:
        files = made.with_suffix(".d").read_text().partition(":")[2]
        since = made.stat().st_mtime
        times = [os.stat(f).st_mtime for f in files.replace("\\\n", " ").split()]
    except OSError:
        return False
    return bool(times) and max(times) < since


class Build(build_ext):
    """Makes C of Cython and objects of C side by side, and only of what has changed.

    What was made with other flags, or for another NumPy, stays in a folder of its own.
    """

    def build_extensions(self) -> None:
        """Compile and link."""
        (extension,) = self.extensions
        here = Path(self.build_temp)
        command = getattr(self.compiler, "compiler_so", [])
        flags = repr([command, extension.extra_compile_args])
        self.build_temp = f"{here}-{zlib.crc32(flags.encode()):08x}"
        (cythonized,) = cythonize(
            [extension],
            build_dir=str(here.with_name(f"numpy-{np.__version__}")),
            quiet=not self.verbose,
        )
        extension.sources = cythonized.sources
        self.compile_all, self.compiler.compile = self.compiler.compile, self.compile
        self.force = self.compiler.force = True  # link, whichever flags came last
        super().build_extensions()

    def compile(self, sources: Sequence[str], **options: object) -> list[str]:
        """Stand in for the compiler's method of that name, which takes one by one."""

        def one(source: str) -> list[str]:
            (made,) = self.compiler.object_filenames([source], 0, self.build_temp)
            began = time.time()
            if not is_current(Path(made)):
                self.compile_all([source], **options)
                os.utime(made, (began, began))  # older than an edit meanwhile
            return made

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(one, sources))


class Sdist(sdist):
    """Makes the same archive of the same files: SOURCE_DATE_EPOCH is their time."""

    def make_archive(self, base_name: str, *options: object, **more: object) -> str:
        """Stand in for the command's method of that name, which takes the clock's."""
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def settled(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.mode = epoch, 0o755 if entry.isdir() else 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            return entry

        name = f"{base_name}.tar.gz"
        with (
            gzip.GzipFile(name, "wb", mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(Path(base_name).name, filter=settled)
        return name


openmp_compile, openmp_link = openmp_flags()
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
    extra_compile_args=FLAGS
    + small_flags()
    + (["/std:c11"] if WINDOWS else DIALECT)
    + openmp_compile,
    extra_link_args=FLAGS + openmp_link,
)

setup(ext_modules=[extension], cmdclass={"build_ext": Build, "sdist": Sdist})
