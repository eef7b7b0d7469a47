"""Bugs seeded in the CUDA source are caught, and changes that are none are not."""

from __future__ import annotations

import pytest

from gpu import nvrtc
from gpu.mutants import BUGS, LEGAL, Mutant
from gpu.mutation import CASES, fault_of

# What catches some of them: that each check catches something is no accident.
CAUGHT_BY = {
    "columns: an even length": "conflicts",
    "rows: each lane reads its own neighbours": "sectors",
    "tile: rows are read before they are there": "shared race",
    "rows: lanes without elements leave": "shuffle",
    "columns: one beyond the last column": "bounds",
    "tile: rows beyond the last one": "uninitialised",
    "cluster: blocks need not have begun": "first barrier",
    "rows: results in the frame of the thread": "ULP off",
}

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)


@pytest.mark.parametrize("name", list(CASES))
def test_nothing_is_wrong_with_the_kernels_themselves(name: str) -> None:
    assert fault_of(name) is None


@pytest.mark.parametrize("mutant", BUGS, ids=lambda mutant: mutant.name)
def test_bugs_are_caught(mutant: Mutant) -> None:
    fault = fault_of(mutant.case, mutant.text())
    assert fault is not None
    assert CAUGHT_BY.get(mutant.name, "") in fault


def test_what_catches_them_is_stated_of_bugs() -> None:
    assert set(CAUGHT_BY) <= {mutant.name for mutant in BUGS}


@pytest.mark.parametrize("mutant", LEGAL, ids=lambda mutant: mutant.name)
def test_other_changes_are_not(mutant: Mutant) -> None:
    assert fault_of(mutant.case, mutant.text()) is None
