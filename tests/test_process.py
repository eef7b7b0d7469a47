"""What the package does to the process around it: nothing that a user would notice."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import child
import numpy as np
import pytest
from kernel_driver import DRIVER, FLAGS, KERNELS, need, run

import fastsoftmax
from fastsoftmax import _cpu

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets limits")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

PRELUDE = """
import gc, mmap, os, re, resource, signal, sys, threading, time
import numpy as np
import fastsoftmax
from fastsoftmax import log_softmax, logsumexp, softmax

fastsoftmax._cpu.share_always(True)

def peak():
    # In MB; ru_maxrss would still hold what the parent had when it forked.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) // 1024

def leave(megabytes):
    # Limits the address space to that much more than it is now.
    with open("/proc/self/statm") as sizes:
        now = int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20), -1))

def works():
    x = np.zeros((256, 1024), np.float32)
    return bool((softmax(x, axis=-1) == 1 / 1024).all())
"""


def python(folder: Path, script: str, **options: Any) -> str:
    """Return what a script printed that knows PRELUDE."""
    return child.python(folder, PRELUDE + script, **options)


# ---- the floating-point unit ----

# Every thread has its own control register; a new one inherits its maker's.
SUBNORMALS = """
def kept():
    halves = np.array([1e-310, -1e-310]) / 2, np.array([1e-40], np.float32) / 2
    return all((half != 0).all() for half in halves)

def kept_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(kept()))
    thread.start()
    thread.join()
    return found == [True]

def kept_by(threads):
    fastsoftmax.set_num_threads(threads)
    x = np.tile(np.array([-95, 0], np.float32), (1 << 19, 1))
    long = np.zeros(1 << 20)
    long[::2] = -720
    return (softmax(x, axis=-1)[:, 0] > 0).all() and (softmax(long) > 0).all()

assert kept() and kept_in_a_thread()
assert all(kept_by(threads) for threads in (1, 2, 3))
assert kept() and kept_in_a_thread()
"""


def test_subnormals_survive_import_and_calls(tmp_path: Path) -> None:
    python(tmp_path, SUBNORMALS)


def test_import_and_calls_leave_the_floating_point_modes(tmp_path: Path) -> None:
    script = """
rounded = [x * 0.1 for x in range(100)]
with np.errstate(all="raise"):
    logsumexp(np.linspace(-800, 800, 1000))
    log_softmax(np.linspace(-800, 800, 1000))
    for threads in (1, 2):
        fastsoftmax.set_num_threads(threads)
        softmax(np.linspace(-800, 800, 1 << 20))
    np.sqrt(2.0)
