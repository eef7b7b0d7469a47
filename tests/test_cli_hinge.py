"""The command line's hinge: what it prints, what it writes, and how it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import assert_one_line

from fastsoftmax import hinge_loss
from fastsoftmax.cli import losses
from fastsoftmax.cli.main import main

Array = npt.NDArray[Any]

FLAT = np.array([0.5, 0.2, -0.1, 1.0, -0.5, 0.3])
LABELLED = np.array([[0.2, 0.5, -0.1], [1.0, -0.5, 0.3]], np.float32)


@pytest.fixture
def layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the reference case in three layouts."""
    monkeypatch.chdir(tmp_path)
    np.save("flat.npy", FLAT)
    np.save("rows.npy", FLAT.reshape(2, 3))
    np.save("labelled.npy", LABELLED)
    np.save("labels.npy", np.array([1, 0], np.uint8))
    return tmp_path


LAYOUTS = {
    "flat": "flat.npy --negatives 2",
    "rows": "rows.npy",
    "labelled": "labelled.npy --labels labels.npy",
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def run(command: str) -> int:
    return main(["hinge", *command.split()])


@each_layout
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", 1.4),
        ("--reduction mean", 0.7),
        ("--variant max", 1.0),
        ("--p 2", 0.74),
        ("--margin 0.5 --reduction sum", 0.2),
    ],
)
@pytest.mark.usefixtures("layouts")
def test_prints_the_loss(
    capsys: pytest.CaptureFixture[str], layout: str, options: str, expected: float
) -> None:
    assert run(f"{LAYOUTS[layout]} {options}") == 0
    printed = capsys.readouterr()
    assert float(printed.out) == pytest.approx(expected, rel=1e-6)
    assert printed.out.count("\n") == 1
    assert printed.err == ""


@each_layout
@pytest.mark.usefixtures("layouts")
def test_writes_the_rows(capsys: pytest.CaptureFixture[str], layout: str) -> None:
    assert run(f"{LAYOUTS[layout]} out.npy --p 2") == 0
    assert capsys.readouterr() == ("", "")
    rows = np.load("out.npy")
    assert rows.dtype == (np.float32 if layout == "labelled" else np.float64)
    np.testing.assert_allclose(rows, [0.65, 0.09], rtol=1e-6)


@pytest.mark.usefixtures("layouts")
def test_writes_the_pairs() -> None:
    assert run("flat.npy --negatives 2 out.npy --reduction pairs") == 0
    np.testing.assert_allclose(np.load("out.npy"), [[0.7, 0.4], [0, 0.3]])
    assert (
        run("labelled.npy out.npy --labels labels.npy --reduction pairs --force") == 0
    )
    expected = np.array([[0.7, 0, 0.4], [0, 0, 0.3]], np.float32)
    np.testing.assert_allclose(np.load("out.npy"), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (5,), (7, 6), (7, 1), (3, 4, 6), (0, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "u1"])
def test_blocks_give_what_the_whole_gives(
    layouts: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    order: str,
    dtype: str,
) -> None:
    scores = np.random.default_rng(0).uniform(0, 9, shape).astype(dtype, order=order)
    np.save("scores.npy", scores)
    monkeypatch.setattr(losses, "BLOCK_BYTES", 50)
    for reduction in ("none", "pairs"):
        command = f"scores.npy out.npy --force --reduction {reduction}"
        assert run(command) == 0
        result = np.load("out.npy")
        expected = np.asarray(hinge_loss(scores, reduction=reduction))
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("missing.npy", "missing.npy"),
        ("flat.npy --negatives 3", "'flat.npy' multiple of 4 (6,)"),
        ("rows.npy --negatives 2", "'rows.npy' flat (2, 3)"),
        ("rows.npy --labels missing.npy", "missing.npy"),
        ("rows.npy --labels flat.npy", "'rows.npy' 'flat.npy' (2,), (6,)"),
        ("rows.npy --labels wild.npy", "'wild.npy' label 3 of row 1"),
        ("rows.npy --labels floats.npy", "'floats.npy' labels float64"),
        ("labelled.npy --margin 1e300", "margin float32 1e+300"),
        ("complex.npy", "'complex.npy' complex128"),
    ],
)
@pytest.mark.usefixtures("layouts")
def test_bad_files_are_one_line(
    capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    np.save("wild.npy", np.array([2, 3]))
    np.save("floats.npy", np.array([0.0, 1.0]))
    np.save("complex.npy", np.zeros((2, 3), complex))
    for target in ("", " out.npy"):
        assert run(command + target) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert_one_line(printed.err, "hinge: error: ", *words.split())
        assert not Path("out.npy").exists()


HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (50, 7",
    "{[]: 1}",
    "{'descr': ('<f8',), 'fortran_order': False, 'shape': (2, 3)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 7)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 7)}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(1,) * 70}}}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {10**20})}}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {2**62}, 4)}}",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("command", ["hinge", "softmax"])
@pytest.mark.usefixtures("layouts")
def test_damaged_headers_are_one_line(
    capsys: pytest.CaptureFixture[str], header: str, command: str
) -> None:
    text = header.encode() + b" \n"
    size = len(text).to_bytes(2, "little")
    Path("bad.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + text + bytes(1000))
    assert main([command, "bad.npy", "out.npy"]) == 1
    error = capsys.readouterr().err
    assert_one_line(error, "'bad.npy'")
    assert "truncated" not in error


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("rows.npy --margin -1", "'-1'"),
        ("rows.npy --margin nan", "'nan'"),
        ("flat.npy --negatives -1", "'-1'"),
        ("flat.npy --negatives two", "'two'"),
        ("flat.npy --negatives 2 --labels labels.npy", "not allowed"),
        ("rows.npy --p 3", "3"),
        ("rows.npy --variant mean", "'mean'"),
        ("rows.npy --reduction none", "OUT"),
        ("rows.npy --reduction pairs", "OUT"),
        ("rows.npy out.npy --reduction sum", "OUT"),
    ],
)
@pytest.mark.usefixtures("layouts")
def test_bad_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], command: str, word: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(command)
    assert stopped.value.code == 2
    assert_one_line(capsys.readouterr().err, "hinge: error: argument ", word)
    assert not Path("out.npy").exists()


@pytest.mark.usefixtures("layouts")
def test_an_existing_file_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.npy").write_text("precious")
    assert run("rows.npy out.npy") == 1
    assert "--force" in capsys.readouterr().err
    assert Path("out.npy").read_text() == "precious"
