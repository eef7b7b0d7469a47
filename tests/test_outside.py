"""tests/ copied to another folder, without the rest of the sources, runs there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import child
import pytest

TESTS = Path(__file__).parent

SOME = """
import pytest

@pytest.mark.parametrize("n", range(3))
def test_needs_what_is_not_there(n):
    pytest.importorskip("nothing_of_that_name", reason="needs nothing")

@pytest.mark.skipif(True, reason="of another system")
def test_elsewhere(): pass

@pytest.mark.slow
def test_slow():
    assert False
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        cwd=folder,
        env=child.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_slow_ones_are_left_out_and_skipped_ones_are_summed_up(tmp_path: Path) -> None:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(SOME)
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped: 3 x needs nothing; 1 x of another system\n" in done.stdout
    assert "4 skipped, 1 deselected" in done.stdout
    assert "warning" not in done.stdout


def test_what_reads_the_sources_runs_without_them(tmp_path: Path) -> None:
    """All can be collected; those of the quick files and a file of another kind run."""
    copy = shutil.copytree(
        TESTS, tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    reading = [
        path
        for path in copy.glob("test_*.py")
        if "parent.parent" in path.read_text() or "parents[1]" in path.read_text()
    ]
    assert len(reading) > 5
    quick = "bench or cimport or coefficients or docs or equivalents or log_softmax"
    done = run(tmp_path, "-k", quick, *map(str, reading), "tests/test_log_softmax.py")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"skipped: \d+ x needs the sources", done.stdout)
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 50


def test_what_names_files_of_tests_names_such_as_there_are() -> None:
    """A wheel's tests, say: nothing here runs them."""
    root = TESTS.parent
    if not (root / ".ci").exists():
        pytest.skip("needs the sources")
    naming = [root / "pyproject.toml", root / ".ci" / "run"]
    naming += root.glob(".github/workflows/*.yml")
    text = "".join(path.read_text() for path in naming)
    lists = re.findall(r"for name in ([\w\s\\]+);", text)
    names = {name for words in lists for name in words.replace("\\", " ").split()}
    names |= set(re.findall(r"tests/test_(\w+)\.py", text))
    assert {"softmax", "wake", "tensors"} <= names
    assert [name for name in names if not (TESTS / f"test_{name}.py").exists()] == []
