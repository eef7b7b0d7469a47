"""Builds other than the usual one: hostile flags, no OpenMP, another compiler."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastsoftmax

ROOT = Path(__file__).parents[1]
VARIABLES = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "FASTSOFTMAX_OPENMP")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.name != "posix", reason="flags of gcc and clang"),
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the sources"),
]


# Those of setup.py, which then takes _cpu.c as it is.
DIRECTIVES = (
    "-Xboundscheck=False",
    "-Xwraparound=False",
    "-Xcdivision=True",
    "-Xfreethreading_compatible=True",
)


def setuptools_version() -> int:
    """Return the major version of the setuptools that is here, or 0."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


@pytest.fixture(scope="module")
def cythonized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the sources in which _cpu.c is made: Cython runs only once."""
    pytest.importorskip("Cython", reason="building needs Cython")
    if setuptools_version() < 77:
        pytest.skip("building needs setuptools 77 or later")
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "_cpu.c")
    shutil.copytree(ROOT / "fastsoftmax", copy / "fastsoftmax", ignore=unwanted)
    run(copy, sys.executable, "-m", "cython", "-3", *DIRECTIVES, "fastsoftmax/_cpu.pyx")
    return copy


def run(folder: Path, *command: str | Path, **variables: str) -> str:
    """Run a command in a folder; return what it prints."""
    kept = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build(sources: Path, folder: Path, **variables: str) -> Path:
    """Build in a copy of the sources in `folder`; return where it can be imported."""
    copy = folder / "build"
    shutil.copytree(sources, copy)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    run(copy, *command, **variables)
    return copy


def library(built: Path) -> Path:
    """Return the extension module of a build."""
    (found,) = (built / "fastsoftmax").glob("_cpu.*.so")
    return found


# Compares a build with results of the installed package, in x.npy and y.npy.
SMOKE = """
import numpy as np
import fastsoftmax

halves = np.array([1e-310]) / 2, np.array([1e-40], np.float32) / 2
assert all((half != 0).all() for half in halves), "subnormals are lost"
x, y = np.load("../x.npy"), np.load("../y.npy")
exact = np.exp(x - x.max(axis=-1, keepdims=True).astype(np.float64))
exact /= exact.sum(axis=-1, keepdims=True)
for isa_result in (fastsoftmax.softmax(x, axis=-1), fastsoftmax.softmax(x.T, axis=0).T):
    np.testing.assert_allclose(isa_result, y, rtol=3e-7, atol=1e-44)
assert fastsoftmax.softmax(np.float32([-95, 0]))[0] > 0
for dtype in (np.float32, np.float64):
    bad = np.array([[np.nan, 0], [np.inf, 0], [-np.inf, 0], [-np.inf] * 2], dtype)
    sums = fastsoftmax.logsumexp(bad, axis=-1)
    assert np.array_equal(sums, [np.nan, np.inf, 0, -np.inf], equal_nan=True), sums
    shares = fastsoftmax.softmax(bad, axis=-1)
    assert np.isnan(shares[[0, 1, 3]]).all() and (shares[2] == [0, 1]).all(), shares
    tiny = fastsoftmax.log_softmax(np.array([0, -16], dtype))[0]
    assert abs(tiny / -1.1253516415e-7 - 1) < 1e-6, tiny
assert (np.array([1e-310]) / 2 != 0).all(), "subnormals are lost in calls"
fastsoftmax.show_config()
"""


@pytest.fixture
def smoke(tmp_path: Path) -> str:
    """Write what SMOKE compares with; return it."""
    rng = np.random.default_rng(11)
    x = rng.uniform(-30, 30, (300, 1000)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", fastsoftmax.softmax(x, axis=-1))
    return SMOKE


def config(shown: str) -> dict[str, str]:
    """Return what show_config printed, by the names in its first column."""
    return dict(line.split(maxsplit=1) for line in shown.splitlines())


def each_isa(built: Path, smoke: str) -> dict[str, str]:
    """Run the comparison with every instruction set; return the last configuration."""
    shown = config(run(built, sys.executable, "-c", smoke))
    supported = re.search(r"supported here: (.+)\)", shown["ISA"])
    assert supported
    for isa in supported[1].split(", "):
        shown = config(run(built, sys.executable, "-c", smoke, FASTSOFTMAX_ISA=isa))
        assert shown["ISA"].startswith(isa)
    return shown


# ---- flags ----

# A compiler that compiles nothing: it notes its arguments and makes empty files.
RECORDER = """#!{python}
import pathlib, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:], sep="\\t", file=log)
if "-o" in sys.argv:
    pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).touch()
