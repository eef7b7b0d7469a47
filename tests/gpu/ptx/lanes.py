"""Which threads of a batch take part in a step.

Threads are numbered by slots: every block has a whole number of warps of 32 slots; the
slots beyond the block's threads never run.
"""

from __future__ import annotations

import functools

import numpy as np

from gpu.ptx.types import Array

WARP = 32


class Lanes:
    """Slots in ascending order; `index` selects them, as a slice where possible."""

    def __init__(self, slots: Array, size: int) -> None:
        self.slots = slots
        self.size = size
        self.count = len(slots)
        self.all = self.count == size
        first, last = int(slots[0]), int(slots[-1])
        together = last - first + 1 == self.count
        self.index: slice | Array = slice(first, last + 1) if together else slots

    def expand(self, values: Array) -> Array:
        """Give every lane its value, where one stands for all."""
        return np.broadcast_to(values, (self.count,))

    def split(self, chosen: Array) -> tuple[Lanes | None, Lanes | None]:
        """Part the lanes into those chosen and the rest; None for nobody."""
        if chosen.all():
            return self, None
        if not chosen.any():
            return None, self
        return (
            Lanes(self.slots[chosen], self.size),
            Lanes(self.slots[~chosen], self.size),
        )

    @functools.cached_property
    def warps(self) -> Array:
        return self.slots // WARP

    @functools.cached_property
    def whole_warps(self) -> bool:
        """Say whether every warp here is here with all of its 32 lanes."""
        if self.count % WARP:
            return False
        first, last = self.slots[::WARP], self.slots[WARP - 1 :: WARP]
        return bool(((first % WARP == 0) & (last - first == WARP - 1)).all())
