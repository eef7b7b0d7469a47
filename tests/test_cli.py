"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastsoftmax
from fastsoftmax import _blocks, _example
from fastsoftmax.__main__ import main

Array = npt.NDArray[Any]

COMMANDS = ("softmax", "log-softmax", "logsumexp")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

QUICK = """
import sys
from fastsoftmax.__main__ import main

sys.exit(main(sys.argv[1:]))
"""

# A child in which every block of 4096 bytes takes a fifth of a second.
SLOW = """
import sys, time, fastsoftmax
from fastsoftmax import __main__, _blocks

_blocks.BLOCK_BYTES = 4096
softmax = fastsoftmax.softmax

def slow(x, **options):
    time.sleep(0.2 if x.shape != (1, 1) else 0)
    return softmax(x, **options)

fastsoftmax.softmax = slow
sys.exit(__main__.main(sys.argv[1:]))
"""

# What a child does first: undo what shells do for jobs in the background; stay below
# a file size; let permissions count for root too (the new program does not get
# CAP_DAC_OVERRIDE, number 1, which PR_CAPBSET_DROP, number 24, has removed).
HEEDING_SIGNALS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
ON_A_FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""
AS_A_PLAIN_USER = """
import ctypes, os, sys
if os.geteuid() == 0:
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "fastsoftmax", *sys.argv[1:]])
"""

# A child that prints the peak of its own resident memory in kB. (ru_maxrss would
# still hold what the parent had when it forked.)
MEASURED = """
import re, sys
from fastsoftmax.__main__ import main

if main(sys.argv[1:]):
    sys.exit(1)
with open("/proc/self/status") as status:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
"""


