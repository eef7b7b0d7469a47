"""Takes turns: one process for each library, blocks of calls in rotating order."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from . import ROOT
from .cases import Case
from .peers import LIMITS, environment

# Beyond this, three rounds must do.
HUGE = 1 << 24
# A library is said to be busy beyond its threads when it uses so many processors more.
EXTRA_PROCESSORS = 0.3


@dataclass(frozen=True)
class Settings:
    """How long is measured."""

    rounds: int = 7
    block_seconds: float = 0.01
    pause_seconds: float = 0.003


@dataclass
class Cell:
    """What was measured of a case: per library seconds a call, and their spread.

    The spread is the range between the quartiles of the blocks, over their median.
    `busy` holds how many processors a library used, where that is more than it should.
    """

    case: Case
    times: dict[str, tuple[float, float]] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)


# Where processes cannot be stopped, idle threads may spin on for so many seconds.
SPINNING = 0 if hasattr(signal, "SIGSTOP") else 0.05


class Process:
    """The process of one library with a number of threads.

    It is stopped while others have their turns: idle threads of some libraries spin for
    up to 40 ms, which would slow down whoever comes next.
    """

    def __init__(self, library: str, threads: int, seconds: float) -> None:
        self.library = library
        self.dead = ""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", library, str(threads), str(seconds)],
            cwd=ROOT,
            env=environment(library, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def send(self, *request: Any) -> None:
        """Ask for something."""
        assert self.child.stdin is not None
        self._signal("SIGCONT")
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            pass

    def receive(self) -> dict[str, Any]:
        """Wait for the answer; one without a process says why there is none."""
        assert self.child.stdout is not None
        line = "" if self.dead else self.child.stdout.readline()
        if line:
            self._signal("SIGSTOP")
            reply: dict[str, Any] = json.loads(line)
            return reply
        self.dead = self.dead or self._last_words()
        return {"failed": self.dead}

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.child.send_signal(getattr(signal, name))

    def _last_words(self) -> str:
        code = self.child.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return f"its process ended ({code}): {(lines or ['no message'])[-1][:200]}"

    def close(self) -> None:
        """End the process."""
        self.child.kill()
        self.child.communicate()
        self.errors.close()


class Session:
    """All libraries with one number of threads."""

    def __init__(
        self, libraries: Iterable[str], threads: int, settings: Settings
    ) -> None:
        self.threads = threads
        self.settings = settings
        seconds = settings.block_seconds
        self.processes = [Process(name, threads, seconds) for name in libraries]
        self.absent: dict[str, str] = {}

    def __enter__(self) -> Session:
        for process in list(self.processes):
            reply = process.receive()
            if "failed" in reply:
                self.absent[process.library] = reply["failed"]
                self.processes.remove(process)
                process.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.close()

    def measure(self, case: Case) -> Cell:
        """Let every library that can do the case have its turns."""
        cell = Cell(case)
        ready = self._prepare(case, cell)
        blocks: dict[str, list[float]] = {process.library: [] for process in ready}
        busy: dict[str, list[float]] = {process.library: [] for process in ready}
        rounds = min(self.settings.rounds, 3) if case.size > HUGE else None
        for turn in range(rounds or self.settings.rounds):
            first = turn % len(ready) if ready else 0
            for process in ready[first:] + ready[:first]:
                reply = self._block(process)
                if "failed" in reply:
                    cell.failed[process.library] = reply["failed"]
                else:
                    blocks[process.library].append(reply["seconds"])
                    busy[process.library].append(reply.get("busy", 0.0))
        for name, values in blocks.items():
            if values and name not in cell.failed:
                cell.times[name] = (statistics.median(values), _spread(values))
                processors = statistics.median(busy[name])
                if processors > case.threads + EXTRA_PROCESSORS:
                    cell.busy[name] = round(processors, 1)
        return cell

    def _prepare(self, case: Case, cell: Cell) -> list[Process]:
        for process in self.processes:
            process.send("prepare", case.name)
        ready = []
        for process in self.processes:
            reply = process.receive()
            if "unsupported" in reply:
                cell.unsupported[process.library] = reply["unsupported"]
            elif "failed" in reply:
                cell.failed[process.library] = reply["failed"]
            else:
                ready.append(process)
        return ready

    def _block(self, process: Process) -> dict[str, Any]:
        time.sleep(self.settings.pause_seconds + SPINNING)
        process.send("block")
        return process.receive()

    def errors(self, op: str, dtype: str) -> dict[str, dict[str, list[float]]]:
        """Return the errors of every library, by kind of input."""
        found = {}
        peers = [one for one in self.processes if one.library not in LIMITS]
        for process in peers:
            process.send("errors", op, dtype)
        for process in peers:
            errors = process.receive().get("errors")
            if errors:
                found[process.library] = errors
        return found


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)
