"""What the tests that build the package share: a copy of the sources, and children."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

needs_sources = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs the sources"
)
building = [needs_sources, pytest.mark.slow, pytest.mark.timeout(900)]


def run(
    folder: Path, *command: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, away from this checkout and from our variables."""
    ours = ("PYTHONPATH", "CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")
    kept = {
        name: text
        for name, text in os.environ.items()
        if name not in ours and not name.startswith("FASTSOFTMAX_")
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def output(folder: Path, *command: str | Path, **variables: str) -> str:
    """Return what a command that must succeed prints."""
    done = run(folder, *command, **variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def copy_of_sources(folder: Path) -> Path:
    """Copy the sources, without what builds have left in them."""
    copy = folder / "clone"
    copy.mkdir()
    for name in (*SHIPPED, "CHANGELOG.md", "CONTRIBUTING.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    if (ROOT / "licenses").exists():
        shutil.copytree(ROOT / "licenses", copy / "licenses")
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "_cpu.c")
    shutil.copytree(ROOT / "fastsoftmax", copy / "fastsoftmax", ignore=unwanted)
    return copy


def need_builders() -> None:
    """Skip where Cython or setuptools is missing, or too old."""
    pytest.importorskip("Cython", reason="building needs Cython")
    try:
        major = int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        major = 0
    if major < 77:
        pytest.skip("building needs setuptools 77 or later")