def run(
    folder: Path, *arguments: str, code: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command line, or `code`, in another process and in `folder`."""
    start = ("-m", "fastsoftmax") if code is None else ("-c", code)
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def table(shape: tuple[int, ...] = (6, 5), dtype: npt.DTypeLike = "f4") -> Array:
    """Return logits of both signs, large enough for a naive exp to overflow."""
    rng = np.random.default_rng(7)
    return rng.uniform(-120, 120, shape).astype(dtype)


def assert_one_line(stderr: str, *words: str) -> None:
    """Assert that `stderr` is a single line that holds `words`."""
    assert stderr.startswith("fastsoftmax")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    for word in words:
        assert word in stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which holds IN.npy of 6 x 5 float32."""
    monkeypatch.chdir(tmp_path)
    np.save("IN.npy", table())
    return tmp_path


def public(command: str) -> Callable[..., Any]:
    """Return the function behind a command."""
    function: Callable[..., Any] = getattr(fastsoftmax, command.replace("-", "_"))
    return function


# Without a command


def test_example_says_choice_result_accuracy_and_speed(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run(tmp_path)
    assert time.monotonic() - start < 5
    assert done.returncode == 0
    assert done.stderr == ""
    out = done.stdout
    first = out.splitlines()[0]
    assert f"NumPy {np.__version__}" in first
    assert re.match(
        r"fastsoftmax \d+\.\d+\S*: \w+ \(of [\w, ]+\), \d+ threads?,", first
    )
    assert "OpenMP" in first
    assert "image 1471: 9 with probability 0.7704, labelled 1" in out
    assert "15 of 16 images right" in out
    error = re.search(r"in float64: (\d+\.\d+) ULP", out)
    assert error is not None
    assert float(error[1]) <= 2
    for shape in ("4096 x 10", "64 x 32000"):
        assert re.search(rf"{shape}: \d+ us; NumPy's three lines \d+\.\d times", out)
    assert list(tmp_path.iterdir()) == []


def test_example_beside_scipy(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    assert len(re.findall(r"SciPy \d+\.\d times", run(tmp_path).stdout)) == 2


def test_example_without_scipy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.special'] = None\n"
        "from fastsoftmax.__main__ import main; sys.exit(main([]))"
    )
    done = run(tmp_path, code=code)
    assert done.returncode == 0
    assert "NumPy's three lines" in done.stdout
    assert "SciPy" not in done.stdout


def test_ulps_counts_units_in_the_binade_of_the_exact_value() -> None:
    exact = np.array([0.75, 1.0, 2.0**-149])
    wrong = exact.astype(np.float32)
    assert _example.ulps(wrong, exact) == 0
    wrong[0] += 3 * 2.0**-24
    assert _example.ulps(wrong, exact) == 3
    wrong[1] += 5 * 2.0**-23
    assert _example.ulps(wrong, exact) == 5
    wrong[2] *= 8
    assert _example.ulps(wrong, exact) == 7


@pytest.mark.slow
def test_example_data_is_what_its_comment_says() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    linear = pytest.importorskip("sklearn.linear_model")
    images, labels = datasets.load_digits(return_X_y=True)
    model = linear.LogisticRegression(max_iter=10000)
    model.fit(images[:1400], labels[:1400])
    held = slice(_example.FIRST_IMAGE, _example.FIRST_IMAGE + len(_example.LABELS))
    assert (labels[held] == _example.LABELS).all()
    # Solvers of other releases stop elsewhere: to a hundredth only in the same one.
    scores = model.decision_function(images[held])
    np.testing.assert_allclose(_example.SCORES, scores, rtol=0, atol=0.1)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    version = importlib.metadata.version("fastsoftmax")
    assert capsys.readouterr().out == f"fastsoftmax {version}\n"


@posix
def test_reader_that_leaves_early_is_no_error_to_report(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in ((), ("--help",)):
        child = [sys.executable, "-m", "fastsoftmax", *arguments]
        done = subprocess.run(
            child,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == b""
    os.close(writing)


@linux
def test_full_device_as_output_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastsoftmax"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert_one_line(done.stderr, os.strerror(errno.ENOSPC))


def test_start_loads_nothing_that_is_slow(tmp_path: Path) -> None:
    code = (
        "import sys, fastsoftmax.__main__\n"
        "print(*sorted({'scipy', 'tqdm', 'cupy'} & set(sys.modules)))"
    )
    assert run(tmp_path, code=code).stdout == "\n"


def test_help_names_the_default_axis_here_and_in_python(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "(default -1; the Python functions' default is None, the whole" in text
        assert "below 200 MB" in text
        assert ("--temperature" in text) == (command != "logsumexp")
        assert ("--keepdims" in text) == (command == "logsumexp")


def test_installed_script_is_main() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    found = [script.value for script in scripts if script.name == "fastsoftmax"]
    if not found:
        pytest.skip("the package is not installed")
    assert set(found) == {"fastsoftmax.__main__:main"}


# What is written


@pytest.mark.parametrize("axis", ["-1", "0", "1", "0,1", "-2,-1", "none"])
@pytest.mark.parametrize("command", COMMANDS)
def test_file_holds_what_the_function_returns(
    folder: Path, command: str, axis: str
) -> None:
    assert main([command, "IN.npy", "OUT.npy", "--axis", axis]) == 0
    axes = {"none": None, "0,1": (0, 1), "-2,-1": (-2, -1)}
    expected = public(command)(table(), axis=axes[axis] if axis in axes else int(axis))
    assert_same(np.load("OUT.npy"), expected)
    np.save("SAVED.npy", expected)
    assert Path("OUT.npy").read_bytes() == Path("SAVED.npy").read_bytes()
    names = {path.name for path in folder.iterdir()}
    assert names == {"IN.npy", "OUT.npy", "SAVED.npy"}


def assert_same(result: Array, expected: Any) -> None:
    """Assert equal bits, shape and dtype."""
    expected = np.asarray(expected)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


def test_process_of_its_own(folder: Path) -> None:
    done = run(folder, "softmax", "IN.npy", "OUT.npy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same(np.load("OUT.npy"), fastsoftmax.softmax(table(), axis=-1))


@pytest.mark.usefixtures("folder")
def test_axis_defaults_to_the_last() -> None:
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
    sums = np.load("OUT.npy").sum(axis=-1)
    np.testing.assert_allclose(sums, 1, rtol=1e-6)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["softmax", "log-softmax"])
def test_temperature_divides(command: str) -> None:
    assert main([command, "IN.npy", "OUT.npy", "--temperature", "2.5"]) == 0
    expected = public(command)(table(), axis=-1, temperature=2.5)
    assert_same(np.load("OUT.npy"), expected)
    assert not np.array_equal(expected, public(command)(table(), axis=-1))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("command", COMMANDS)
def test_dtype_is_computed_in_and_written(command: str, dtype: str) -> None:
    assert main([command, "IN.npy", "OUT.npy", "--dtype", dtype]) == 0
    expected = public(command)(table(), axis=-1, dtype=dtype)
    assert np.load("OUT.npy").dtype == dtype
    assert_same(np.load("OUT.npy"), expected)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("axis", ["0", "1", "0,2", "none"])
def test_keepdims(axis: str) -> None:
    x = table((4, 3, 2))
    np.save("IN.npy", x)
    command = ["logsumexp", "IN.npy", "OUT.npy", "--axis", axis]
    assert main([*command, "--keepdims"]) == 0
    axes = {"none": None, "0,2": (0, 2)}
    decoded = axes[axis] if axis in axes else int(axis)
    expected = fastsoftmax.logsumexp(x, axis=decoded, keepdims=True)
    assert_same(np.load("OUT.npy"), expected)
    assert main([*command, "--force"]) == 0
    assert_same(np.load("OUT.npy"), fastsoftmax.logsumexp(x, axis=decoded))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("dtype", ["u1", "i8", "?", "f2", ">f4", "f8", ">i4", "c16"])
@pytest.mark.parametrize("command", COMMANDS)
def test_dtypes_of_the_input(command: str, dtype: str) -> None:
    x = (table() / 10 > 0) if dtype == "?" else np.abs(table()).astype(dtype)
    np.save("IN.npy", x)
    assert main([command, "IN.npy", "OUT.npy"]) == 0
    expected = public(command)(x, axis=-1)
    assert_same(np.load("OUT.npy"), expected)
    if np.dtype(dtype).kind in "iub":
        assert np.load("OUT.npy").dtype == np.float64


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fortran_order_in_fortran_order_out(command: str, axis: int) -> None:
    x = np.asfortranarray(table((4, 3, 5)))
    np.save("IN.npy", x)
    assert main([command, "IN.npy", "OUT.npy", f"--axis={axis}"]) == 0
    result = np.load("OUT.npy")
    assert result.flags.f_contiguous
    assert not result.flags.c_contiguous
    assert_same(result, public(command)(x, axis=axis))


@pytest.mark.usefixtures("folder")
def test_vector_from_fortran_order_is_saved_as_numpy_would() -> None:
    np.save("IN.npy", np.asfortranarray(table()))
    assert main(["logsumexp", "IN.npy", "OUT.npy", "--axis", "0"]) == 0
    np.save("SAVED.npy", fastsoftmax.logsumexp(table(), axis=0))
    saved, written = (Path(name).read_bytes() for name in ("SAVED.npy", "OUT.npy"))
    assert written[:128] == saved[:128]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3)])
def test_scalars_and_empties(command: str, shape: tuple[int, ...]) -> None:
    x = table(shape)
    np.save("IN.npy", x)
    assert main([command, "IN.npy", "OUT.npy", "--axis", "-1"]) == 0
    assert_same(np.load("OUT.npy"), public(command)(x, axis=-1))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_versions_of_the_format(version: tuple[int, int]) -> None:
    with open("IN.npy", "wb") as file:
        np.lib.format.write_array(file, table(), version)
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
    assert_same(np.load("OUT.npy"), fastsoftmax.softmax(table(), axis=-1))


# Blocks

SHAPES = [(7,), (40, 30), (2, 50, 6), (5, 1, 9, 4)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("command", COMMANDS)
def test_blocks_give_what_the_whole_gives(
    command: str, shape: tuple[int, ...], order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 64)
    x = np.asarray(table(shape), order=order)
    np.save("IN.npy", x)
    # The row kernels promise the same bits in any company; the others accuracy.
    for axis in range(len(shape)):
        assert main([command, "IN.npy", "OUT.npy", f"--axis={axis}", "--force"]) == 0
        expected = public(command)(x, axis=axis)
        np.testing.assert_allclose(np.load("OUT.npy"), expected, rtol=1e-6)
    if order == "C":
        np.testing.assert_array_equal(np.load("OUT.npy"), expected)


@pytest.mark.parametrize("dtype", ["f4", ">f4", "u1"])
@pytest.mark.parametrize("axis", ["0", "1", "0,2"])
@pytest.mark.parametrize("command", ["softmax", "logsumexp"])
def test_scattered_sets_of_other_types(
    folder: Path,
    command: str,
    axis: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 256)
    x = np.abs(table((9, 20, 7))).astype(dtype)
    np.save("IN.npy", x)
    assert main([command, "IN.npy", "OUT.npy", "--axis", axis]) == 0
    expected = public(command)(x, axis=tuple(int(part) for part in axis.split(",")))
    result = np.load("OUT.npy")
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert {path.name for path in folder.iterdir()} == {"IN.npy", "OUT.npy"}


@pytest.mark.parametrize(
    ("shape", "axes", "step"),
    [
        ((20, 30, 20), {2}, [20, 30, 20]),  # small: one block
        ((300, 20, 70), {2}, [11, 20, 70]),  # entries of the outermost axis
        ((3, 4000, 50), {2}, [1, 327, 50]),  # one entry is too much: go inwards
        ((2, 3, 90000), {2}, [1, 1, 90000]),  # a huge set stays whole
        ((300, 20, 70), {1}, [11, 20, 70]),
        ((300, 20, 70), {0}, [300, 20, 70]),  # nothing outside the set to cut
    ],
)
def test_block_is_a_stretch_of_whole_sets(
    shape: tuple[int, ...],
    axes: set[int],
    step: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 1 << 16)
    assert _blocks.steps(shape, 4, frozenset(axes)) == step
    assert_covers_once(shape, step)


@pytest.mark.parametrize(
    ("shape", "one", "other", "step"),
    [
        ((900, 800), (0, 1), (1, 0), [64, 64]),  # runs as long in both
        ((900, 8), (0, 1), (1, 0), [512, 8]),  # all of a short axis: longer runs
        ((8, 900), (0, 1), (1, 0), [8, 512]),
        ((5, 900, 800), (1, 2, 0), (2, 1, 0), [1, 64, 64]),
        ((5, 6, 7), (0, 1, 2), (2, 1, 0), [5, 6, 7]),
    ],
)
def test_tile_has_long_runs_on_both_sides(
    shape: tuple[int, ...],
    one: tuple[int, ...],
    other: tuple[int, ...],
    step: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 4 * 64 * 64)
    assert _blocks.tile(shape, 4, one, other) == step
    assert_covers_once(shape, step)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize(
    "block",
    [
        np.s_[0:5, 0:6, 0:7],
        np.s_[2:4, 0:6, 0:7],
        np.s_[2:3, 1:4, 0:7],
        np.s_[1:5, 3:4, 2:6],
        np.s_[0:5, 2:3, 6:7],
    ],
)
def test_file_array_reads_and_writes_blocks(
    tmp_path: Path, order: tuple[int, ...], block: tuple[slice, ...]
) -> None:
    x = np.arange(5 * 6 * 7, dtype=">i2").reshape(5, 6, 7)
    with open(tmp_path / "x", "wb+", buffering=0) as file:
        file.write(b"header" + x.tobytes())
        seen = _blocks.FileArray.mapped(file, 6, x.shape, x.dtype).transpose(order)
        block = tuple(block[axis] for axis in order)
        expected = x.transpose(order).copy()
        np.testing.assert_array_equal(seen.array, expected)
        np.testing.assert_array_equal(seen.read(block), expected[block])
        seen.write(block, -expected[block])
        expected[block] *= -1
        np.testing.assert_array_equal(seen.array, expected)
    assert (tmp_path / "x").stat().st_size == 6 + x.nbytes


@posix
def test_file_that_gets_shorter_is_an_error(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb+", buffering=0) as file:
        file.write(bytes(60))
        array = _blocks.FileArray.mapped(file, 0, (5, 6), np.dtype("i2"))
        file.truncate(59)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            array.read(np.s_[0:5, 0:6])


def assert_covers_once(shape: tuple[int, ...], step: list[int]) -> None:
    """Assert that the blocks of this size hold every element, and hold it once."""
    seen = np.zeros(shape, np.uint8)
    for block in _blocks._blocks(shape, step):
        seen[block] += 1
    assert (seen == 1).all()


# Memory


def sparse(path: Path, shape: tuple[int, ...], order: str = "C") -> None:
    """Write a file of float32 zeros that takes no room on the disk."""
    header = {"descr": "<f4", "fortran_order": order == "F", "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * int(np.prod(shape)))


def peak(folder: Path, *arguments: str) -> float:
    """Return the peak resident memory of the command, in MB of 10**6 bytes."""
    done = run(folder, *arguments, code=MEASURED)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024 / 1e6


@linux
@pytest.mark.parametrize(
    ("command", "axis", "order"),
    [
        ("softmax", "1", "C"),
        ("softmax", "0", "C"),
        ("softmax", "none", "C"),
        ("logsumexp", "1", "C"),
        ("log-softmax", "0", "F"),
    ],
)
def test_resident_memory_is_small(
    tmp_path: Path, command: str, axis: str, order: str
) -> None:
    shape = (60_000, 1000)
    sparse(tmp_path / "IN.npy", shape, order)
    assert peak(tmp_path, command, "IN.npy", "OUT.npy", "--axis", axis) < 200
    first = np.load(tmp_path / "OUT.npy", mmap_mode="r").flat[0]
    size = {"0": shape[0], "1": shape[1], "none": shape[0] * shape[1]}[axis]
    expected = {
        "softmax": 1 / size,
        "log-softmax": -np.log(size),
        "logsumexp": np.log(size),
    }
    np.testing.assert_allclose(first, expected[command], rtol=1e-6)


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((500_000, 1000), "-1"),
        ((500_000, 1000), "0"),
        ((9000, 55_000), "0"),
        ((500_000, 1000), "none"),
        ((500_000_000,), "-1"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_resident_memory_is_small_for_any_axis_of_two_gigabytes(
    tmp_path: Path, command: str, shape: tuple[int, ...], axis: str
) -> None:
    sparse(tmp_path / "IN.npy", shape)
    try:
        assert peak(tmp_path, command, "IN.npy", "OUT.npy", "--axis", axis) < 200
    finally:
        (tmp_path / "OUT.npy").unlink(missing_ok=True)


# Bad input


def _unreadable_inputs(folder: Path) -> None:
    """Write files that are no input."""
    np.save("OBJECT.npy", np.array([1, "a", None], dtype=object), allow_pickle=True)
    np.save("TEXT.npy", np.array(["a", "b"]))
    np.save("DATE.npy", np.zeros(3, "M8[s]"))
    np.save("FIELDS.npy", np.zeros(3, "f4,i4"))
    np.savez("ZIP.npz", np.zeros(3))
    Path("NOTES.npy").write_text("no array at all\n")
    Path("EMPTY.npy").write_bytes(b"")
    whole = Path("IN.npy").read_bytes()
    Path("SHORT.npy").write_bytes(whole[:-1])
    Path("HEADER.npy").write_bytes(whole[:40])
    padding = b" " * 20_000
    Path("PADDED.npy").write_bytes(
        whole[:6] + b"\x02\x00" + len(padding).to_bytes(4, "little") + padding
    )
    Path("MAJOR9.npy").write_bytes(whole[:6] + b"\x09" + whole[7:])
    sized = re.compile(rb"\(6, 5\)(.*?) {24}", re.DOTALL)
    Path("NEGATIVE.npy").write_bytes(sized.sub(rb"(-6, -5)\1" + b" " * 22, whole))
    Path("ABSURD.npy").write_bytes(sized.sub(rb"(%d, 5)\1" % 10**24, whole))
    (folder / "FOLDER.npy").mkdir()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("MISSING.npy", "No such file"),
        ("FOLDER.npy", "not a regular file"),
        ("OBJECT.npy", "Python objects"),
        ("TEXT.npy", "<U1"),
        ("DATE.npy", "datetime64"),
        ("FIELDS.npy", "FIELDS.npy"),
        ("ZIP.npz", "not a .npy file"),
        ("NOTES.npy", "not a .npy file"),
        ("EMPTY.npy", "not a .npy file"),
        ("HEADER.npy", "not a .npy file"),
        ("PADDED.npy", "not a .npy file"),
        ("MAJOR9.npy", "not a .npy file"),
        ("SHORT.npy", "truncated: shape (6, 5) of float32 ends at byte 248"),
        ("NEGATIVE.npy", "(-6, -5)"),
        ("ABSURD.npy", "truncated"),
        ("two\nlines.npy", "No such file"),
    ],
)
def test_unreadable_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], source: str, words: str
) -> None:
    _unreadable_inputs(folder)
    before = set(folder.iterdir())
    assert main(["softmax", source, "OUT.npy"]) == 1
    assert_one_line(capsys.readouterr().err, words, source.partition("\n")[0])
    assert set(folder.iterdir()) == before


@posix
def test_pipe_as_input_is_one_line_and_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "PIPE.npy")
    done = run(folder, "softmax", "PIPE.npy", "OUT.npy")
    assert done.returncode == 1
    assert_one_line(done.stderr, "'PIPE.npy'", "not a regular file")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--axis", "2"], 1, "axis 2 is out of bounds"),
        (["--axis", "-3"], 1, "axis -3 is out of bounds"),
        (["--axis", "0,0"], 1, "duplicate"),
        (["--axis", "9" * 30], 1, "IN.npy"),
        (["--axis", "x"], 2, "'x'"),
        (["--axis", "1.0"], 2, "'1.0'"),
        (["--axis", "0,"], 2, "'0,'"),
        (["--axis", ""], 2, "''"),
        (["--axis"], 2, "expected one argument"),
        (["--temperature", "0"], 2, "'0' is not a finite number > 0"),
        (["--temperature", "-1e-3"], 2, "'-1e-3'"),
        (["--temperature", "inf"], 2, "'inf'"),
        (["--temperature", "nan"], 2, "'nan'"),
        (["--temperature", "warm"], 2, "'warm'"),
        (["--dtype", "int32"], 2, "'int32'"),
        (["--keepdims"], 2, "--keepdims"),
        (["--what"], 2, "--what"),
    ],
)
def test_bad_argument_is_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    try:
        result: Any = main(["softmax", "IN.npy", "OUT.npy", *arguments])
    except SystemExit as end:
        result = end.code
    assert result == status
    assert_one_line(capsys.readouterr().err, words)
    assert [path.name for path in folder.iterdir()] == ["IN.npy"]