"""

UNSAFE = (
    "-march=", "-mcpu=", "-mtune=", "-mavx", "-mfma", "-msse4", "-Ofast",
    "-ffast-math", "-funsafe-math", "-ffinite-math", "-fassociative", "-freciprocal",
)  # fmt: skip


def commands(
    sources: Path, folder: Path, more: str = "", **variables: str
) -> list[list[str]]:
    """Return the compile commands of a build, and its link command last."""
    folder.mkdir(exist_ok=True)
    log = folder / "commands"
    compiler = folder / "cc"
    compiler.write_text(RECORDER.format(python=sys.executable, log=str(log)) + more)
    compiler.chmod(0o755)
    build(sources, folder, CC=str(compiler), **variables)
    found = [line.split("\t") for line in log.read_text().splitlines()]
    return [line for line in found if not any("probe" in part for part in line)]


def test_commands_hold_no_flag_of_one_machine_or_of_unsafe_math(
    cythonized: Path, tmp_path: Path
) -> None:
    found = commands(cythonized, tmp_path)
    sources = {part for line in found for part in line if part.endswith(".c")}
    kernels = (ROOT / "fastsoftmax" / "kernels").rglob("*.c")
    expected = {str(path.relative_to(ROOT)) for path in kernels}
    assert sources == expected | {"fastsoftmax/_cpu.c"}
    assert len(found) == len(sources) + 1
    flags = [part for line in found for part in line]
    assert not [flag for flag in flags if flag.startswith(UNSAFE)]
    assert "-fopenmp" in found[-1]


def test_safe_flags_come_after_those_of_the_user(
    cythonized: Path, tmp_path: Path
) -> None:
    for line in commands(cythonized, tmp_path, CFLAGS="-Ofast -ffast-math"):
        assert "-Ofast" in line, "the flags did not reach this command"
        assert line.index("-Ofast") < line.index("-O3", line.index("-Ofast"))
        assert line.index("-ffast-math") < line.index("-fno-fast-math")
        assert "-ffp-contract=off" in line


def test_unsafe_flags_of_the_user_do_no_harm(
    cythonized: Path, tmp_path: Path, smoke: str
) -> None:
    flags = "-Ofast -ffast-math -funsafe-math-optimizations -ffinite-math-only"
    built = build(cythonized, tmp_path, CFLAGS=flags)
    if shutil.which("objdump"):
        assert run(built, "objdump", "-d", library(built)).count("ldmxcsr") == 0
    each_isa(built, smoke)


# ---- other builds ----


def test_serial_build(cythonized: Path, tmp_path: Path, smoke: str) -> None:
    built = build(cythonized, tmp_path, FASTSOFTMAX_OPENMP="0")
    shown = each_isa(built, smoke)
    assert shown["OpenMP"] == "no (serial build)"
    assert shown["threads"] == "1"
    script = """
import os, sys
import numpy as np
import fastsoftmax

fastsoftmax.set_num_threads(4)
assert fastsoftmax.get_num_threads() == 1
def tasks():
    return os.listdir("/proc/self/task") if sys.platform == "linux" else []
before = tasks()
for x in (np.zeros((512, 4096)), np.zeros(1 << 21), np.zeros((512, 4096)).T):
    assert (fastsoftmax.softmax(x, axis=-1) == 1 / x.shape[-1]).all()
assert tasks() == before
"""
    run(built, sys.executable, "-c", script)
    if shutil.which("ldd"):
        assert "omp" not in run(built, "ldd", library(built))


@pytest.mark.skipif(shutil.which("clang-16") is None, reason="no clang-16 here")
def test_build_with_clang(cythonized: Path, tmp_path: Path, smoke: str) -> None:
    built = build(cythonized, tmp_path, CC="clang-16")
    each_isa(built, smoke)


def test_a_compiler_without_openmp_makes_the_serial_build(
    cythonized: Path, tmp_path: Path
) -> None:
    refuse = "sys.exit('-fopenmp' in sys.argv)\n"
    found = commands(cythonized, tmp_path / "refusing", refuse)
    serial = commands(cythonized, tmp_path / "serial", FASTSOFTMAX_OPENMP="0")
    assert found == serial
