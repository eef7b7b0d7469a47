"""Runs a kernel: batches of blocks, every thread of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpu.ptx.access import GlobalPort, SharedPort
from gpu.ptx.arguments import bind_arguments, check_limits
from gpu.ptx.collectives import ClusterState, explain_stall
from gpu.ptx.faults import Fault
from gpu.ptx.lanes import WARP, Lanes
from gpu.ptx.memory import Memory
from gpu.ptx.parse import Kernel
from gpu.ptx.races import Order, Shadow
from gpu.ptx.registers import Registers
from gpu.ptx.types import Array

BATCH_THREADS = 32768
MAX_STEPS = 1_000_000
NOWHERE = -1


@dataclass
class Report:
    """What a launch did.

    Sectors are 32 bytes of global memory, counted for each request of a warp;
    wavefronts are of shared memory.
    """

    sectors: int = 0
    ideal_sectors: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0

    @property
    def conflicts(self) -> int:
        """Return the wavefronts that bank conflicts cost."""
        return self.wavefronts - self.ideal_wavefronts

    def add_sectors(self, touched: int, ideal: int) -> None:
        self.sectors += touched
        self.ideal_sectors += ideal

    def add_wavefronts(self, taken: int, ideal: int) -> None:
        self.wavefronts += taken
        self.ideal_wavefronts += ideal


@dataclass(frozen=True)
class Launch:
    """What is the same for all batches of a launch."""

    kernel: Kernel
    memory: Memory
    grid: int
    block: int
    arguments: list[Array]
    shared_bytes: int
    cluster: int
    checks: bool
    rng: np.random.Generator | None
    noise: np.random.Generator | None
    shadow: Shadow
    report: Report


def launch(
    kernel: Kernel,
    memory: Memory,
    grid: int,
    block: int,
    arguments: Sequence[object],
    shared_bytes: int = 0,
    *,
    schedule: int | None = None,
    perturb: bool = False,
    cluster: int = 1,
    checks: bool = True,
) -> Report:
    """Run a kernel of so many blocks of threads; raise Fault where it breaks a rule.

    With a `schedule`, warps and blocks run in an order drawn from that seed. `perturb`
    moves the results of approximate instructions within their error. Without `checks`,
    only bounds, alignment and registers are looked after.
    """
    cluster = check_limits(kernel, grid, block, shared_bytes, cluster)
    seed = 0 if schedule is None else schedule
    what = Launch(
        kernel,
        memory,
        grid,
        block,
        bind_arguments(kernel, arguments),
        shared_bytes,
        cluster,
        checks,
        None if schedule is None else np.random.default_rng(seed),
        np.random.default_rng([seed, 1]) if perturb else None,
        Shadow(memory.space.size if checks else 0),
        Report(),
    )
    with np.errstate(all="ignore"):
        for numbers in _batches(what):
            Batch(what, numbers).run()
    return what.report


def _batches(what: Launch) -> Iterator[Array]:
    """Yield the numbers of the blocks that run at a time; clusters stay together."""
    warps = -(-what.block // WARP)
    clusters = np.arange(what.grid // what.cluster)
    if what.rng is not None:
        clusters = what.rng.permutation(clusters)
    at_once = max(1, BATCH_THREADS // (warps * WARP) // what.cluster)
    for start in range(0, len(clusters), at_once):
        first = clusters[start : start + at_once, None] * what.cluster
        yield (first + np.arange(what.cluster)).ravel()


class Batch:
    """The state of all threads of some blocks."""

    def __init__(self, what: Launch, block_numbers: Array) -> None:
        self.what = what
        self.kernel = what.kernel
        self.memory = what.memory
        self.report = what.report
        self.checks = what.checks
        self.noise = what.noise
        self.cluster = what.cluster
        self.arguments = what.arguments
        self.block_numbers = block_numbers
        self.blocks = len(block_numbers)
        self.block_threads = what.block
        self.stride = -(-self.block_threads // WARP) * WARP
        self.size = self.blocks * self.stride
        self._place_threads()
        registers = what.kernel.registers
        self.registers = Registers(list(registers.values()), list(registers), self.size)
        self.order = Order(self.size, self.stride, what.cluster)
        self.cluster_state = ClusterState(self)
        self.global_port = GlobalPort(self, what.memory.space, what.shadow)
        shared = what.kernel.dynamic_offset if what.shared_bytes else 0
        shared = shared + what.shared_bytes or what.kernel.shared_bytes
        self.shared_port = SharedPort(self, shared)
        self.scheduler = Scheduler(self)
        self.steps = 0

    def _place_threads(self) -> None:
        slots = np.arange(self.size)
        within = slots % self.stride
        block = self.block_numbers[slots // self.stride]
        self.present = within < self.block_threads
        self.threads = block * self.stride + within
        self.runnable = self.present.copy()
        self.running = int(self.present.sum())
        self.exited = np.zeros(self.size, np.bool_)
        self.place = np.zeros(self.size, np.int64)
        self.parked = np.full(self.size, NOWHERE, np.int64)
        self.masks = np.zeros(self.size, np.uint32)
        self.special = {
            "%tid.x": within.astype(np.uint32),
            "%ctaid.x": block.astype(np.uint32),
            "%ntid.x": np.array([self.block_threads], np.uint32),
        }

    def describe(self, slot: int) -> str:
        """Name a thread for a message."""
        number = self.block_numbers[int(slot) // self.stride]
        return f"block {number}, thread {int(slot) % self.stride}"

    # How threads go on

    def move(self, lanes: Lanes, place: int) -> None:
        self.place[lanes.index] = place

    def park(self, lanes: Lanes, place: int) -> None:
        self.parked[lanes.index] = place
        self.runnable[lanes.index] = False
        self.running -= lanes.count

    def resume(self, slots: Array, place: int) -> None:
        self.parked[slots] = NOWHERE
        self.place[slots] = place
        self.runnable[slots] = True
        self.running += len(slots)

    def exit(self, lanes: Lanes) -> None:
        if self.checks and self.cluster > 1:
            self.cluster_state.check_exit(lanes.slots)
        self.exited[lanes.index] = True
        self.runnable[lanes.index] = False
        self.running -= lanes.count

    def run(self) -> None:
        while self.running:
            self._count_step()
            self._step(*self.scheduler.choose())
        if not (self.exited == self.present).all():
            raise explain_stall(self)

    def _count_step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Fault("limits", f"more than {MAX_STEPS} steps in {self.kernel.name}")

    def _step(self, lanes: Lanes, place: int) -> None:
        """Run lanes until they wait, part, end or may meet others."""
        code, stay = self.kernel.code, self.scheduler.may_stay
        here = place
        try:
            while True:
                if place >= len(code):
                    self.exit(lanes)
                    return
                here, instruction = place, code[place]
                if instruction.execute is not None:
                    instruction.execute(self, lanes)
                    place = here + 1
                else:
                    place = instruction.control(self, lanes, here)
                    if place < 0:
                        return
                if place < len(code) and code[place].leader:
                    if not stay(lanes):
                        self.move(lanes, place)
                        return
                    self._count_step()
        except Fault as fault:
            statement = code[here].statement
            raise fault.at(f"{self.kernel.name}: {statement.text}") from None


class Scheduler:
    """Chooses which lanes run next.

    Without a seed, those furthest behind: lanes that parted meet again as early as they
    can. With one: at random, half of the time with some warps or blocks always first.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rng = batch.what.rng
        self.priority: Array | None = None
        if self.rng is not None and self.rng.random() < 0.5:
            unit = WARP if self.rng.random() < 0.5 else batch.stride
            classes = self.rng.integers(0, 6, batch.size // unit)
            self.priority = np.repeat(classes, unit)

    def may_stay(self, lanes: Lanes) -> bool:
        return self.rng is None and lanes.count == self.batch.running

    def choose(self) -> tuple[Lanes, int]:
        batch = self.batch
        ready = np.flatnonzero(batch.runnable)
        if self.priority is not None:
            priority = self.priority[ready]
            ready = ready[priority == priority.max()]
        places = batch.place[ready]
        place = int(places.min())
        if self.rng is not None and self.rng.random() < 0.5:
            place = int(self.rng.choice(np.unique(places)))
        chosen = ready[places == place]
        if self.rng is not None and self.rng.random() < 0.3:
            chosen = self._some_warps(chosen)
        return Lanes(chosen, batch.size), place

    def _some_warps(self, slots: Array) -> Array:
        assert self.rng is not None
        keep = self.rng.random(self.batch.size // WARP) < 0.5
        some = slots[keep[slots // WARP]]
        return some if len(some) else slots