@pytest.mark.parametrize("arguments", [["softmin"], ["softmax"], ["softmax", "IN.npy"]])
def test_missing_or_unknown_word_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert_one_line(capsys.readouterr().err)


def test_logsumexp_takes_no_temperature(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["logsumexp", "IN.npy", "OUT.npy", "--temperature", "2"])
    assert_one_line(capsys.readouterr().err, "--temperature")


# Where it goes


def test_existing_target_is_refused_without_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("OUT.npy").write_text("precious")
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 1
    assert_one_line(capsys.readouterr().err, "'OUT.npy' exists", "--force")
    assert Path("OUT.npy").read_text() == "precious"
    assert main(["softmax", "IN.npy", "OUT.npy", "--force"]) == 0
    assert_same(np.load("OUT.npy"), fastsoftmax.softmax(table(), axis=-1))
    assert {path.name for path in folder.iterdir()} == {"IN.npy", "OUT.npy"}


@pytest.mark.usefixtures("folder")
def test_input_can_be_replaced_by_its_result() -> None:
    assert main(["softmax", "IN.npy", "IN.npy"]) == 1
    assert_same(np.load("IN.npy"), table())
    assert main(["softmax", "IN.npy", "IN.npy", "--force"]) == 0
    assert_same(np.load("IN.npy"), fastsoftmax.softmax(table(), axis=-1))


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_target_that_appears_meanwhile_is_kept(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
) -> None:
    softmax = fastsoftmax.softmax

    def racing(x: Array, **options: Any) -> Any:
        if "out" in options:
            Path("OUT.npy").write_text("precious")
        return softmax(x, **options)

    monkeypatch.setattr(fastsoftmax, "softmax", racing)
    if not links:
        monkeypatch.setattr(os, "link", _refusing(errno.EPERM))
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 1
    assert_one_line(capsys.readouterr().err, "'OUT.npy' exists")
    assert Path("OUT.npy").read_text() == "precious"
    assert {path.name for path in folder.iterdir()} == {"IN.npy", "OUT.npy"}


