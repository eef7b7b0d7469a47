"""What is shipped: the wheel, the sdist, their metadata; and the sources themselves."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from building import (
    ROOT,
    SHIPPED,
    building,
    copy_of_sources,
    need_builders,
    needs_sources,
    output,
    run,
)

import fastsoftmax
from fastsoftmax import _caches

HERE = str(Path(fastsoftmax.__file__).parents[1])


# ---- the sources of a clone, not compiled ----


@needs_sources
@pytest.mark.parametrize(
    "statement",
    ["import fastsoftmax", "from fastsoftmax import softmax",
     "import fastsoftmax._settings"],
)  # fmt: skip
def test_import_of_sources_says_what_to_do(tmp_path: Path, statement: str) -> None:
    done = run(copy_of_sources(tmp_path), sys.executable, "-c", statement)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ImportError: fastsoftmax was found in ")
    assert "build_ext --inplace" in last
    assert "During handling" not in done.stderr


@needs_sources
@pytest.mark.parametrize("arguments", [[], ["--version"], ["softmax", "a", "b"]])
def test_command_line_of_sources_says_what_to_do(
    tmp_path: Path, arguments: list[str]
) -> None:
    clone = copy_of_sources(tmp_path)
    done = run(clone, sys.executable, "-m", "fastsoftmax", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fastsoftmax was found in ")


@needs_sources
def test_missing_dependency_is_not_taken_for_missing_kernels(tmp_path: Path) -> None:
    clone = copy_of_sources(tmp_path)
    (clone / "fastsoftmax" / "_cpu.py").write_text("import no_such_module\n")
    done = run(clone, sys.executable, "-c", "import fastsoftmax")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert "source folder" not in done.stderr


def test_unknown_isa_is_one_clear_error(tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {HERE!r})\nimport fastsoftmax"
    done = run(tmp_path, sys.executable, "-c", script, FASTSOFTMAX_ISA="sse9")
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
        assert re.findall('^version = "(.+)"$', text, re.MULTILINE) == [version]


def test_names_the_package_exports() -> None:
    assert all(hasattr(fastsoftmax, name) for name in fastsoftmax.__all__)
    assert sorted(fastsoftmax.__all__) == fastsoftmax.__all__


def test_import_loads_no_optional_package(tmp_path: Path) -> None:
    script = f"""
import sys
import numpy
before = set(sys.modules)
sys.path.insert(0, {HERE!r})
import fastsoftmax
from fastsoftmax import _caches
fastsoftmax.softmax([1.0, 2.0])
optional = "cupy scipy tqdm ml_dtypes threadpoolctl torch mpmath psutil".split()
found = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert not found & set(optional), found
"""
    output(tmp_path, sys.executable, "-c", script)


def test_import_adds_a_twelfth_to_numpys(tmp_path: Path) -> None:
    script = f"""
import sys, time
start = time.perf_counter()
import numpy
between = time.perf_counter()
sys.path.insert(0, {HERE!r})
import fastsoftmax
from fastsoftmax import _caches
print((time.perf_counter() - between) / (between - start))
"""
    # The first run compiles, as pip does for users.
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    command = sys.executable, "-c", script
    first, *ratios = [float(output(tmp_path, *command, **cached)) for _ in range(10)]
    assert sorted(ratios)[4] < 1 / 12, first


def test_version_is_looked_up_when_it_is_asked_for() -> None:
    assert fastsoftmax.__version__ == importlib.metadata.version("fastsoftmax")
    assert "__version__" in dir(fastsoftmax)
    with pytest.raises(AttributeError, match="no attribute 'version'"):
        _ = fastsoftmax.version


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [(["48K", "1024K\n", "32M"], 32 << 20), (["x", "", "2048"], 0), ([], 0)],
)
def test_largest_cache(tmp_path: Path, sizes: list[str], largest: int) -> None:
    for i, size in enumerate(sizes):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(size)
    (tmp_path / "uevent").write_text("")
    assert _caches.size_in(tmp_path) == largest
    assert _caches.size_in(tmp_path / "nowhere") == 0


# ---- wheel and sdist ----

BUILDER = """
import socket, sys

