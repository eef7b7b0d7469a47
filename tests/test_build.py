"""Builds other than the usual one: hostile flags, no OpenMP, another compiler."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from building import ROOT, building, copy_of_sources, need_builders, output

import fastsoftmax

pytestmark = [
    *building,
    pytest.mark.skipif(os.name != "posix", reason="flags of gcc and clang"),
]

BUILD = (sys.executable, "setup.py", "egg_info", "build_ext", "--inplace")

# A compiler that compiles nothing: it notes its arguments and makes empty objects, each
# of its source and of job.h.
RECORDER = """#!{python}
import pathlib, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:], sep="\\t", file=log)
if "-o" in sys.argv:
    made = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    made.touch()
    if "-c" in sys.argv:
        source = sys.argv[sys.argv.index("-c") + 1]
        text = f"{{made}}: {{source}} \\\\\\n fastsoftmax/kernels/job.h\\n"
        made.with_suffix(".d").write_text(text)
"""


def record(copy: Path, more: str = "", **variables: str) -> list[list[str]]:
    """Return the compile commands of a build, and its link command last."""
    log, compiler = copy / "commands", copy / "cc"
    log.unlink(missing_ok=True)
    compiler.write_text(RECORDER.format(python=sys.executable, log=str(log)) + more)
    compiler.chmod(0o755)
    output(copy, *BUILD, CC=str(compiler), **variables)
    found = [line.split("\t") for line in log.read_text().splitlines()]
    compiled = [line for line in found if "-c" in line]
    return [*sorted(compiled, key=source_of), found[-1]]


def source_of(command: list[str]) -> str:
    """Return what a command compiles, or nothing."""
    return command[command.index("-c") + 1] if "-c" in command else ""


@pytest.fixture(scope="module")
def cythonized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return sources of which _cpu.c has been made: Cython runs only once."""
    need_builders()
    copy = copy_of_sources(tmp_path_factory.mktemp("sources"))
    record(copy)
    return copy


@pytest.fixture
def copy(cythonized: Path, tmp_path: Path) -> Path:
    """Return a copy of its own to build in."""
    return shutil.copytree(cythonized, tmp_path / "clone")


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
x, y = np.load("x.npy"), np.load("y.npy")
for result in (fastsoftmax.softmax(x, axis=-1), fastsoftmax.softmax(x.T, axis=0).T):
    np.testing.assert_allclose(result, y, rtol=3e-7, atol=1e-44)
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


def compare_under_each_isa(built: Path) -> dict[str, str]:
    """Compare a build with the installed package; return what show_config says."""
    x = np.random.default_rng(11).uniform(-30, 30, (300, 1000)).astype(np.float32)
    np.save(built / "x.npy", x)
    np.save(built / "y.npy", fastsoftmax.softmax(x, axis=-1))
    isas = [""]
    for isa in isas:
        printed = output(built, sys.executable, "-c", SMOKE, FASTSOFTMAX_ISA=isa)
        shown = dict(line.split(maxsplit=1) for line in printed.splitlines())
        assert shown["ISA"].startswith(isa)
        if not isa:
            supported = re.search(r"supported here: (.+)\)", shown["ISA"])
            assert supported
            isas += supported[1].split(", ")
    assert len(isas) > 1
    return shown


# ---- flags ----

UNSAFE = (
    "-march=", "-mcpu=", "-mtune=", "-mavx", "-mfma", "-msse4", "-Ofast",
    "-ffast-math", "-funsafe-math", "-ffinite-math", "-fassociative", "-freciprocal",
)  # fmt: skip


def test_commands_hold_no_flag_of_one_machine_or_of_unsafe_math(copy: Path) -> None:
    found = record(copy)
    kernels = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "fastsoftmax" / "kernels").rglob("*.c")
    }
    generated = f"build/numpy-{np.__version__}/fastsoftmax/_cpu.c"
    assert {source_of(line) for line in found[:-1]} == kernels | {generated}
    assert len(found) == len(kernels) + 2
    flags = [part for line in found for part in line]
    assert not [flag for flag in flags if flag.startswith(UNSAFE)]
    assert "-fopenmp" in found[-1]


def test_safe_flags_come_after_those_of_the_user(copy: Path) -> None:
    for line in record(copy, CFLAGS="-Ofast -ffast-math"):
        assert "-Ofast" in line, "the flags did not reach this command"
        assert line.index("-Ofast") < line.index("-O3", line.index("-Ofast"))
        assert line.index("-ffast-math") < line.index("-fno-fast-math")
        assert "-ffp-contract=off" in line