def _refusing(number: int) -> Callable[..., Any]:
    """Return a system call that always fails with `number`."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


def test_file_system_without_hard_links(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refusing(errno.EPERM))
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
    assert_same(np.load("OUT.npy"), fastsoftmax.softmax(table(), axis=-1))
    assert {path.name for path in folder.iterdir()} == {"IN.npy", "OUT.npy"}


@posix
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("reason", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_file_system_that_cannot_reserve_room(
    monkeypatch: pytest.MonkeyPatch, reason: int | None
) -> None:
    if reason is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", _refusing(reason), raising=False)
    x = table((700, 901))
    np.save("IN.npy", x)
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
    assert_same(np.load("OUT.npy"), fastsoftmax.softmax(x, axis=-1))
    assert os.path.getsize("OUT.npy") == os.path.getsize("IN.npy")


@posix
def test_mode_follows_the_umask(folder: Path) -> None:
    done = run(folder, "softmax", "IN.npy", "OUT.npy", umask=0o027)
    assert done.returncode == 0
    assert stat.S_IMODE(os.stat("OUT.npy").st_mode) == 0o640


@posix
def test_link_stays_and_its_file_is_replaced(folder: Path) -> None:
    (folder / "there").mkdir()
    os.symlink("there/FILE.npy", "OUT.npy")
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
    assert os.path.islink("OUT.npy")
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 1
    assert main(["softmax", "IN.npy", "OUT.npy", "--force"]) == 0
    assert os.path.islink("OUT.npy")
    assert_same(np.load("there/FILE.npy"), fastsoftmax.softmax(table(), axis=-1))
    assert os.listdir("there") == ["FILE.npy"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere/OUT.npy", "no folder"),
        ("IN.npy/OUT.npy", "no folder"),
        (".", "not a regular file"),
        (os.devnull, "not a regular file"),
        ("n" * 300, os.strerror(errno.ENAMETOOLONG)),
    ],
)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_impossible_target_is_one_line(
    capsys: pytest.CaptureFixture[str], target: str, words: str, force: tuple[str]
) -> None:
    assert main(["softmax", "IN.npy", target, *force]) == 1
    assert_one_line(capsys.readouterr().err, words, target)
    assert os.listdir() == ["IN.npy"]


@linux
def test_folder_that_may_not_be_written(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o555)
    done = run(folder, "softmax", "IN.npy", "closed/OUT.npy", code=AS_A_PLAIN_USER)
    assert done.returncode == 1
    assert_one_line(done.stderr, "'closed/OUT.npy'", os.strerror(errno.EACCES))
    assert os.listdir("closed") == []


@posix
@pytest.mark.parametrize("shape", [(300, 1000), (0,)], ids=["mapped", "empty"])
def test_full_disk_is_one_line_and_leaves_nothing(
    folder: Path, shape: tuple[int, ...]
) -> None:
    np.save("IN.npy", table(shape))
    done = run(folder, "softmax", "IN.npy", "OUT.npy", code=ON_A_FULL_DISK + QUICK)
    assert done.returncode == 1
    assert_one_line(done.stderr, "cannot write 'OUT.npy'", os.strerror(errno.EFBIG))
    assert os.listdir() == ["IN.npy"]


@posix
def test_full_disk_where_room_cannot_be_reserved(folder: Path) -> None:
    np.save("IN.npy", table((600, 1000)))
    code = ON_A_FULL_DISK + "import os; vars(os).pop('posix_fallocate', None)\n" + QUICK
    done = run(folder, "softmax", "IN.npy", "OUT.npy", code=code.replace("100", "5000"))
    assert done.returncode == 1
    assert_one_line(done.stderr, "cannot write 'OUT.npy'", os.strerror(errno.EFBIG))
    assert os.listdir() == ["IN.npy"]


def test_number_of_threads_is_as_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 64)
    fastsoftmax.set_num_threads(3)
    try:
        assert main(["softmax", "IN.npy", "OUT.npy", "--axis", "none"]) == 0
        assert (folder / "OUT.npy").exists()
        assert fastsoftmax.get_num_threads() == 3
    finally:
        fastsoftmax.set_num_threads(None)


@posix
def test_disk_too_full_is_noticed_before_any_work(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("room cannot be reserved here")
    monkeypatch.setattr(os, "posix_fallocate", _refusing(errno.ENOSPC))
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 1
    assert_one_line(capsys.readouterr().err, "'OUT.npy'", os.strerror(errno.ENOSPC))
    assert [path.name for path in folder.iterdir()] == ["IN.npy"]


@posix
def test_disk_too_full_for_a_scratch_file(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(_blocks, "TemporaryFile", _refusing(errno.ENOSPC))
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
    Path("OUT.npy").unlink()
    assert main(["softmax", "IN.npy", "OUT.npy", "--axis", "0"]) == 1
    assert_one_line(capsys.readouterr().err, "'OUT.npy'", os.strerror(errno.ENOSPC))
    assert [path.name for path in folder.iterdir()] == ["IN.npy"]


# Interruption


@pytest.fixture
def slow_job(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that is at work on OUT.npy, and will be for a while."""
    np.save("IN.npy", table((100, 1000)))
    Path("OUT.npy").write_text("precious")
    code = HEEDING_SIGNALS + SLOW
    process = subprocess.Popen(
        [sys.executable, "-c", code, "softmax", "IN.npy", "OUT.npy", "--force"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not list(folder.glob(".fastsoftmax-*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    assert Path("OUT.npy").read_text() == "precious"
    yield process
    process.kill()
    process.communicate()


@posix
@pytest.mark.parametrize(
    ("name", "message"),
    [("SIGINT", "fastsoftmax: interrupted\n"), ("SIGTERM", ""), ("SIGHUP", "")],
)
def test_signal_leaves_nothing_behind(
    folder: Path, slow_job: subprocess.Popen[str], name: str, message: str
) -> None:
    number = getattr(signal, name)
    slow_job.send_signal(number)
    _, stderr = slow_job.communicate(timeout=10)
    assert slow_job.returncode == 128 + number
    assert stderr == message
    assert {path.name for path in folder.iterdir()} == {"IN.npy", "OUT.npy"}
    assert Path("OUT.npy").read_text() == "precious"


@linux
def test_ctrl_c_reaches_a_kernel_at_work(folder: Path) -> None:
    sparse(folder / "IN.npy", (1_000_000_000,))
    code = HEEDING_SIGNALS + QUICK
    with subprocess.Popen(
        [sys.executable, "-c", code, "logsumexp", "IN.npy", "OUT.npy"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(folder.glob(".fastsoftmax-*.tmp")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)  # into the only block
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "fastsoftmax: interrupted\n")
    assert [path.name for path in folder.iterdir()] == ["IN.npy"]


@pytest.mark.usefixtures("folder")
def test_handlers_are_as_before() -> None:
    outer = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert main(["softmax", "IN.npy", "OUT.npy"]) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, outer)


@pytest.mark.parametrize("wrong", [MemoryError, MemoryError("no 9 GB")])
def test_lack_of_memory_is_one_line_and_leaves_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wrong: type[MemoryError] | MemoryError,
) -> None:
    softmax = fastsoftmax.softmax

    def failing(x: Array, **options: Any) -> Any:
        if "out" in options:
            raise wrong
        return softmax(x, **options)

    monkeypatch.setattr(fastsoftmax, "softmax", failing)
    assert main(["softmax", "IN.npy", "OUT.npy"]) == 1
    message = "no 9 GB" if isinstance(wrong, MemoryError) else "out of memory"
    assert_one_line(capsys.readouterr().err, message)
    assert [path.name for path in folder.iterdir()] == ["IN.npy"]


# The progress bar


def on_terminal(code: str, *arguments: str) -> str:
    """Return what a job says on stderr when that is a terminal; it must succeed."""
    import pty
    import termios

    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with subprocess.Popen(
        [sys.executable, "-c", code, "softmax", "IN.npy", "OUT.npy", *arguments],
        stderr=end,
    ) as process:
        os.close(end)
        said = b""
        try:
            while piece := os.read(terminal, 4096):
                said += piece
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(terminal)
    assert process.returncode == 0
    return said.decode()


NO_TQDM = "import sys; sys.modules['tqdm'] = None\n"


@posix
@pytest.mark.parametrize(
    ("axis", "total"),
    [("-1", "36.0k/36.0k"), ("0", "108k/108k")],  # 0: two copies and the work
)
def test_bar_on_a_terminal_after_a_second(folder: Path, axis: str, total: str) -> None:
    pytest.importorskip("tqdm")
    np.save("IN.npy", table((9, 1000)))
    said = on_terminal(SLOW, f"--axis={axis}")
    assert total in said
    shown = [int(percent) for percent in re.findall(r"(\d+)%", said)]
    assert shown == sorted(shown)
    assert 0 < shown[0] < 100, "a second is some five blocks of the nine"
    assert shown[-1] == 100
    assert (folder / "OUT.npy").exists()


@posix
@pytest.mark.usefixtures("folder")
def test_bar_while_a_single_block_takes_long() -> None:
    pytest.importorskip("tqdm")
    said = on_terminal(SLOW.replace("0.2", "1.5"))
    assert "0%" in said
    assert "100%" in said


@posix
@pytest.mark.usefixtures("folder")
def test_no_bar_under_a_second() -> None:
    assert on_terminal(QUICK) == ""


@posix
@pytest.mark.usefixtures("folder")
def test_no_bar_without_tqdm() -> None:
    assert on_terminal(NO_TQDM + SLOW.replace("0.2", "1.5")) == ""


def test_no_bar_without_a_terminal(folder: Path) -> None:
    code = SLOW.replace("0.2", "1.5")
    done = run(folder, "softmax", "IN.npy", "OUT.npy", code=code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
