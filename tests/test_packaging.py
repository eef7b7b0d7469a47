"""What is shipped: the wheel, the sdist, their metadata; and the sources themselves."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import fastsoftmax

ROOT = Path(__file__).parents[1]
SHIPPED = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

has_sources = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs the sources"
)
building = [has_sources, pytest.mark.slow, pytest.mark.timeout(900)]


def run(
    folder: Path, *command: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, where it sees no other copy of the package."""
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def sources_in(folder: Path) -> Path:
    """Return a copy of the sources, without what builds have left in them."""
    copy = folder / "clone"
    copy.mkdir()
    for name in (*SHIPPED, "CHANGELOG.md", "CONTRIBUTING.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "_cpu.c")
    shutil.copytree(ROOT / "fastsoftmax", copy / "fastsoftmax", ignore=unwanted)
    return copy


# ---- the sources of a clone, not compiled ----


@has_sources
@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import fastsoftmax"],
        ["-c", "from fastsoftmax import softmax"],
        ["-c", "import fastsoftmax._softmax"],
    ],
)
def test_import_of_sources_says_what_to_do(
    tmp_path: Path, arguments: list[str]
) -> None:
    clone = sources_in(tmp_path)
    done = run(clone, sys.executable, *arguments)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ImportError: fastsoftmax was found in ")
    assert "build_ext --inplace" in last
    assert "During handling" not in done.stderr


@has_sources
@pytest.mark.parametrize("arguments", [[], ["--version"], ["softmax", "a", "b"]])
def test_command_line_of_sources_says_what_to_do(
    tmp_path: Path, arguments: list[str]
) -> None:
    clone = sources_in(tmp_path)
    done = run(clone, sys.executable, "-m", "fastsoftmax", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fastsoftmax was found in ")


@has_sources
def test_missing_dependency_is_not_taken_for_missing_kernels(tmp_path: Path) -> None:
    clone = sources_in(tmp_path)
    (clone / "fastsoftmax" / "_cpu.py").write_text("import no_such_module\n")
    done = run(clone, sys.executable, "-c", "import fastsoftmax")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert "source folder" not in done.stderr


def test_unknown_isa_is_one_clear_error(tmp_path: Path) -> None:
    here = str(Path(fastsoftmax.__file__).parents[1])
    done = run(
        tmp_path,
        *(sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n"
          "import fastsoftmax"),
        FASTSOFTMAX_ISA="sse9",
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ImportError: FASTSOFTMAX_ISA='sse9' is not among")
    assert last.endswith("scalar")


# ---- metadata ----


def assert_metadata(metadata: Message) -> None:
    """Assert what holds of the metadata, installed or in a wheel."""
    required = metadata.get_all("Requires-Dist") or []
    always = [one for one in required if "extra ==" not in one]
    assert [re.split("[^a-z]", one)[0] for one in always] == ["numpy"]
    assert metadata["Name"] == "fastsoftmax"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"


def test_metadata_of_the_installed_package() -> None:
    metadata = importlib.metadata.metadata("fastsoftmax")
    assert_metadata(metadata)  # type: ignore[arg-type]


def test_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    version = importlib.metadata.version("fastsoftmax")
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]\d+|rc\d+|\.dev\d+)?", version)
    fastsoftmax.show_config()
    assert capsys.readouterr().out.splitlines()[0] == f"fastsoftmax {version}"
    if (ROOT / "pyproject.toml").exists():
        text = (ROOT / "pyproject.toml").read_text()
        stated = re.search('^version = "(.+)"$', text, re.MULTILINE)
        assert stated
        assert stated[1] == version


def test_names_the_package_exports() -> None:
    assert all(hasattr(fastsoftmax, name) for name in fastsoftmax.__all__)
    assert sorted(fastsoftmax.__all__) == fastsoftmax.__all__


def test_import_loads_no_optional_package(tmp_path: Path) -> None:
    here = str(Path(fastsoftmax.__file__).parents[1])
    script = f"""
import sys
import numpy
before = set(sys.modules)
sys.path.insert(0, {here!r})
import fastsoftmax
fastsoftmax.softmax([1.0, 2.0])
optional = "cupy scipy tqdm ml_dtypes threadpoolctl torch mpmath psutil".split()
found = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert not found & set(optional), found
"""
    done = run(tmp_path, sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr


# ---- wheel and sdist ----

BUILDER = """
import socket, sys

def refuse(*arguments, **options):
    raise OSError("a build must not use the network")

socket.socket.connect = socket.getaddrinfo = refuse
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def setuptools_version() -> int:
    """Return the major version of the setuptools that is here, or 0."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def build(kind: str, sources: Path, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" with what is installed here; return the file."""
    pytest.importorskip("Cython", reason="building needs Cython")
    if setuptools_version() < 77:
        pytest.skip("building needs setuptools 77 or later")
    done = run(sources, sys.executable, "-c", BUILDER, kind, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist of the sources."""
    folder = tmp_path_factory.mktemp("sdist")
    return build("sdist", sources_in(folder), folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the sdist, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (sources,) = (path for path in folder.iterdir() if path.is_dir())
    return build("wheel", sources, folder)


class TestBuilt:
    """The files that are uploaded."""

    pytestmark = building

    def test_sdist_holds_what_a_build_needs(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        tracked = [
            *ROOT.glob("fastsoftmax/**/*.p*"),
            *ROOT.glob("fastsoftmax/kernels/**/*.[ch]"),
            *ROOT.glob("fastsoftmax/cuda/*.cu"),
        ]
        needed = {str(path.relative_to(ROOT)) for path in tracked if path.is_file()}
        assert needed | set(SHIPPED) <= names
        assert "fastsoftmax/_cpu.c" not in names, "made by Cython, for one NumPy"
        assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]

    def test_wheel_holds_what_is_used_and_nothing_else(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        ours = {Path(name).name for name in names if name.startswith("fastsoftmax/")}
        modules = {path.name for path in ROOT.glob("fastsoftmax/**/*.py")}
        modules |= {path.name for path in ROOT.glob("fastsoftmax/cuda/*.cu")}
        (library,) = (name for name in ours if name.endswith((".so", ".pyd")))
        assert ours == modules | {
            "py.typed",
            "_cpu.pyi",
            "_cpu.pxd",
            "__init__.pxd",
            library,
        }
        rest = [name for name in names if not name.startswith("fastsoftmax/")]
        assert all(name.startswith("fastsoftmax-") for name in rest), rest
        assert any(name.endswith("licenses/LICENSE") for name in rest)

    def test_wheel_is_small(self, wheel: Path) -> None:
        """Four fifths are kernels in C; fastsoftmax/cuda takes 25 kB."""
        assert 50_000 < wheel.stat().st_size < 525_000

    def test_wheel_has_the_metadata_of_the_sources(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            (name,) = (one for one in names if one.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(archive.read(name).decode())
            (points,) = (one for one in names if one.endswith("entry_points.txt"))
            assert "fastsoftmax = fastsoftmax.cli.main:main" in (
                archive.read(points).decode()
            )
        assert_metadata(metadata)
        assert metadata["Version"] == importlib.metadata.version("fastsoftmax")
        assert name.startswith(f"fastsoftmax-{metadata['Version']}.dist-info")

    def test_wheel_runs(self, wheel: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
        script = "import fastsoftmax as f; print(f.__file__, f.softmax([0.0, 0.0]))"
        done = run(tmp_path, sys.executable, "-c", script)
        assert done.returncode == 0, done.stderr
        assert str(tmp_path) in done.stdout
        assert "[0.5 0.5]" in done.stdout