def test_unsafe_flags_of_the_user_do_no_harm(copy: Path) -> None:
    flags = "-Ofast -ffast-math -funsafe-math-optimizations -ffinite-math-only"
    output(copy, *BUILD, CFLAGS=flags)
    if shutil.which("objdump"):
        assert output(copy, "objdump", "-d", library(copy)).count("ldmxcsr") == 0
    compare_under_each_isa(copy)


# ---- other builds ----


def test_serial_build(copy: Path) -> None:
    """By another compiler, where there is one: builds with OpenMP are everyone's."""
    other = {"CC": "clang-16"} if shutil.which("clang-16") else {}
    output(copy, *BUILD, FASTSOFTMAX_OPENMP="0", **other)
    shown = compare_under_each_isa(copy)
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
    output(copy, sys.executable, "-c", script)
    if shutil.which("ldd"):
        assert "omp" not in output(copy, "ldd", library(copy))


def test_a_compiler_without_openmp_makes_the_serial_build(copy: Path) -> None:
    serial = record(copy, FASTSOFTMAX_OPENMP="0")
    shutil.rmtree(copy / "build")
    refuse = "sys.exit('-fopenmp' in sys.argv)\n"
    assert record(copy, refuse) == serial


def test_a_runtime_is_found_where_the_flags_of_the_user_say(copy: Path) -> None:
    flags = "{'-fopenmp', '-Ihere', '-Lthere'}"
    probe = "any('probe.c' in word for word in sys.argv)"
    needs = f"sys.exit({probe} and not {flags} < {{*sys.argv}})\n"
    assert "-fopenmp" not in record(copy, needs, LDFLAGS="-Lthere")[-1]
    for name in ("CFLAGS", "CPPFLAGS"):
        found = record(copy, needs, LDFLAGS="-Lthere", **{name: "-Ihere"})
        assert all("-fopenmp" in line for line in found)


def test_openmp_that_is_asked_for_and_not_there_is_an_error(copy: Path) -> None:
    refuse = "sys.exit('-fopenmp' in sys.argv)\n"
    with pytest.raises(AssertionError, match="FASTSOFTMAX_OPENMP=1, but no OpenMP"):
        record(copy, refuse, FASTSOFTMAX_OPENMP="1")
    assert all("-fopenmp" in line for line in record(copy, FASTSOFTMAX_OPENMP="1"))


MACROS = ("-DNPY_NO_DEPRECATED_API=NPY_1_7_API_VERSION", "-D_POSIX_C_SOURCE=200809L")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# What Cython writes and NumPy's headers do.
TOLERATED = ("-Wno-unused-parameter", "-Wno-missing-field-initializers")


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("system", ["windows-gnu", "macos", "linux-musl"])
def test_other_systems_compile_without_a_warning(
    cythonized: Path, tmp_path: Path, system: str, arch: str
) -> None:
    pytest.importorskip("ziglang", reason="`pip install --group cross` brings clang")
    folders = [cythonized / "fastsoftmax", cythonized / "fastsoftmax" / "kernels"]
    sources = sorted(cythonized.glob("fastsoftmax/kernels/**/*.c"))
    assert len(sources) > 8
    if system != "windows-gnu":  # no Python.h of Windows here
        sources += cythonized.glob("build/**/_cpu.c")
        # NumPy's headers are those of this system, which has an <endian.h>.
        (tmp_path / "endian.h").write_text("#include <machine/endian.h>\n")
        paths = sysconfig.get_paths()["include"], np.get_include()
        folders += [*map(Path, paths), *([tmp_path] if system == "macos" else [])]
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-{system}"]
    flags = ["-std=c11", "-O0", *MACROS, *WARNINGS, *TOLERATED]
    flags += [f"-I{folder}" for folder in folders]
    for source in sources:
        output(tmp_path, *compiler, *flags, "-c", source, "-o", tmp_path / "object.o")


# ---- what is built again ----


def test_only_what_has_changed_is_compiled(copy: Path) -> None:
    everything = record(copy)
    link = everything[-1:]
    assert record(copy) == link
    changed = "fastsoftmax/kernels/convert.c"
    (copy / changed).touch()
    again = record(copy)
    assert [source_of(line) for line in again] == [changed, ""]
    (copy / "fastsoftmax/kernels/job.h").touch()
    assert record(copy) == everything
    other = record(copy, CFLAGS="-DOTHERWISE")
    assert len(other) == len(everything), "what other flags have made was taken"
    assert record(copy) == link


def test_debug_build_checks(copy: Path) -> None:
    for line in record(copy, FASTSOFTMAX_DEBUG="1"):
        assert "-g0" not in line
        assert line.index("-g") < line.index("-fsanitize=undefined")
        assert "-fno-sanitize-recover" in line
