"""The command line: what it reads, and what it says of files that are no input."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    COMMANDS,
    assert_one_line,
    assert_same,
    posix,
    public,
    run,
    sparse,
    table,
)

import fastsoftmax
from fastsoftmax.cli import blocks
from fastsoftmax.cli.main import main

# Masks, archives, raw bytes


@pytest.mark.parametrize("shape", [(6, 5), (1, 5), (6, 1), (5,), ()])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("folder")
def test_where(
    monkeypatch: pytest.MonkeyPatch, command: str, axis: int, order: str, shape: Any
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 40)
    x = np.asarray(table(), order=order)  # type: ignore[call-overload]
    mask = np.random.default_rng(3).random(shape) < 0.6
    np.save("IN.npy", x)
    np.save("MASK.npy", np.asfortranarray(mask) if axis else mask)
    arguments = [command, "IN.npy", "OUT.npy", "--axis", str(axis)]
    assert main([*arguments, "--where", "MASK.npy"]) == 0
    expected = public(command)(x, axis=axis, where=mask)
    assert_same(np.load("OUT.npy"), expected)


@pytest.mark.parametrize("shape", [(), (0, 5), (4, 0)])
@pytest.mark.usefixtures("folder")
def test_where_of_scalars_and_empties(shape: tuple[int, ...]) -> None:
    np.save("IN.npy", np.ones(shape))
    np.save("MASK.npy", np.zeros(shape, bool))
    assert main(["softmax", "IN.npy", "OUT.npy", "--where=MASK.npy"]) == 0
    assert_same(np.load("OUT.npy"), np.zeros(shape))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((6, 5), "i1"), ["must hold booleans", "int8", ".astype(bool)"]),
        (np.ones((6, 4), bool), ["(6, 4)", "(6, 5)", "broadcast"]),
        (np.ones((2, 6, 5), bool), ["(2, 6, 5)", "(6, 5)", "broadcast"]),
    ],
)
def test_mask_that_does_not_fit_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], mask: Any, words: list[str]
) -> None:
    np.save("MASK.npy", mask)
    before = set(folder.iterdir())
    assert main(["softmax", "IN.npy", "OUT.npy", "--where", "MASK.npy"]) == 1
    assert_one_line(capsys.readouterr().err, "'MASK.npy'", *words)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_member_of_an_archive(folder: Path, save: Any) -> None:
    mask = table() > 0
    save("BOTH.npz", scores=table((6, 5)), mask=mask, other=np.zeros(3))
    arguments = ["softmax", "BOTH.npz:scores", "OUT.npy", "--where", "BOTH.npz:mask"]
    assert main(arguments) == 0
    assert_same(np.load("OUT.npy"), fastsoftmax.softmax(table(), axis=-1, where=mask))
    assert {path.name for path in folder.iterdir()} == {"IN.npy", "BOTH.npz", "OUT.npy"}


@pytest.mark.usefixtures("folder")
def test_file_whose_name_looks_like_a_member() -> None:
    os.rename("IN.npy", "A.npz:b")
    assert main(["softmax", "A.npz:b", "OUT.npy"]) == 0


@pytest.mark.usefixtures("folder")
def test_hinge_of_members(capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(6) % 5
    np.savez("BOTH.npz", s=table(), l=labels)
    assert main(["hinge", "BOTH.npz:s", "--labels", "BOTH.npz:l"]) == 0
    assert capsys.readouterr().out == f"{fastsoftmax.hinge_loss(table(), labels)!s}\n"


@pytest.mark.usefixtures("folder")
def test_broken_archive_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez_compressed("BOTH.npz", scores=table((60, 50)), labels=np.zeros(3))
    whole = Path("BOTH.npz").read_bytes()
    Path("CUT.npz").write_bytes(whole[: len(whole) // 2])
    Path("BENT.npz").write_bytes(whole[:200] + bytes(200) + whole[400:])
    for source, word in (
        ("BOTH.npz:rows", "holds scores, labels"),
        ("CUT.npz:scores", "zip"),
        ("BENT.npz:scores", "BENT.npz"),
        ("GONE.npz:scores", "No such file"),
    ):
        assert main(["softmax", source, "OUT.npy"]) == 1
        assert_one_line(capsys.readouterr().err, repr(source), word)
        assert not Path("OUT.npy").exists()


@pytest.mark.usefixtures("folder")
def test_raw_bytes_are_what_one_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = (table() / 9).astype(ml_dtypes.bfloat16)
    np.save("RAW.npy", x)
    assert main(["softmax", "RAW.npy", "OUT.npy"]) == 1
    assert_one_line(capsys.readouterr().err, "'RAW.npy'", "--as bfloat16")
    assert main(["softmax", "RAW.npy", "OUT.npy", "--as", "bfloat16"]) == 0
    result = np.load("OUT.npy").view(ml_dtypes.bfloat16)
    assert_same(result, fastsoftmax.softmax(x, axis=-1))
    assert main(["hinge", "RAW.npy", "--as", "bfloat16"]) == 0
    assert capsys.readouterr().out == f"{fastsoftmax.hinge_loss(x)!s}\n"
    assert main(["softmax", "IN.npy", "NEW.npy", "--as", "bfloat16"]) == 1
    assert_one_line(capsys.readouterr().err, "'IN.npy'", "float32")


# An input that another process cuts short

CUT_SHORT = """
import os, sys, fastsoftmax
from fastsoftmax.cli import blocks, main