def refuse(*arguments, **options):
    raise OSError("a build must not use the network")

socket.socket.connect = socket.getaddrinfo = refuse
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def build(kind: str, sources: Path, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" with what is installed here; return the file."""
    need_builders()
    command = sys.executable, "-c", BUILDER, kind, folder
    printed = output(sources, *command, SOURCE_DATE_EPOCH="1700000000")
    return folder / printed.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist of the sources."""
    folder = tmp_path_factory.mktemp("sdist")
    return build("sdist", copy_of_sources(folder), folder)


def wheel_of(sdist: Path, folder: Path) -> Path:
    """Build a wheel from an sdist, without a network."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (sources,) = (path for path in folder.iterdir() if path.is_dir())
    return build("wheel", sources, folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the sdist."""
    return wheel_of(sdist, tmp_path_factory.mktemp("wheel"))


class TestBuilt:
    """The files that are uploaded."""

    pytestmark = building

    def test_sdist_holds_what_a_build_needs(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        needed = {
            str(path.relative_to(ROOT))
            for kind in ("**/*.p*", "kernels/**/*.[ch]", "cuda/*.cu")
            for path in ROOT.glob(f"fastsoftmax/{kind}")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert len(needed) > 40
        assert needed | set(SHIPPED) <= names
        made = [name for name in names if name.endswith((".so", ".pyc", ".o"))]
        assert not made
        assert not [name for name in names if name.endswith("_cpu.c")]

    def test_wheel_holds_what_is_used_and_nothing_else(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        ours = {Path(name).name for name in names if name.startswith("fastsoftmax/")}
        used = {path.name for path in ROOT.glob("fastsoftmax/**/*.py")}
        used |= {path.name for path in ROOT.glob("fastsoftmax/cuda/*.cu")}
        used |= {"py.typed", "_cpu.pyi", "_cpu.pxd", "__init__.pxd", "coefficients.h"}
        (library,) = (name for name in ours if name.endswith((".so", ".pyd")))
        assert ours == used | {library}
        rest = [name for name in names if not name.startswith("fastsoftmax/")]
        assert all(name.startswith("fastsoftmax-") for name in rest), rest
        for licence in ("LICENSE", "libgomp.txt"):
            assert any(name.endswith(f"/{licence}") for name in rest)

    def test_built_again_elsewhere_they_are_the_same(
        self, sdist: Path, wheel: Path, tmp_path: Path
    ) -> None:
        again = build("sdist", copy_of_sources(tmp_path), tmp_path)
        assert again.read_bytes() == sdist.read_bytes()
        (tmp_path / "other").mkdir()
        assert wheel_of(again, tmp_path / "other").read_bytes() == wheel.read_bytes()

    def test_wheel_is_small(self, wheel: Path) -> None:
        """Four fifths are kernels in C; fastsoftmax/cuda takes 25 kB."""
        assert 50_000 < wheel.stat().st_size < 926_000

    def test_wheel_has_the_metadata_of_the_sources(self, wheel: Path) -> None:
        version = importlib.metadata.version("fastsoftmax")
        folder = f"fastsoftmax-{version}.dist-info/"
        with zipfile.ZipFile(wheel) as archive:
            metadata = Parser().parsestr(archive.read(folder + "METADATA").decode())
            points = archive.read(folder + "entry_points.txt").decode()
        assert "fastsoftmax = fastsoftmax.cli.main:main" in points
        assert_metadata(metadata)
        assert metadata["Version"] == version

    def test_wheel_runs(self, wheel: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
        script = "import fastsoftmax as f; print(f.__file__, f.softmax([0.0, 0.0]))"
        printed = output(tmp_path, sys.executable, "-c", script)
        assert str(tmp_path) in printed
        assert "[0.5 0.5]" in printed
