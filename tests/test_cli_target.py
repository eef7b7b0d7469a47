"""The command line: where results go, interruption, the progress bar."""

from __future__ import annotations

import errno
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
import pytest
from command_line import (
    AS_A_PLAIN_USER,
    HEEDING_SIGNALS,
    ON_A_FULL_DISK,
    QUICK,
    SLOW,
    Array,
    assert_one_line,
    assert_same,
    linux,
    posix,
    run,
    sparse,
    table,
)

import fastsoftmax
from fastsoftmax.cli import blocks
from fastsoftmax.cli.main import main

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
        ("", "OUT is a path"),
        ("CIRCLE.npy", "its links lead in a circle"),
        (".", "not a regular file"),
        (os.devnull, "not a regular file"),
        ("n" * 300, os.strerror(errno.ENAMETOOLONG)),
    ],
)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_impossible_target_is_one_line(
    capsys: pytest.CaptureFixture[str], target: str, words: str, force: tuple[str]
) -> None:
    os.symlink("CIRCLE.npy", "CIRCLE.npy")
    assert main(["softmax", "IN.npy", target, *force]) == 1
    assert_one_line(capsys.readouterr().err, words, target)
    assert set(os.listdir()) == {"IN.npy", "CIRCLE.npy"}


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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
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
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "TemporaryFile", _refusing(errno.ENOSPC))
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