def cutting(function):
    def call(x, *rest, **options):
        if not isinstance(x, fastsoftmax._arguments.np.ndarray) or x.size > 1:
            os.truncate("IN.npy", 1 << 20)
        return function(x, *rest, **options)
    return call

fastsoftmax.softmax = cutting(fastsoftmax.softmax)
fastsoftmax.logsumexp = cutting(fastsoftmax.logsumexp)
fastsoftmax.hinge_loss = cutting(fastsoftmax.hinge_loss)
blocks._copy = cutting(blocks._copy)
sys.exit(main.main(sys.argv[1:]))
"""


@posix
@pytest.mark.parametrize(
    "arguments",
    [
        ["softmax", "IN.npy", "OUT.npy"],
        ["logsumexp", "IN.npy", "OUT.npy", "--axis", "none"],
        ["softmax", "IN.npy", "OUT.npy", "--axis", "0"],
        ["softmax", "SCORES.npy", "OUT.npy", "--where", "IN.npy"],
        ["hinge", "IN.npy", "OUT.npy"],
        ["hinge", "IN.npy"],
    ],
)
def test_file_that_is_cut_short_meanwhile_is_one_line(
    folder: Path, arguments: list[str]
) -> None:
    sparse(folder / "IN.npy", (4_000, 5_000))
    if "--where" in arguments:
        sparse(folder / "SCORES.npy", (4_000, 1_000))
        np.lib.format.open_memmap("IN.npy", "w+", bool, (4_000, 1_000))
    before = set(folder.iterdir())
    done = run(folder, *arguments, code=CUT_SHORT)
    assert done.returncode == 1
    assert_one_line(done.stderr, "cannot read 'IN.npy'", "cut short")
    assert done.stdout == ""
    assert set(folder.iterdir()) == before


@posix
def test_other_bus_errors_end_the_process(folder: Path) -> None:
    code = (
        "import os, signal; from fastsoftmax import _cpu\n"
        "_cpu.replace_lost_pages(True); os.kill(os.getpid(), signal.SIGBUS)\n"
        "os.kill(os.getpid(), signal.SIGBUS)"
    )
    assert run(folder, code=code).returncode == -signal.SIGBUS


# Files that are no input


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
    Path("BOTH9.npy").write_bytes(whole[:6] + b"\x09\x09" + whole[8:])
    sized = re.compile(rb"\(6, 5\)(.*?) {24}", re.DOTALL)
    Path("NEGATIVE.npy").write_bytes(sized.sub(rb"(-6, -5)\1" + b" " * 22, whole))
    nested = whole.replace(b"'<f4'", b"'(2,2)<f4'").replace(b" " * 5 + b"\n", b"\n")
    Path("NESTED.npy").write_bytes(nested)
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
        ("MAJOR9.npy", "its format (9, 0) is none of"),
        ("BOTH9.npy", "its format (9, 9) is none of"),
        ("NESTED.npy", "arrays of them"),
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
