"""FASTSOFTMAX_ISA: forces the kernels of one instruction set, or says what there is."""

from __future__ import annotations

import os

import child
import numpy as np
import pytest
from oracle import SOFTMAXES
from oracle.arithmetic import assert_right, needs_wide

from fastsoftmax import _cpu

SHOW = "import fastsoftmax; fastsoftmax.show_config()"

# Lengths around every vector, unrolled loop, tile and block.
SHAPES = [(1, 1), (2, 17), (7, 2), (8, 8), (9, 33), (16, 260), (64, 16), (65, 17)]
SHAPES += [(260, 31), (300, 65), (2049, 3), (3, 2049)]

COMPUTE = """
import sys
import numpy as np
from fastsoftmax import softmax, log_softmax, logsumexp

folder = sys.argv[1]
given = np.load(folder + "/given.npz")
results = {}
for key, x in given.items():
    for function in (softmax, log_softmax, logsumexp):
        for axis in (0, 1):
            results[f"{key} {function.__name__} {axis}"] = function(x, axis=axis)
np.savez(folder + "/results.npz", **results)
"""


def test_the_suite_runs_on_the_forced_one():
    forced = os.environ.get("FASTSOFTMAX_ISA")
    assert _cpu.isa == (forced or _cpu.supported_isas[0])


def test_there_is_always_the_baseline():
    assert _cpu.supported_isas[-1] == "scalar"
    assert len(set(_cpu.supported_isas)) == len(_cpu.supported_isas)


@pytest.mark.parametrize("isa", _cpu.supported_isas)
def test_each_supported_one_is_what_show_config_reports(tmp_path, isa):
    shown = child.python(tmp_path, SHOW, FASTSOFTMAX_ISA=isa)
    line = next(line for line in shown.splitlines() if line.startswith("ISA"))
    assert line.split()[1] == isa
    assert all(name in line for name in _cpu.supported_isas)


def test_an_empty_name_chooses_the_best(tmp_path):
    shown = child.python(tmp_path, SHOW, FASTSOFTMAX_ISA="")
    assert f" {_cpu.supported_isas[0]} " in shown


@pytest.mark.parametrize("isa", ["mmx", "AVX2", "avx2,scalar", " "])
def test_an_unknown_one_is_an_import_error_naming_those_supported(tmp_path, isa):
    shown = child.attempt(tmp_path, SHOW, FASTSOFTMAX_ISA=isa)
    assert shown.returncode == 1
    message = shown.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: FASTSOFTMAX_ISA={isa!r}")
    assert message.endswith(", ".join(_cpu.supported_isas))


@needs_wide
@pytest.mark.parametrize("isa", _cpu.supported_isas)
def test_awkward_arrays_on_each(tmp_path, isa):
    rng = np.random.default_rng(0)
    given = {}
    for shape in SHAPES:
        x = rng.uniform(-90, 90, shape)
        for dtype in (np.float32, np.float64, np.float16, np.int16):
            given[f"{shape} {np.dtype(dtype)}"] = x.astype(dtype)
    np.savez(tmp_path / "given.npz", **given)
    child.python(tmp_path, COMPUTE, str(tmp_path), FASTSOFTMAX_ISA=isa)
    with np.load(tmp_path / "results.npz") as results:
        assert len(results) == 6 * len(given)
        for key, y in results.items():
            source, name, axis = key.rsplit(" ", 2)
            [oracle] = [oracle for oracle in SOFTMAXES if oracle.name == name]
            [right] = oracle.judges((given[source],), int(axis))
            assert_right(y, right, key)
