"""Loads and stores of a batch: where they go, what is checked, what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from gpu.ptx import traffic
from gpu.ptx.faults import Fault
from gpu.ptx.lanes import Lanes
from gpu.ptx.memory import (
    GLOBAL_BASE,
    SHARED_BASE,
    Space,
    require_aligned,
)
from gpu.ptx.races import Shadow
from gpu.ptx.types import Array

if TYPE_CHECKING:
    from gpu.ptx.machine import Batch

_RANK_SHIFT = 24
_SHARED_PADDING = 32


def load(
    batch: Batch,
    space: str,
    lanes: Lanes,
    addresses: Array,
    size: int,
    dtype: np.dtype[np.unsignedinteger],
) -> Array:
    """Return columns of elements."""
    port, offsets = _find(batch, space, lanes, addresses, size)
    return port.load(lanes.slots, offsets, size, dtype)


def store(
    batch: Batch,
    space: str,
    lanes: Lanes,
    addresses: Array,
    size: int,
    values: Array,
) -> None:
    """Store rows of elements."""
    port, offsets = _find(batch, space, lanes, addresses, size)
    port.store(lanes.slots, offsets, size, values)


def _find(
    batch: Batch, space: str, lanes: Lanes, addresses: Array, size: int
) -> tuple[Port, Array]:
    require_aligned(addresses, size)
    if batch.cluster_state.any_arrived:
        batch.cluster_state.check_no_access(lanes.slots)
    port = batch.global_port if space == "global" else batch.shared_port
    return port, port.offsets(space, lanes.slots, addresses, size)


class Port:
    """The way of a batch to one memory."""

    name = ""

    def __init__(self, batch: Batch, space: Space, shadow: Shadow) -> None:
        self.batch = batch
        self.space = space
        self.shadow = shadow

    def load(
        self,
        slots: Array,
        offsets: Array,
        size: int,
        dtype: np.dtype[np.unsignedinteger],
    ) -> Array:
        if self.batch.checks:
            blank = self.space.uninitialised(offsets, size)
            if blank.any():
                first = np.flatnonzero(blank)[0]
                self._fail(
                    "uninitialised", f"load of {size} bytes", offsets, slots, first
                )
            self._watch("load", slots, offsets, size)
        return self.space.load(offsets, size, dtype)

    def store(self, slots: Array, offsets: Array, size: int, values: Array) -> None:
        if self.batch.checks:
            self._watch("store", slots, offsets, size)
        self.space.store(offsets, size, values)

    def _watch(self, kind: str, slots: Array, offsets: Array, size: int) -> None:
        """Look for races and count."""
        batch = self.batch
        batch.order.tick()
        note = self.shadow.store if kind == "store" else self.shadow.load
        racing = note(offsets, size, batch.threads[slots], slots, batch.order)
        if racing is not None:
            first = np.flatnonzero(slots == racing[0])[0]
            what = f"a {kind} races with an access of another thread"
            self._fail(f"{self.name} race", what, offsets, slots, first)
        self.count(kind, slots, offsets, size)

    def offsets(self, space: str, slots: Array, addresses: Array, size: int) -> Array:
        raise NotImplementedError

    def count(self, kind: str, slots: Array, offsets: Array, size: int) -> None:
        raise NotImplementedError

    def where(self, offset: int) -> str:
        raise NotImplementedError

    def _fail(
        self, kind: str, what: str, offsets: Array, slots: Array, first: int
    ) -> NoReturn:
        place = self.where(int(offsets[first]))
        raise Fault(kind, f"{what}, {place}, {self.batch.describe(slots[first])}")


class GlobalPort(Port):
    name = "global"

    def offsets(self, space: str, slots: Array, addresses: Array, size: int) -> Array:
        offsets = addresses - GLOBAL_BASE
        outside = self.space.outside(offsets, size)
        if outside.any():
            first = np.flatnonzero(outside)[0]
            self._fail(
                "bounds", f"{size} bytes of global memory", offsets, slots, first
            )
        return offsets

    def count(self, kind: str, slots: Array, offsets: Array, size: int) -> None:
        self.batch.memory.note(kind, offsets, size)
        self.batch.report.add_sectors(*traffic.sectors(slots // 32, offsets, size))

    def where(self, offset: int) -> str:
        return self.batch.memory.describe(offset)


class SharedPort(Port):
    """Shared memory of all blocks of a batch, side by side."""

    name = "shared"

    def __init__(self, batch: Batch, size: int) -> None:
        self.block_bytes = size
        self.pitch = -(-(size + _SHARED_PADDING) // 32) * 32
        space = Space(self.pitch * batch.blocks)
        for start in range(0, space.size, self.pitch):
            space.open(start, start + size, initialised=False)
        super().__init__(batch, space, Shadow(space.size))

    def offsets(self, space: str, slots: Array, addresses: Array, size: int) -> Array:
        owner = slots // self.batch.stride
        if space == "shared::cluster":
            owner, addresses = self._owners(slots, owner, addresses)
        within = addresses - SHARED_BASE
        outside = (within < 0) | (within > self.block_bytes - size)
        if outside.any():
            first = np.flatnonzero(outside)[0]
            raise Fault(
                "bounds",
                f"{size} bytes at byte {int(within[first])} of {self.block_bytes} of "
                f"shared memory, {self.batch.describe(slots[first])}",
            )
        return owner * self.pitch + within

    def _owners(
        self, slots: Array, own: Array, addresses: Array
    ) -> tuple[Array, Array]:
        """Find the block that each shared::cluster address names."""
        rank = (addresses >> _RANK_SHIFT) - 1
        cluster = self.batch.cluster
        named = rank >= 0
        if (rank >= cluster).any():
            raise Fault("cluster", f"a rank beyond the cluster of {cluster} blocks")
        owner = np.where(named, own // cluster * cluster + rank, own)
        remote = owner != own
        if remote.any() and self.batch.checks:
            self.batch.cluster_state.note_remote(slots[remote], owner[remote])
        mask = (1 << _RANK_SHIFT) - 1
        return owner, np.where(named, addresses & mask, addresses)

    def count(self, kind: str, slots: Array, offsets: Array, size: int) -> None:
        self.batch.report.add_wavefronts(*traffic.wavefronts(slots, offsets, size))

    def where(self, offset: int) -> str:
        return f"byte {offset % self.pitch} of shared memory"