assert rounded == [x * 0.1 for x in range(100)]
assert 1e308 * 10 == np.inf and np.exp(np.float32(-100)) > 0
"""
    python(tmp_path, script)


# ---- the compiled file ----


def objdump(*options: str) -> list[str]:
    """Return what objdump says of the extension module, line by line."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump here")
    command = ["objdump", *options, _cpu.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def sources() -> dict[int, str]:
    """Return the source file of each function, by address; of local ones alone."""
    found = {}
    source = ""
    for line in objdump("-t"):
        symbol = re.fullmatch(r"([0-9a-f]+) l.{4}([ dfF]{2}) (\S+)\s+\S+ +(.+)", line)
        if symbol and symbol[2] == "df":
            source = symbol[4]
        elif symbol and symbol[2] == " F":
            found[int(symbol[1], 16)] = source
    return found


def instructions() -> Iterator[tuple[int, str, str]]:
    """Yield each instruction after the address and the name of its function."""
    address, name = 0, ""
    for line in objdump("-d", "--no-show-raw-insn"):
        head = re.fullmatch(r"([0-9a-f]+) <(.+)>:", line)
        if head:
            address, name = int(head[1], 16), head[2]
        elif "\t" in line:
            yield address, name, line.split("\t", 1)[1]


@linux
def test_no_instruction_sets_the_floating_point_modes() -> None:
    assert not [found for found in instructions() if "ldmxcsr" in found[2]]


@linux
def test_baseline_uses_no_wide_register() -> None:
    if not any("x86-64" in line for line in objdump("-f")):
        pytest.skip("not compiled for x86-64")
    source = sources()
    if "scalar_f32.c" not in source.values():
        pytest.skip("the names of the sources were stripped")
    wide: dict[str, dict[str, str]] = {}
    for address, function, instruction in instructions():
        if re.search(r"%[yz]mm|%k[0-7]|^v[a-z]", instruction):
            file = source.get(address, "global")
            wide.setdefault(file, {}).setdefault(function, instruction)
    for unit in ("avx2_f32.c", "avx2_f64.c", "avx512_f32.c", "avx512_f64.c"):
        assert wide.pop(unit), "the check found no wide code at all"
    shared = wide.pop(" ", {})  # what one unit calls of another: its name says the ISA
    assert all(name.endswith(("_avx2", "_avx512")) for name in shared)
    assert not wide


# ---- Ctrl-C ----

# Each would take from some seconds to hours, in almost no memory but for the results.
JOBS = {
    "rows": "logsumexp(np.broadcast_to(np.zeros(4096), (1 << 26, 4096)), axis=-1)",
    "short rows": "logsumexp(np.broadcast_to(np.zeros(8), (1 << 28, 8)), axis=-1)",
    "long row": "logsumexp(np.broadcast_to(0.0, 1 << 36))",
    "halves": "logsumexp(np.broadcast_to(np.float16(0), 1 << 36))",
    "columns": "logsumexp(np.broadcast_to(np.zeros(64), (1 << 30, 64)), axis=0)",
    "tiles": "logsumexp(np.broadcast_to(np.zeros(4096), (1 << 25, 4096)), axis=0)",
    "weights": "logsumexp(np.broadcast_to(0.0, 1 << 33), b=np.ones(()))",
    "weights that cancel": "logsumexp(0.0, b=np.broadcast_to([1.0, -1], (1 << 28, 2)))",
    # Without `out` the result would lie as x does, each row in 64 fresh huge pages.
    "softmax, rows": "softmax(np.broadcast_to(np.zeros(64), (1 << 23, 64)), axis=-1, "
    "out=np.empty((1 << 23, 64)))",
    "softmax, long row": "softmax(np.broadcast_to(0.0, 1 << 29))",
    "softmax, columns": "softmax(np.broadcast_to(np.zeros(64), (1 << 23, 64)), axis=0)",
    "check of labels": "fastsoftmax.hinge_loss("
    "np.broadcast_to(np.zeros(2), (1 << 27, 2)), np.zeros(1 << 27, np.int8))",
}
TWICE = ("rows", "long row", "columns")  # with one thread, too

INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may have it ignored
fastsoftmax.set_num_threads({threads})
assert works()
print("ready", flush=True)
try:
    {job}
except KeyboardInterrupt:
    print("stopped at", time.monotonic(), flush=True)
    assert works()
    try:
        time.sleep(0.01)
    except KeyboardInterrupt:
        raise SystemExit("the interrupt came twice")
    print("and works")
else:
    print("was not stopped")
"""


@contextmanager
def running(folder: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script beside the test, which then talks to it; end it at last."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        cwd=folder,
        env=child.environment(FASTSOFTMAX_ISA="scalar"),  # slow: jobs that last
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str], after: float) -> tuple[float, str]:
    """Interrupt a child some seconds after it is ready; return when, and its output."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        output, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        pytest.fail("the job went on for 10 seconds")
    assert process.returncode == 0, errors
    assert not errors, errors
    return sent, output


@posix
@pytest.mark.parametrize(
    ("job", "threads"), [(job, 2) for job in JOBS] + [(job, 1) for job in TWICE]
)
def test_ctrl_c_stops_a_job(tmp_path: Path, job: str, threads: int) -> None:
    script = INTERRUPTED.format(job=JOBS[job], threads=threads)
    with running(tmp_path, script) as process:
        sent, output = interrupt(process, after=0.3)
    stopped = re.fullmatch(r"stopped at ([0-9.]+)\nand works\n", output)
    assert stopped, output
    assert float(stopped[1]) - sent < 0.5


@posix
def test_a_signal_in_the_second_look_at_a_cancelling_row_is_not_lost() -> None:
    """Where float32 terms cancel, the row is summed again in double, and polled."""
    x = np.full(40_000_000, -np.log(40_000_000), np.float32)
    fastsoftmax.set_num_threads(1)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    whole = math.inf
    for _ in range(3):
        start = time.monotonic()
        fastsoftmax.logsumexp(x)
        whole = min(whole, time.monotonic() - start)
    try:
        for part in (0.2, 0.35, 0.5):
            signal.setitimer(signal.ITIMER_REAL, part * whole)
            with pytest.raises(KeyboardInterrupt):
                fastsoftmax.logsumexp(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        fastsoftmax.set_num_threads(None)


@posix
@pytest.mark.parametrize(
    "call",
    [
        "logsumexp(np.broadcast_to(np.float32(-np.inf), 1 << 29))",
        "logsumexp(np.broadcast_to(np.float32(-np.inf), (1 << 28, 2)), axis=0)",
    ],
)
def test_a_search_for_nan_is_stopped_as_well(call: str) -> None:
    """It comes last, where the largest entry is infinite, and is the longest pass.

    Some 65 ms pass between two questions: the job takes far longer.
    """
    job = eval(f"lambda: {call}", {"np": np, "logsumexp": fastsoftmax.logsumexp})
    fastsoftmax.set_num_threads(1)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    whole, late = math.inf, []
    for _ in range(2):
        start = time.monotonic()
        job()
        whole = min(whole, time.monotonic() - start)
    deadline = time.monotonic() + 8 * whole
    try:
        while len(late) < 2 and time.monotonic() < deadline:
            start = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.8 * whole)
            try:
                job()
                signal.setitimer(signal.ITIMER_REAL, 0)
                whole = min(whole, time.monotonic() - start)  # faster than before
            except KeyboardInterrupt:
                late.append((time.monotonic() - start) / whole - 0.8)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        fastsoftmax.set_num_threads(None)
    assert min(late, default=math.inf) < 0.1, late


@posix
def test_ctrl_c_stops_every_step_of_a_long_row(tmp_path: Path) -> None:
    script = INTERRUPTED.format(job="softmax(np.zeros(1 << 28))", threads=2)
    for after in (0.05, 0.8):
        with running(tmp_path, script) as process:
            sent, output = interrupt(process, after)
        stopped = re.fullmatch(r"stopped at ([0-9.]+)\nand works\n", output)
        assert stopped, output
        assert float(stopped[1]) - sent < 0.5


BESIDE_THE_MAIN_THREAD = """
signal.signal(signal.SIGINT, signal.default_int_handler)
fastsoftmax.set_num_threads(2)
results = []

def call():
    results.append(logsumexp(np.broadcast_to(0.0, 1 << 25)))

threads = [threading.Thread(target=call) for _ in range(2)]
for thread in threads:
    thread.start()
print("ready", flush=True)
try:
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped", flush=True)
for thread in threads:
    thread.join()
assert np.allclose(results, 25 * np.log(2), rtol=1e-15), results
assert len(results) == 2 and works()
"""


@posix
def test_ctrl_c_beside_jobs_of_other_threads(tmp_path: Path) -> None:
    with running(tmp_path, BESIDE_THE_MAIN_THREAD) as process:
        _, output = interrupt(process, after=0.2)
    assert output == "stopped\n"


OWN_HANDLER = """
class Enough(Exception):
    pass

def enough(number, frame):
    calls.append(number)
    if len(calls) == {calls}:
        raise Enough

calls = []
signal.signal(signal.SIGALRM, enough)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
fastsoftmax.set_num_threads({threads})
try:
    logsumexp(np.broadcast_to(0.0, 1 << 36))
except Enough:
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert works()
    print("enough")
"""


@posix
@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_may_let_the_job_go_on(tmp_path: Path, threads: int) -> None:
    script = OWN_HANDLER.format(calls=3, threads=threads)
    assert python(tmp_path, script) == "enough\n"


@posix
def test_only_the_thread_that_called_asks_python(tmp_path: Path) -> None:
    need(shutil.which("cc"), "needs cc")
    (tmp_path / "Python.h").touch()
    program = tmp_path / "signals"
    include = (f"-I{tmp_path}", f"-I{KERNELS}")
    run("cc", *FLAGS, *include, DRIVER / "signals.c", "-lpthread", "-o", program)
    assert run(program) == b"0 3\n"


# ---- sub-interpreters ----

# CPython then no longer knows for a thread whether it holds the GIL, and says yes.
BESIDE_A_SUB_INTERPRETER = """
try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters

_interpreters.create()
fastsoftmax.set_num_threads({threads})
assert works()
long = np.zeros(1 << 20)
assert logsumexp(long) == np.log(1 << 20) and (softmax(long) == 2.0**-20).all()
assert fastsoftmax.hinge_loss(np.zeros((1 << 20, 2))) == 1 << 20
found = []
thread = threading.Thread(target=lambda: found.append(works()))
thread.start()
thread.join()
assert found == [True]
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_results_and_signals_beside_a_sub_interpreter(
    tmp_path: Path, threads: int
) -> None:
    script = BESIDE_A_SUB_INTERPRETER.format(threads=threads)
    if os.name == "posix":
        script += OWN_HANDLER.format(calls=3, threads=threads)
    assert python(tmp_path, script) == ("enough\n" if os.name == "posix" else "")


# ---- memory ----


@linux
def test_two_to_the_31_zeros_in_little_memory(tmp_path: Path) -> None:
    # Memory that is only read stays the one page of zeros that all of it maps to.
    script = """
n = 2**31 + 8
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
memory = mmap.mmap(-1, 4 * n, flags=flags, prot=mmap.PROT_READ)
memory.madvise(mmap.MADV_HUGEPAGE)
x = np.frombuffer(memory, np.float32)
print(x.size, logsumexp(x), peak())
"""
    size, result, megabytes = python(tmp_path, script).split()
    assert int(size) == 2**31 + 8
    assert float(result) == pytest.approx(math.log(2**31 + 8), rel=1e-7)
    assert int(megabytes) < 200


@linux
def test_large_axes_that_are_not_copied(tmp_path: Path) -> None:
    script = """
n = 1 << 25
assert logsumexp(np.broadcast_to(np.int8(0), (n, 2)), axis=0).shape == (2,)
assert logsumexp(np.broadcast_to(np.float16(0), (2, n)), axis=1).shape == (2,)
assert logsumexp(np.broadcast_to(0.0, (4, n // 4)), axis=-1, where=True).shape == (4,)
print(peak())
"""
    assert int(python(tmp_path, script)) < 200


# Each needs 64 MB for its result or a copy; np.zeros is mapped before the limit is set.
GREEDY = {
    "softmax": "softmax(x, axis=-1)",
    "log_softmax, whole": "log_softmax(x)",
    "columns": "softmax(x, axis=0)",
    "an option": "softmax(x, axis=-1, temperature=2.0)",
    "a mask": "softmax(x, axis=0, where=x == 0)",
    "apart": "logsumexp(x.reshape(64, 64, 4096), axis=(0, 2))",
    "other type": "softmax(x, axis=-1, dtype=np.float64)",
    "halves": "softmax(x, axis=-1, dtype=np.float16)",
    "overlapping": "softmax(x[1:], axis=-1, out=x[:-1])",
    "strided": "softmax(x[:, ::2], axis=-1)",
    "formula": "softmax(x.astype(np.longdouble), axis=-1)",
}


@linux
def test_no_memory_is_an_exception(tmp_path: Path) -> None:
    script = f"""
x = np.zeros((4096, 4096), np.float32)
assert works()
leave(8)
for name, call in {GREEDY}.items():
    try:
        eval(call)
    except MemoryError:
        continue
    raise SystemExit(name + " has found memory")
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert works() and not x.any()
"""
    python(tmp_path, script)


@linux
@pytest.mark.parametrize("order", "CF")
def test_a_call_with_out_needs_no_memory(tmp_path: Path, order: str) -> None:
    script = f"""
fastsoftmax.set_num_threads(1)
x = np.zeros((2048, 2048), np.float32, order="{order}")
out = np.empty_like(x)
softmax(x[:9], out=out[:9])
leave(4)
for axis in (None, 0, 1):
    softmax(x, axis=axis, out=out)
    softmax(x, axis=axis, out=x)
    assert all((x[row] == out[row]).all() and x[row, 0] > 0 for row in range(2048))
"""
    python(tmp_path, script)


@linux
def test_no_memory_for_a_long_row_is_an_exception(tmp_path: Path) -> None:
    # 2^42 elements have some 2.7 GB of partial sums where threads share the row.
    script = """
fastsoftmax.set_num_threads(2)
x = np.broadcast_to(0.0, 1 << 42)
assert works()
leave(64)
try:
    logsumexp(x)
except MemoryError:
    print("refused")
assert works()
"""
    if not _cpu.openmp:
        pytest.skip("a build without OpenMP")
    assert python(tmp_path, script) == "refused\n"


@linux
def test_calls_leak_no_memory(tmp_path: Path) -> None:
    script = """
import ctypes

class Allocated(ctypes.Structure):
    # glibc's struct mallinfo2: of its ten fields the eighth is the bytes in use.
    _fields_ = [("before", ctypes.c_size_t * 7), ("used", ctypes.c_size_t),
                ("after", ctypes.c_size_t * 2)]

try:
    mallinfo = ctypes.CDLL(None).mallinfo2
except AttributeError:
    raise SystemExit(print("no mallinfo2"))
mallinfo.restype = Allocated
fastsoftmax.set_num_threads(2)
x = np.zeros((64, 2048), np.float32)
long = np.zeros(1 << 20)
mask = np.ones((64, 2048), bool)

def calls():
    for _ in range(30):
        softmax(x, axis=-1)
        softmax(x, axis=0, where=mask, temperature=2)
        logsumexp(x.reshape(4, 16, 4, 512), axis=(0, 2))
        log_softmax(x.astype(np.float16), axis=-1)
        logsumexp(long)
        for wrong in ("x", 99, 1.5):
            try:
                softmax(x, axis=wrong)
            except (TypeError, ValueError):
                pass

calls()
before, resident = mallinfo().used, peak()
for _ in range(4):
    calls()
print(mallinfo().used - before, peak() - resident)
"""
    output = python(tmp_path, script)
    if output == "no mallinfo2\n":
        pytest.skip("asks glibc how much memory is in use")
    used, resident = output.split()
    assert int(used) < 50_000  # a leak per call would be at least twice as much
    assert int(resident) < 8
