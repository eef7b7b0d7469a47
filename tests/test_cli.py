"""The command line: what it prints and writes, and what it does not take."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    COMMANDS,
    MEASURED,
    assert_one_line,
    assert_same,
    linux,
    posix,
    public,
    run,
    sparse,
    table,
)

import fastsoftmax
from fastsoftmax.cli import blocks, demo
from fastsoftmax.cli.main import main

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
        "from fastsoftmax.cli.main import main; sys.exit(main([]))"
    )
    done = run(tmp_path, code=code)
    assert done.returncode == 0
    assert "NumPy's three lines" in done.stdout
    assert "SciPy" not in done.stdout


def test_ulps_counts_units_in_the_binade_of_the_exact_value() -> None:
    exact = np.array([0.75, 1.0, 2.0**-149])
    wrong = exact.astype(np.float32)
    assert demo.ulps(wrong, exact) == 0
    wrong[0] += 3 * 2.0**-24
    assert demo.ulps(wrong, exact) == 3
    wrong[1] += 5 * 2.0**-23
    assert demo.ulps(wrong, exact) == 5
    wrong[2] *= 8
    assert demo.ulps(wrong, exact) == 7


@pytest.mark.slow
def test_example_data_is_what_its_comment_says() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    linear = pytest.importorskip("sklearn.linear_model")
    images, labels = datasets.load_digits(return_X_y=True)
    model = linear.LogisticRegression(max_iter=10000)
    model.fit(images[:1400], labels[:1400])
    held = slice(demo.FIRST_IMAGE, demo.FIRST_IMAGE + len(demo.LABELS))
    assert (labels[held] == demo.LABELS).all()
    # Solvers of other releases stop elsewhere: to a hundredth only in the same one.
    scores = model.decision_function(images[held])
    np.testing.assert_allclose(demo.SCORES, scores, rtol=0, atol=0.1)


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
        "import sys, fastsoftmax.cli.main\n"
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
    assert set(found) == {"fastsoftmax.cli.main:main"}


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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 256)
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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 16)
    assert blocks.steps(shape, 4, frozenset(axes)) == step
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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 64 * 64)
    assert blocks.tile(shape, 4, one, other) == step
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
        seen = blocks.FileArray.mapped(file, 6, x.shape, x.dtype).transpose(order)
        block = tuple(block[axis] for axis in order)
        expected = x.transpose(order).copy()
        np.testing.assert_array_equal(seen.array, expected)
        np.testing.assert_array_equal(seen.read(block), expected[block])
        seen.write(block, -expected[block])
        expected[block] *= -1
        np.testing.assert_array_equal(seen.array, expected)
    assert (tmp_path / "x").stat().st_size == 6 + x.nbytes


def assert_covers_once(shape: tuple[int, ...], step: list[int]) -> None:
    """Assert that the blocks of this size hold every element, and hold it once."""
    seen = np.zeros(shape, np.uint8)
    for block in blocks._blocks(shape, step):
        seen[block] += 1
    assert (seen == 1).all()


# Memory


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
        ((125_000, 1000), "-1"),
        ((125_000, 1000), "0"),
        ((4500, 55_000), "0"),
        ((125_000, 1000), "none"),
        ((125_000_000,), "-1"),
    ],
)
@pytest.mark.parametrize("command", ["softmax", "logsumexp"])
def test_resident_memory_is_small_for_any_axis_of_a_gigabyte(
    tmp_path: Path, command: str, shape: tuple[int, ...], axis: str
) -> None:
    """Or of half one: that is more than twice the bound, too."""
    sparse(tmp_path / "IN.npy", shape)
    try:
        assert peak(tmp_path, command, "IN.npy", "OUT.npy", "--axis", axis) < 200
    finally:
        (tmp_path / "OUT.npy").unlink(missing_ok=True)


# Bad arguments


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
