"""kernels/math/coefficients.h against its derivation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "fastsoftmax" / "kernels" / "math" / "coefficients.h"
TOOLS = ROOT / "tools"

pytestmark = pytest.mark.skipif(
    not (HEADER.exists() and TOOLS.exists()), reason="needs the sources"
)

if TOOLS.exists():
    sys.path.insert(0, str(TOOLS))
    import derive_coefficients as derived
    from mpmath import mp


def numbers(name: str) -> list[float]:
    """Return what the header's macro is made of: C's hexadecimal numbers."""
    text = HEADER.read_text("utf-8").replace("\\\n", " ")
    definition = re.search(rf"#define {name}\b(?:\(\w+\))?(.*)", text)
    assert definition, name
    found = re.findall(r"-?0x[0-9a-f.]+(?:p[+-]?\d+)?", definition[1])
    return [float.fromhex(a) if "p" in a else int(a, 16) for a in found]


def test_the_logarithm_of_2():
    bits = {"FS_LN2_15_F32": 15, "FS_LN2_21_F32": 21, "FS_LN2_12_F32": 12}
    bits |= {"FS_LN2_HI": 39, "FS_LN2_38": 38}
    for name, count in bits.items():
        [value] = numbers(name)
        assert np.frexp(value)[0] * 2.0**count % 1 == 0, name
    for first, rest, below in (
        ("FS_LN2_HI", "FS_LN2_LO", 96),
        ("FS_LN2_38", "FS_LN2_38_REST", 92),
        ("FS_LN2_15_F32", "FS_LN2_15_REST_F32", 43),
        ("FS_LN2_21_F32", "FS_LN2_21_REST_F32", 51),
    ):
        parts = mp.mpf(numbers(first)[0]) + numbers(rest)[0]
        assert abs(parts - mp.log(2)) < mp.mpf(2) ** -below, first
    parts = numbers("FS_LN2_12_F32") + numbers("FS_LN2_12_TO_21_F32")
    assert [sum(parts)] == numbers("FS_LN2_21_F32")
    assert numbers("FS_LOG2_E") == [float(1 / mp.log(2))]


BEST = {"EXP_TAIL_4": -32.2, "EXP_TAIL_7": -58.2, "LOG_TAIL_11": -28.2}
BEST |= {"LOG_TAIL_21": -56.2}


@pytest.mark.parametrize(("name", "stated"), BEST.items())
def test_a_polynomial_is_the_best_one_rounded(name: str, stated: float):
    name = f"FS_{name}"
    use = derived.USES[name]
    best = [float(derived.rounded(a, use.bits)) for a in derived.minimax(use)]
    assert numbers(name)[::-1] == best
    assert derived.largest_error(best, use) < mp.mpf(2) ** stated


@pytest.mark.parametrize(
    ("name", "stated"), [("FS_EXP_TAIL_6", -28.2), ("FS_EXP_TAIL_12", -60.8)]
)
def test_a_polynomial_that_was_moved_is_better_than_the_best_one_rounded(name, stated):
    use = derived.USES[name]
    tail = [mp.mpf(a) for a in numbers(name)[::-1]]
    best = [derived.rounded(a, use.bits) for a in derived.minimax(use)]
    error = derived.largest_error(tail, use)
    assert error < derived.largest_error(best, use)
    assert error < mp.mpf(2) ** stated
    assert [derived.rounded(a, use.bits) for a in tail] == tail


@pytest.mark.parametrize(
    ("suffix", "bits", "shift", "wide"), [("F32", 24, 20, 0.1), ("F64", 53, 49, 0.09)]
)
def test_the_table(suffix: str, bits: int, shift: int, wide: float):
    """Each entry is c 2^(j/8) rounded, less what the integer's own bits add."""
    [c] = numbers(f"FS_BASE_{suffix}")
    as_type, word = (np.float32, "u4") if bits == 24 else (np.float64, "u8")
    entries = numbers(f"FS_POWERS_{suffix}")
    assert len(entries) == derived.ENTRIES
    for j, (entry, power) in enumerate(
        zip(entries, derived.powers_of(mp.mpf(c)), strict=True)
    ):
        value = float(derived.rounded(power, bits))
        assert int(np.array(value, as_type).view(word)) - (j << shift) == entry
    assert derived.spread(mp.mpf(c), bits) < wide


def test_no_float_makes_a_better_table():
    """Of float32 the search is through all that there are."""
    *_, (c, _) = derived.search(24)
    assert numbers("FS_BASE_F32") == [float(c)]
