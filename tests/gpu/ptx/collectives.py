"""Instructions that threads must meet at: barriers and shuffles.

A control function takes the batch, the lanes and where the instruction is; it returns
where the lanes go on, or STOP when the scheduler has to choose anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpu.ptx.faults import Fault
from gpu.ptx.lanes import WARP, Lanes
from gpu.ptx.operands import Operands, unknown
from gpu.ptx.races import SAME_BLOCK, SAME_CLUSTER
from gpu.ptx.types import Array

if TYPE_CHECKING:
    from gpu.ptx.machine import Batch
    from gpu.ptx.parse import Statement

Control = Callable[["Batch", Lanes, int], int]
STOP = -1
FULL_MASK = 0xFFFFFFFF
_BITS = np.uint32(1) << np.arange(WARP, dtype=np.uint32)


class ClusterState:
    """Who has arrived at a cluster barrier, and who used the memory of other blocks."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.arrived = np.zeros(batch.size, np.bool_)
        self.published = np.zeros(batch.size, np.bool_)
        self.any_arrived = False
        self.used = np.zeros(batch.blocks, np.int64)

    def arrive(self, slots: Array, publishes: bool) -> None:
        if self.arrived[slots].any():
            raise Fault("cluster", "a thread arrives twice without waiting")
        self.arrived[slots] = True
        self.published[slots] = publishes
        self.any_arrived = True

    def leave(self, slots: Array) -> None:
        self.arrived[slots] = False
        self.any_arrived = bool(self.arrived.any())

    def check_no_access(self, slots: Array) -> None:
        """What comes between is not ordered; arriving relaxed, nothing need be."""
        late = self.arrived[slots] & self.published[slots]
        if self.batch.checks and late.any():
            raise Fault("cluster", "memory is used between arrive and wait")

    def note_remote(self, slots: Array, owners: Array) -> None:
        """Another block's memory is there from the first barrier of the cluster on,
        and until its threads exit."""
        batch = self.batch
        if (batch.order.synced[SAME_CLUSTER, slots] == 0).any():
            raise Fault(
                "cluster",
                "shared memory of another block is used before the first barrier of "
                f"the cluster, {batch.describe(slots[0])}",
            )
        gone = batch.exited.reshape(batch.blocks, -1)[owners].any(axis=1)
        if gone.any():
            self._fail(int(owners[gone][0]))
        self.used[owners] = batch.order.time + 1

    def check_exit(self, slots: Array) -> None:
        """A block must not end while another may still use its memory."""
        owners = slots // self.batch.stride
        used = self.used[owners]
        late = (used > 0) & (used >= self.batch.order.synced[SAME_CLUSTER, slots])
        if late.any():
            self._fail(int(owners[late][0]))

    def _fail(self, owner: int) -> None:
        raise Fault(
            "exited",
            f"shared memory of block {self.batch.block_numbers[owner]} is used by "
            "another block, and it may have ended by then",
        )


def block_barrier(batch: Batch, lanes: Lanes, here: int) -> int:
    """Wait for all threads of the block."""
    batch.park(lanes, here)
    waiting = (batch.parked == here).reshape(batch.blocks, batch.stride)
    ready = (waiting.sum(axis=1) == batch.block_threads).nonzero()[0]
    if len(ready):
        _release(batch, ready, 1, here, SAME_BLOCK)
    return STOP


def _release(batch: Batch, groups: Array, blocks: int, here: int, level: int) -> Array:
    """Let groups of blocks go on, ordered by the barrier."""
    together = batch.present.reshape(-1, blocks * batch.stride)
    slots = np.arange(batch.size).reshape(together.shape)[groups][together[groups]]
    batch.order.synchronise(level, slots)
    batch.resume(slots, here + 1)
    return slots


def cluster_arrive(batch: Batch, lanes: Lanes, here: int) -> int:
    words = batch.kernel.code[here].statement.opcode.split(".")
    batch.cluster_state.arrive(lanes.slots, "relaxed" not in words)
    return here + 1


def cluster_wait(batch: Batch, lanes: Lanes, here: int) -> int:
    """Wait for all threads of the cluster, each of which must have arrived."""
    if not batch.cluster_state.arrived[lanes.slots].all():
        raise Fault("cluster", "barrier.cluster.wait without arrive")
    batch.park(lanes, here)
    width = batch.cluster * batch.stride
    waiting = (batch.parked == here).reshape(-1, width).sum(axis=1)
    ready = (waiting == batch.cluster * batch.block_threads).nonzero()[0]
    if len(ready):
        slots = _release(batch, ready, batch.cluster, here, SAME_CLUSTER)
        batch.cluster_state.leave(slots)
    return STOP


