"""Data races: who touched which bytes when, and what ordered it.

Threads are numbered over the whole grid, by slots. Two accesses to the same bytes, one
of them a store, must be of one thread or ordered by a barrier that both threads share:
of their block or their cluster. That is judged from the barriers passed, so
it does not depend on the schedule that happened to run.
"""

from __future__ import annotations

import numpy as np

from gpu.ptx.types import Array

SAME_THREAD, SAME_BLOCK, SAME_CLUSTER, ELSEWHERE = range(4)
_NOBODY = -1
_COARSEST = 32


class Order:
    """When each slot of a batch last passed a barrier of its block, cluster."""

    def __init__(self, size: int, stride: int, cluster: int) -> None:
        self.units = (1, stride, stride * cluster)
        self.time = 1
        self.synced = np.zeros((4, size), np.int64)
        self.synced[SAME_THREAD] = np.iinfo(np.int64).max
        self.synced[ELSEWHERE] = -1

    def tick(self) -> int:
        self.time += 1
        return self.time

    def synchronise(self, level: int, slots: Array) -> None:
        """Order what these threads did before what they do from now on."""
        now = self.tick()
        for narrower in range(SAME_BLOCK, level + 1):
            self.synced[narrower, slots] = now

    def level(self, a: Array, b: Array) -> Array:
        """Return the narrowest group that both threads belong to."""
        level = (a != b).astype(np.int8)
        for unit in self.units[1:]:
            level += a // unit != b // unit
        return level

    def ordered(self, level: Array, time: Array, slots: Array) -> Array:
        """Say whether an access by such a neighbour comes before now."""
        return time < self.synced[level, slots]


class Shadow:
    """Last writer and readers of the units of a memory.

    A unit is the smallest access seen so far: every access covers whole units. Of
    several readers the last is kept, with the level of the group that holds them all.
    """

    def __init__(self, size: int) -> None:
        self.grain = _COARSEST
        count = -(-size // _COARSEST)
        self.writer = np.full(count, _NOBODY, np.int64)
        self.written = np.zeros(count, np.int64)
        self.reader = np.full(count, _NOBODY, np.int64)
        self.read = np.zeros(count, np.int64)
        self.level = np.zeros(count, np.int8)

    def _refine(self, size: int) -> None:
        factor = self.grain // size
        for name in ("writer", "written", "reader", "read", "level"):
            setattr(self, name, np.repeat(getattr(self, name), factor))
        self.grain = size

    def _units(
        self, offsets: Array, size: int, *owners: Array
    ) -> tuple[Array, list[Array]]:
        """Return the units of every access, and owners repeated to match."""
        if size < self.grain:
            self._refine(size)
        count = size // self.grain
        first = offsets // self.grain
        if count == 1:
            return first, list(owners)
        units = (first[:, None] + np.arange(count)).ravel()
        return units, [np.repeat(owner, count) for owner in owners]

    def load(
        self, offsets: Array, size: int, threads: Array, slots: Array, order: Order
    ) -> Array | None:
        """Note a load; return the slots whose load races with a store, None if none."""
        units, (threads, slots) = self._units(offsets, size, threads, slots)
        racing = self._after_write(units, threads, slots, order)
        if racing is not None and racing.any():
            return slots[racing]
        self._note_readers(units, threads, slots, order)
        return None

    def store(
        self, offsets: Array, size: int, threads: Array, slots: Array, order: Order
    ) -> Array | None:
        """Note a store; return the slots that race with an access, None if none."""
        units, (threads, slots) = self._units(offsets, size, threads, slots)
        for racing in (
            self._after_write(units, threads, slots, order),
            self._after_read(units, threads, slots, order),
        ):
            if racing is not None and racing.any():
                return slots[racing]
        self.writer[units] = threads
        self.written[units] = order.time
        self.reader[units] = _NOBODY
        beaten = self.writer[units] != threads
        return slots[beaten] if beaten.any() else None

    def _after_write(
        self, units: Array, threads: Array, slots: Array, order: Order
    ) -> Array | None:
        writer = self.writer[units]
        foreign = (writer != threads) & (writer != _NOBODY)
        if not foreign.any():
            return None
        level = order.level(writer, threads)
        return foreign & ~order.ordered(level, self.written[units], slots)

    def _after_read(
        self, units: Array, threads: Array, slots: Array, order: Order
    ) -> Array | None:
        reader, group = self.reader[units], self.level[units]
        foreign = (reader != _NOBODY) & ((reader != threads) | (group > 0))
        if not foreign.any():
            return None
        level = np.maximum(order.level(reader, threads), group)
        return foreign & ~order.ordered(level, self.read[units], slots)

    def _note_readers(
        self, units: Array, threads: Array, slots: Array, order: Order
    ) -> None:
        """Readers that are not ordered before this one share the unit with it."""
        racing = self._after_read(units, threads, slots, order)
        group = np.zeros(len(units), np.int8)
        if racing is not None:
            together = order.level(self.reader[units], threads)
            together = np.maximum(together, self.level[units])
            group = np.where(racing, together, group)
        self.reader[units] = threads
        self.read[units] = order.time
        self.level[units] = group
        last = self.reader[units]
        beaten = last != threads
        if beaten.any():
            together = order.level(last[beaten], threads[beaten])
            together = np.maximum(together, group[beaten])
            np.maximum.at(self.level, units[beaten], together)
