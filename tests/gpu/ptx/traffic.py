"""What a request of a warp costs: sectors of global, wavefronts of shared memory."""

from __future__ import annotations

import numpy as np

from gpu.ptx.lanes import WARP
from gpu.ptx.types import Array

SECTOR = 32
BANKS = 32
BANK_BYTES = 4


def _distinct(groups: Array, values: Array) -> Array:
    """Return the group of each distinct (group, value); groups ascend."""
    if len(groups) > 1:
        step = np.diff(values)
        same = np.diff(groups) == 0
        if (step[same] < 0).any():
            order = np.lexsort((values, groups))
            groups, values = groups[order], values[order]
            step, same = np.diff(values), np.diff(groups) == 0
        return groups[np.concatenate(([True], (step != 0) | ~same))]
    return groups


def sectors(warps: Array, offsets: Array, size: int) -> tuple[int, int]:
    """Return the sectors that requests touch, and the fewest for the same bytes."""
    touched = len(_distinct(warps, offsets // SECTOR))
    elements = np.bincount(_distinct(warps, offsets))
    ideal = int((-(-elements * size // SECTOR)).sum())
    return touched, ideal


def wavefronts(slots: Array, offsets: Array, size: int) -> tuple[int, int]:
    """Return the wavefronts that requests take, and the fewest.

    A warp is served in parts of 128 bytes: 32 lanes of up to 4 bytes, 16 lanes of 8,
    8 lanes of 16. A part takes as many wavefronts as the worst bank has distinct words.
    """
    lanes = WARP // max(1, size // BANK_BYTES)
    parts = slots // lanes
    words = offsets // BANK_BYTES
    starts = np.flatnonzero(np.concatenate(([True], parts[1:] != parts[:-1])))
    lowest = np.minimum.reduceat(words, starts)
    highest = np.maximum.reduceat(words, starts) + max(1, size // BANK_BYTES) - 1
    if (highest - lowest < BANKS).all():
        return len(starts), len(starts)
    words = words[:, None] + np.arange(max(1, size // BANK_BYTES))
    part = np.cumsum(np.concatenate(([False], parts[1:] != parts[:-1])))
    keys = (part[:, None] << 40 | words).ravel()
    distinct = np.unique(keys)
    bank = (distinct >> 40) * BANKS + (distinct & (BANKS - 1))
    counts = np.bincount(bank, minlength=len(starts) * BANKS)
    return int(counts.reshape(-1, BANKS).max(axis=1).sum()), len(starts)
