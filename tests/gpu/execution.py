"""Runs the package's CUDA kernels in the interpreter, launched as the chooser says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastsoftmax.cuda import choose, source
from fastsoftmax.cuda.choose import Device, Launches, Operation
from gpu import nvrtc, ptx
from gpu.choices import take_apart

OPTIONS = source.OPTIONS
source = source.text
CARD = Device(90)

Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def kernel(name: str, arch: int, text: str | None = None) -> ptx.Kernel:
    """Compile one kernel of the package, or of another text."""
    program = nvrtc.compile(text or source(), [name], arch, "ptx", OPTIONS)
    assert not program.log.strip(), program.log
    return ptx.parse(program.code).kernels[program.lowered[name]]


class Traffic(NamedTuple):
    """How often a launch read and wrote each byte of an array."""

    reads: Array
    writes: Array


@dataclass
class Outcome:
    """What is left after the launches of one call; traffic and reports are of each."""

    memory: ptx.Memory
    launches: Launches
    reports: list[ptx.Report]
    traffic: list[dict[str, Traffic]]

    def __getitem__(self, name: str) -> Array:
        return self.memory.array(name)


@dataclass(frozen=True)
class Way:
    """How to run a kernel; `text` replaces the package's source."""

    schedule: int | None = None
    perturb: bool = False
    checks: bool = True
    arch: int = 90
    text: str | None = None


IN_ORDER = Way()


@dataclass
class Arguments:
    """Arrays of a call, [rows, n] or [rows, n, inner]; one more for each in `extra`.

    `extra` are the operation's own arguments in order: the name of an array in `reads`
    or `writes`, None for a null pointer, or a number. y may be "x" or "second": there.
    """

    x: Array
    second: Array | None = None
    y: tuple[tuple[int, ...], np.dtype[Any]] | str | None = None
    temperature: float = 1.0
    extra: Sequence[Any] = ()
    reads: dict[str, Array] | None = None
    writes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None
    shift: int = 0  # bytes that arrays begin behind a boundary


def run(
    operation: Operation,
    arguments: Arguments,
    way: Way = IN_ORDER,
    launches: Launches | None = None,
    device: Device = CARD,
) -> Outcome:
    """Launch what the chooser says, or what the caller does."""
    rows, n, inner = (*arguments.x.shape, 1)[:3]
    if launches is None:
        if arguments.y is None:
            operation = operation._replace(has_results=False)
        launches = choose.choose(
            operation,
            arguments.x.dtype.name,
            rows,
            n,
            inner,
            arguments.shift % 16 == 0,
            device,
        )
    memory = ptx.Memory()
    places = _place(memory, arguments)
    states = 0
    if launches.states:
        size = launches.states * choose.STATE_BYTES
        states = memory.add("states", np.zeros(size, np.uint8), initialised=False)
    computed = np.float64 if arguments.x.dtype == np.float64 else np.float32
    values = [
        places["x"],
        places["second"],
        places["y"],
        states,
        *map(np.int64, (rows, n, inner, launches.chunk)),
        computed(arguments.temperature),
        *(
            0 if a is None else places[a] if isinstance(a, str) else a
            for a in arguments.extra
        ),
    ]
    reports, traffic = [], []
    for number, launch in enumerate(launches.launches):
        memory.forget()
        reports.append(
            ptx.launch(
                kernel(launch.kernel, way.arch, way.text),
                memory,
                launch.grid,
                launch.block,
                values,
                launch.shared_bytes,
                schedule=None if way.schedule is None else way.schedule + number,
                perturb=way.perturb,
                checks=way.checks,
                cluster=take_apart(launch.kernel).blocks,
            )
        )
        traffic.append(
            {
                name: Traffic(memory.reads(name), memory.writes(name))
                for name in memory.buffers
            }
        )
    return Outcome(memory, launches, reports, traffic)


def _place(memory: ptx.Memory, arguments: Arguments) -> dict[str, int]:
    places = {"x": memory.add("x", arguments.x, shift=arguments.shift)}
    places["second"] = places["y"] = 0
    if arguments.second is not None:
        places["second"] = memory.add("second", arguments.second, shift=arguments.shift)
    for name, array in (arguments.reads or {}).items():
        places[name] = memory.add(name, array)
    outputs = dict(arguments.writes or {})
    if isinstance(arguments.y, str):
        places["y"] = places[arguments.y]
    elif arguments.y is not None:
        outputs["y"] = arguments.y
    for name, (shape, dtype) in outputs.items():
        blank = np.zeros(shape, dtype)
        shift = arguments.shift if name == "y" else 0
        places[name] = memory.add(name, blank, shift=shift, initialised=False)
    return places
