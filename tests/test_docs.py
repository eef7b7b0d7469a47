"""Every example in docstrings, the README and docs/ runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import fastsoftmax

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
# test_tensors.py runs the examples of libraries that need not be there.
PAGES = {README, *(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "tensors.md"}
SOURCE = "https://example.org/fastsoftmax/source/"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

if not README.exists():
    pytest.skip("needs README.md and docs/, beside tests/", allow_module_level=True)

# To be run as a program, not imported; folders.
NO_EXAMPLES = {"__main__", "cli", "cuda", "dask"}
MODULES = sorted(
    {m.name for m in pkgutil.iter_modules(fastsoftmax.__path__)} - NO_EXAMPLES
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"fastsoftmax.{name}")
    assert doctest.testmod(module).failed == 0


def test_every_public_function_has_an_example():
    for name in fastsoftmax.__all__:
        assert ">>> " in getattr(fastsoftmax, name).__doc__, name


RUNNING = [page for page in sorted(PAGES) if BLOCK.search(page.read_text())]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_pages(page, tmp_path, monkeypatch):
    """Their blocks run one after the other, as a reader would."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        run_block(block, names, f"{page.name}, python block {number + 1}")


def test_pages_have_examples():
    assert README in RUNNING
    assert len(RUNNING) >= 5


@pytest.mark.parametrize("scale", [1, 1000])
def test_training_makes_good_classifiers(scale):
    """Above 90 % of the digits that they have not been trained on, however scaled."""
    page = ROOT / "docs" / "training.md"
    (block,) = (b for b in BLOCK.findall(page.read_text()) if "load_digits" in b)
    names: dict[str, object] = {"__name__": "training"}
    scaled = block.replace("split(pixels", f"split({scale} * pixels")
    assert scaled != block
    run_block(scaled, names, "docs/training.md, the training loop")
    accuracy = names["accuracy"]
    assert accuracy.keys() == {"ranker", "classifier"}
    assert all(0.9 < share <= 1 for share in accuracy.values()), accuracy


def test_recipes_bear_large_scores(capsys):
    """A thousand times as large: no NaN, and no warning, which would be an error."""
    names: dict[str, Any] = {"__name__": "recipes"}
    for block in BLOCK.findall((ROOT / "docs" / "recipes.md").read_text()):
        for example in doctest.DocTestParser().get_examples(block):
            exec(compile(example.source, "recipes.md", "single"), names)
            name = example.source.split(" =")[0]
            if name in ("scores", "logits"):
                names[name] *= 1000
    printed = capsys.readouterr().out
    assert printed.count("array") > 8
    assert "nan" not in printed


def test_readme_can_stand_on_an_index_page():
    """Its links are absolute, and lead to files of the sources."""
    text = README.read_text()
    assert len(text.splitlines()) <= 160
    assert not re.search(r"\]\((?!https://|#)", text), "a relative link"
    links = re.findall(re.escape(SOURCE) + r"([\w./-]+)", text)
    assert links
    if (ROOT / "setup.py").exists():
        assert [link for link in links if not (ROOT / link).exists()] == []


def run_block(block: str, names: dict[str, object], label: str) -> None:
    if ">>> " not in block:
        exec(compile(block, label, "exec"), names)
        return
    example = doctest.DocTestParser().get_doctest(block, names, label, label, 0)
    runner = doctest.DocTestRunner()
    failed = runner.run(example, clear_globs=False).failed
    names.update(example.globs)
    assert failed == 0, label
