"""Every example in docstrings and in the README runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import fastsoftmax

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

# To be run as a program, not imported; folders.
NO_EXAMPLES = {"__main__", "cli", "cuda"}
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


def test_readme(tmp_path, monkeypatch):
    """Its blocks run one after the other, as a reader would."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(README.read_text())
    assert blocks, "no example in README.md"
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks):
        run_block(block, names, f"README.md, python block {number + 1}")


def test_readme_trains_good_classifiers():
    """Above 90 % of the digits that they have not been trained on."""
    (block,) = (b for b in BLOCK.findall(README.read_text()) if "load_digits" in b)
    names: dict[str, object] = {"__name__": "readme"}
    run_block(block, names, "README.md, the training loop")
    accuracy = names["accuracy"]
    assert accuracy.keys() == {"ranker", "classifier"}
    assert all(0.9 < share <= 1 for share in accuracy.values()), accuracy


def run_block(block: str, names: dict[str, object], label: str) -> None:
    if ">>> " not in block:
        exec(compile(block, label, "exec"), names)
        return
    example = doctest.DocTestParser().get_doctest(block, names, label, label, 0)
    runner = doctest.DocTestRunner()
    failed = runner.run(example, clear_globs=False).failed
    names.update(example.globs)
    assert failed == 0, label
