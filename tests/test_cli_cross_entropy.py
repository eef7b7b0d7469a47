"""The command line's cross-entropy: what it prints, what it writes, how it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import assert_one_line, assert_same

from fastsoftmax import cross_entropy
from fastsoftmax.cli import losses
from fastsoftmax.cli.main import main

rng = np.random.default_rng(0)
SCORES = rng.normal(0, 100, (7, 4, 3)).astype(np.float32)
LABELS = rng.integers(0, 4, (7, 3))
LABELS[2, 1] = -100
TARGETS = rng.dirichlet(np.ones(4), (7, 3)).transpose(0, 2, 1)
MASK = rng.random((4, 1)) < 0.8


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with scores, classes along axis 1, and what goes with them."""
    monkeypatch.chdir(tmp_path)
    np.save("scores.npy", SCORES)
    np.save("labels.npy", LABELS)
    np.save("targets.npy", TARGETS)
    np.save("mask.npy", MASK)


def run(command: str) -> int:
    return main(["cross-entropy", *command.split()])


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("scores.npy labels.npy --ignore-index -100", {"ignore_index": -100}),
    ("scores.npy targets.npy", {"labels": TARGETS}),
    (
        "scores.npy targets.npy --temperature 50 --label-smoothing .1",
        {"labels": TARGETS, "temperature": 50.0, "label_smoothing": 0.1},
    ),
    (
        "scores.npy labels.npy --where mask.npy --ignore-index -100",
        {"where": MASK, "ignore_index": -100},
    ),
]


@pytest.mark.parametrize(("command", "options"), OPTIONS)
def test_prints_and_writes_what_the_function_gives(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: dict[str, Any],
) -> None:
    given = {"labels": LABELS, "axis": 1, **options}
    command += " --axis 1"
    for reduction in ("", "mean", "sum"):
        words = f" --reduction {reduction}" if reduction else ""
        assert run(command + words) == 0
        loss = cross_entropy(SCORES, reduction=reduction or "mean", **given)
        assert capsys.readouterr() == (str(loss) + "\n", "")
    expected = cross_entropy(SCORES, reduction="none", **given)
    for block in (50, 32 << 20):
        monkeypatch.setattr(losses, "BLOCK_BYTES", block)
        assert run(command + " out.npy --force") == 0
        assert capsys.readouterr() == ("", "")
        assert_same(np.load("out.npy"), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -3])
def test_every_axis(monkeypatch: pytest.MonkeyPatch, axis: int) -> None:
    monkeypatch.setattr(losses, "BLOCK_BYTES", 50)
    labels = SCORES.argmin(axis=axis)
    for order in "CF":
        np.save("scores.npy", SCORES.copy(order=order))
        np.save("labels.npy", labels)
        assert run(f"scores.npy labels.npy out.npy --force --axis {axis}") == 0
        expected = cross_entropy(SCORES, labels, axis, reduction="none")
        assert_same(np.load("out.npy"), expected)


def test_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("scores.npy", np.float16([12, 3, 0]))
    np.save("labels.npy", 0)
    assert run("scores.npy labels.npy") == 0
    assert float(capsys.readouterr().out) == pytest.approx(1.2954e-4, rel=1e-4)
    assert run("scores.npy labels.npy out.npy") == 0
    assert np.load("out.npy").shape == ()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("scores.npy missing.npy", "missing.npy"),
        ("scores.npy labels.npy", "'scores.npy' 'labels.npy' (7, 4), (7, 3)"),
        ("scores.npy labels.npy --axis 1", "label -100 of row 2, 1 [0, 4)"),
        ("scores.npy labels.npy --axis 3", "axis 3"),
        ("scores.npy targets.npy --ignore-index 1", "'targets.npy' ignore_index"),
        ("scores.npy targets.npy --temperature 1e-300", "temperature float32"),
        ("scores.npy targets.npy --where labels.npy", "'labels.npy' where (7, 3)"),
        ("scores.npy targets.npy --where scores.npy", "where must be boolean"),
        ("complex.npy targets.npy", "'complex.npy' complex128"),
    ],
)
def test_bad_files_are_one_line(
    capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    np.save("complex.npy", SCORES.astype(complex))
    for target in ("", " out.npy"):
        assert run(command + target) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert_one_line(printed.err, "cross-entropy: error: ", *words.split())
        assert not Path("out.npy").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--temperature 0", "'0'"),
        ("--label-smoothing 1.5", "'1.5'"),
        ("--label-smoothing nan", "'nan'"),
        ("--ignore-index x", "'x'"),
        ("--axis 0,1", "'0,1'"),
        ("--reduction pairs", "'pairs'"),
        ("--reduction none", "OUT"),
        ("out.npy --reduction mean", "OUT"),
    ],
)
def test_bad_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], options: str, word: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(f"scores.npy labels.npy {options}")
    assert stopped.value.code == 2
    assert_one_line(capsys.readouterr().err, "cross-entropy: error: argument ", word)
    assert not Path("out.npy").exists()