def shuffle(operands: Operands, statement: Statement) -> Control:
    """Bind what the lanes named in a mask execute together: each reads another's."""
    result, value, by, clamp, lanes_mask = statement.operands
    target, _, predicate = result.partition("|")
    write = operands.target(target.strip(), "b32")
    note = operands.target(predicate.strip() or "_", "pred")
    read, read_by = operands.gatherer(value), operands.source(by, "u32")
    read_clamp = operands.source(clamp, "u32")
    read_mask = operands.source(lanes_mask, "u32")

    def exchange(batch: Batch, lanes: Lanes, masks: Array) -> None:
        if (read_clamp(batch, lanes) != WARP - 1).any():
            raise unknown("a shuffle in a part of the warp")
        own = lanes.slots % WARP
        source = own ^ (read_by(batch, lanes).astype(np.int64) & 31)
        slots = lanes.slots - own + source
        named = masks >> source.astype(np.uint32) & 1 == 1
        alone = ~(named & batch.present[slots])
        if alone.any():
            slot = lanes.slots[alone][0]
            raise Fault(
                "shuffle", f"reads a lane that takes no part, {batch.describe(slot)}"
            )
        write(batch, lanes, np.copy(read(batch, slots)))
        note(batch, lanes, np.ones(1, np.bool_))

    def control(batch: Batch, lanes: Lanes, here: int) -> int:
        mask = read_mask(batch, lanes)
        if lanes.whole_warps and (mask == FULL_MASK).all():
            exchange(batch, lanes, lanes.expand(mask))
            return here + 1
        _check_own_bit(batch, lanes, mask)
        batch.masks[lanes.slots] = mask
        batch.park(lanes, here)
        done = _complete(batch, np.unique(lanes.warps), here)
        if len(done):
            group = Lanes(done, batch.size)
            exchange(batch, group, batch.masks[done])
            batch.resume(done, here + 1)
        return STOP

    return control


def _check_own_bit(batch: Batch, lanes: Lanes, mask: Array) -> None:
    outside = lanes.expand(mask) >> (lanes.slots % WARP).astype(np.uint32) & 1 == 0
    if outside.any():
        slot = lanes.slots[outside][0]
        raise Fault(
            "shuffle", f"the mask lacks the lane itself, {batch.describe(slot)}"
        )


def _complete(batch: Batch, warps: Array, here: int) -> Array:
    """Return the slots whose whole group waits here with the same mask."""
    waiting = batch.parked.reshape(-1, WARP)[warps] == here
    masks = batch.masks.reshape(-1, WARP)[warps]
    present = _pack(batch.present.reshape(-1, WARP)[warps])
    alike = (masks[:, :, None] == masks[:, None, :]) & waiting[:, None, :]
    done = waiting & (_pack(alike) == (masks & present[:, None]))
    return (warps[:, None] * WARP + np.arange(WARP))[done]


def _pack(bits: Array) -> Array:
    """Turn the last axis, 32 booleans, into a mask."""
    return np.where(bits, _BITS, np.uint32(0)).sum(axis=-1, dtype=np.uint32)


def barrier(operands: Operands, statement: Statement) -> Control:
    words = statement.opcode.split(".")
    if words[1] == "cluster":
        return cluster_arrive if words[2] == "arrive" else cluster_wait
    if len(statement.operands) != 1 or not statement.operands[0].isdigit():
        raise unknown(f"{statement.text}: a barrier of a part of the block")
    return block_barrier


def _innermost(batch: Batch, slots: Array) -> int:
    """Return a thread that waits for its warp, if there is one."""
    code = batch.kernel.code
    for place in np.unique(batch.parked[slots]):
        if code[place].statement.opcode.startswith("shfl"):
            return int(slots[batch.parked[slots] == place][0])
    return int(slots[0])


def explain_stall(batch: Batch) -> Fault:
    """Say why the threads that wait will wait for ever."""
    slot = _innermost(batch, np.flatnonzero(batch.parked >= 0))
    statement = batch.kernel.code[batch.parked[slot]].statement
    words = statement.opcode.split(".")
    if "cluster" in words:
        kind, unit = "cluster", batch.cluster * batch.stride
    elif words[0] == "bar":
        kind, unit = "barrier", batch.stride
    else:
        kind, unit = "shuffle", WARP
    group = slice(slot // unit * unit, (slot // unit + 1) * unit)
    exited = int((batch.exited & batch.present)[group].sum())
    places = np.unique(batch.parked[group][batch.parked[group] >= 0])
    others = [batch.kernel.code[place].statement.text for place in places[1:]]
    reasons = [f"{exited} have exited"] if exited else []
    reasons += [f"others wait at {text!r}" for text in others]
    why = ", ".join(reasons) or "others have other masks"
    return Fault(kind, f"threads wait at {statement.text!r} for ever: {why}").at(
        f"{batch.kernel.name}, {batch.describe(slot)}"
    )
