"""When threads start, and what they survive."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from pathlib import Path

import pytest
from child import with_threads

from fastsoftmax import _cpu, _threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
parallel = pytest.mark.skipif(not _cpu.openmp, reason="a build without OpenMP")

# ---- fork ----

IN_A_CHILD = """
def in_a_child(act):
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # a child that hangs dies of it
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0
"""


@forks
def test_child_and_grandchild_compute_and_so_does_the_parent(tmp_path: Path) -> None:
    with_threads(
        tmp_path,
        IN_A_CHILD
        + """
fastsoftmax.set_num_threads(2)
assert works()
assert in_a_child(works)
assert in_a_child(lambda: in_a_child(works))
assert in_a_child(lambda: works() and in_a_child(works) and works())
assert works()
""",
    )


@forks
def test_child_computes_in_one_thread(tmp_path: Path) -> None:
    with_threads(
        tmp_path,
        IN_A_CHILD
        + """
fastsoftmax.set_num_threads(2)
assert in_a_child(lambda: fastsoftmax.get_num_threads() == 1 and works())
assert fastsoftmax.get_num_threads() == (2 if fastsoftmax._cpu.openmp else 1)
""",
    )


@forks
def test_multiprocessing_fork_pool(tmp_path: Path) -> None:
    with_threads(
        tmp_path,
        """
        import multiprocessing

        fastsoftmax.set_num_threads(2)
        assert works()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            parts = [(part, -1) for part in np.split(x, 4)]
            results = pool.starmap_async(softmax, parts).get(5)
            assert (np.concatenate(results) == right).all()
            long_row = pool.apply_async(softmax, (x.reshape(-1),))
            assert abs(long_row.get(5).sum() - 1) < 1e-3
        assert works()
        """,
    )


@forks
def test_150_forks_beside_two_busy_threads(tmp_path: Path) -> None:
    with_threads(
        tmp_path,
        IN_A_CHILD
        + """
x, right = x[:64], right[:64]
fastsoftmax.set_num_threads(2)
done, wrong, calls = threading.Event(), [], [0, 0]

def call(which):
    while not done.is_set():
        calls[which] += 1
        if not works():
            wrong.append(which)

busy = [threading.Thread(target=call, args=(which,)) for which in range(2)]
for thread in busy:
    thread.start()
try:
    for fork in range(150):
        assert works() and in_a_child(works), fork
finally:
    done.set()
    for thread in busy:
        thread.join(5)
assert not wrong and min(calls) > 10, (wrong, calls)
assert works()
""",
    )


# ---- when threads start ----


def parallel_from() -> int:
    """Return the threshold that _run.pxi states."""
    source = Path(__file__).parents[1] / "fastsoftmax" / "_run.pxi"
    if not source.exists():
        pytest.skip("needs the source tree, for the threshold in _run.pxi")
    found = re.search(r"PARALLEL_FROM = (\d+)", source.read_text())
    assert found
    return int(found[1])


# One row, many rows, columns, and input that must be converted first.
SHAPES = """
def jobs(size):
    yield np.zeros((1, size), np.float32), -1
    yield np.zeros(size), None
    yield np.zeros((size // 8, 8)), -1
    yield np.zeros((8, size // 8), np.float32), 0
    yield np.zeros((size // 64, 64), np.int16), 1
    yield np.zeros((size // 64, 4, 16)), (0, 2)

def starts_a_thread(job):
    before = tasks()
    for function in (softmax, fastsoftmax.log_softmax, fastsoftmax.logsumexp):
        function(*job)
    return tasks() != before

def in_a_thread_of_its_own(function, *arguments):
    # OpenMP keeps the threads of each calling thread apart, and ends them with it.
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    thread.join()
    return found[0]
"""


@linux
@parallel
def test_no_thread_starts_below_the_threshold(tmp_path: Path) -> None:
    script = f"""
fastsoftmax.set_num_threads(2)
for job in jobs({parallel_from() - 64}):
    assert not starts_a_thread(job), job[0].shape
for job in jobs({parallel_from() + 64}):
    assert in_a_thread_of_its_own(starts_a_thread, job), job[0].shape
"""
    with_threads(tmp_path, SHAPES + script)


@linux
@parallel
def test_one_thread_starts_no_other(tmp_path: Path) -> None:
    script = """
fastsoftmax.set_num_threads(1)
assert not any(starts_a_thread(job) for job in jobs(1 << 21))
fastsoftmax.set_num_threads(3)
before = tasks()
assert starts_a_thread(next(jobs(1 << 21)))
assert len(tasks()) == len(before) + 2
"""
    with_threads(tmp_path, SHAPES + script)


@linux
@parallel
def test_a_number_that_is_set_holds_from_the_next_job_on(tmp_path: Path) -> None:
    script = """
before = len(tasks())
fastsoftmax.set_num_threads(1)
softmax(x[:16], axis=-1)
fastsoftmax.set_num_threads(2)
softmax(x[:16], axis=-1)
assert len(tasks()) == before + 1
"""
    with_threads(tmp_path, script)


# ---- many Python threads ----


def test_results_from_eight_threads_at_once_are_the_same_bits(tmp_path: Path) -> None:
    script = """
    rng = np.random.default_rng(3)
    jobs = [
        (rng.uniform(-90, 90, (300, 1000)).astype(np.float32), -1),
        (rng.uniform(-700, 700, (1, 400_000)), -1),
        (rng.uniform(-9, 9, (500, 600)), 0),
        (rng.uniform(-9, 9, (9, 9)), 0),
    ]
    names = "softmax", "log_softmax", "logsumexp"
    calls = [(getattr(fastsoftmax, name), *job) for name in names for job in jobs]
    fastsoftmax.set_num_threads(1)
    right = [function(x, axis=axis) for function, x, axis in calls]
    fastsoftmax.set_num_threads(2)
    different, finished = [], []
    start = threading.Barrier(8)

    def compare(first):
        start.wait()
        for i in range(3 * len(calls)):
            which = (first + i) % len(calls)
            function, x, axis = calls[which]
            if not np.array_equal(function(x, axis=axis), right[which]):
                different.append(which)
        finished.append(first)

    workers = [threading.Thread(target=compare, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not different and len(finished) == 8
    """
    with_threads(tmp_path, script)


def test_more_threads_than_processors_give_the_same_bits(tmp_path: Path) -> None:
    script = """
    rng = np.random.default_rng(4)
    calls = [
        (function, rng.uniform(-50, 50, shape).astype(dtype), axis)
        for dtype in (np.float32, np.float64)
        for shape, axis in [((99, 700), 1), ((1, 150_000), 1), ((100_000, 16), 0)]
        for function in (softmax, fastsoftmax.log_softmax, fastsoftmax.logsumexp)
    ]
    grad = fastsoftmax.softmax_vjp, fastsoftmax.hinge_loss
    calls += [(lambda y, axis: grad[0](y, y, axis=axis), *calls[0][1:])]
    calls += [(lambda y, axis: grad[1](y, return_grad=True)[1], *calls[0][1:])]
    fastsoftmax.set_num_threads(1)
    right = [function(x, axis=axis) for function, x, axis in calls]
    for threads in (16, 70):  # from 64 on, some begin with the same share
        fastsoftmax.set_num_threads(threads)
        for (function, x, axis), expected in zip(calls, right):
            found = function(x, axis=axis)
            assert found.tobytes() == expected.tobytes(), (threads, x.shape)
    """
    with_threads(tmp_path, script)


@linux
def test_1500_short_lived_threads_leave_nothing(tmp_path: Path) -> None:
    script = """
    import psutil

    fastsoftmax.set_num_threads(2)
    me = psutil.Process()
    wrong = []

    def call():
        if not works():
            wrong.append(1)

    def batch():
        workers = [threading.Thread(target=call) for _ in range(10)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def settled_tasks():
        deadline = time.monotonic() + 5  # what exits is not gone at once
        while len(tasks()) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(tasks())

    works()
    before = len(tasks())
    for _ in range(10):
        batch()
    assert settled_tasks() == before
    resident = me.memory_info().rss
    for _ in range(150):
        batch()
    assert settled_tasks() == before, (before, tasks())
    grown = me.memory_info().rss - resident
    assert grown < 16 << 20, grown
    assert not wrong
    """
    with_threads(tmp_path, "x, right = x[:32], right[:32]\n" + textwrap.dedent(script))


@pytest.mark.parametrize("count", [1, 2])
def test_python_runs_beside_a_large_call(tmp_path: Path, count: int) -> None:
    script = f"""
    fastsoftmax.set_num_threads({count})
    # Much work in no memory. Nobody is asked for the GIL: it must be given.
    large = np.broadcast_to(np.zeros(4096), (1 << 15, 4096))
    steps, done = [0], threading.Event()

    def count():
        while not done.is_set():
            steps[0] += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    sys.setswitchinterval(1000)
    before = steps[0]
    fastsoftmax.logsumexp(large, axis=-1)
    during = steps[0] - before
    done.set()
    counter.join()
    assert during > 10, during
    """
    with_threads(tmp_path, script)


# ---- threads that cannot be created ----

# libgomp ends the process when it cannot create a thread.
NO_ROOM = """
import resource

x, right = x[:64], right[:64]

def leave(megabytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    room = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, -1))

def call_with(threads):
    fastsoftmax.set_num_threads(threads)
    return works()
"""


@linux
@parallel
@pytest.mark.parametrize("before", [[], [2], [16, 2], [16, 1, 3]])
def test_no_room_for_more_threads(tmp_path: Path, before: list[int]) -> None:
    script = f"""
assert all([call_with(threads) for threads in {before}])
leave(2)  # less than a thread's stack
assert call_with(16) and call_with(16)
assert len(tasks()) < 16
"""
    with_threads(tmp_path, NO_ROOM + script)


@linux
@parallel
def test_no_room_for_a_thread_of_a_python_thread(tmp_path: Path) -> None:
    script = """
found = []
ready, go = threading.Event(), threading.Event()

def call():
    ready.set()
    go.wait()
    found.append(call_with(16))

thread = threading.Thread(target=call)
thread.start()
ready.wait()
assert call_with(2)
leave(2)
go.set()
thread.join()
assert found == [True]
"""
    with_threads(tmp_path, NO_ROOM + script)


@linux
@parallel
@pytest.mark.parametrize("taken", ["stacks", "slots"])
def test_threads_that_start_at_once_take_each_others_room(
    tmp_path: Path, taken: str
) -> None:
    script = f"""
found = []

def call(start):
    start.wait()
    found.append([works() for _ in range(3)])

def four_at_once():
    start = threading.Barrier(4)
    threads = [threading.Thread(target=call, args=(start,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while len(tasks()) > before:  # the kernel counts them until they are gone
        time.sleep(0.001)

fastsoftmax.set_num_threads(2)
before = len(tasks())
if {taken == "slots"}:
    if os.geteuid() != 0:
        raise SystemExit(print("not root"))
    os.setuid(60123)  # of root, threads are not counted; of others, all they have
    resource.setrlimit(resource.RLIMIT_NPROC, (before + 5, before + 5))
else:
    leave(800)  # one stack and a half
for _ in range(50):
    four_at_once()
assert found == [[True] * 3] * 200
"""
    size = "512M" if taken == "stacks" else "8M"
    if with_threads(tmp_path, NO_ROOM + script, OMP_STACKSIZE=size) == "not root\n":
        pytest.skip("limits a user of its own: needs root")


@linux
@parallel
def test_no_room_after_another_librarys_smaller_region(tmp_path: Path) -> None:
    script = """
import ctypes

try:
    region = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).GOMP_parallel
except OSError:
    raise SystemExit(print("no libgomp"))
assert call_with(16)
before = len(tasks())
region(ctypes.CDLL(None).free, None, 2, 0)  # in two threads: the other 14 end
while len(tasks()) > before - 14:
    time.sleep(0.001)
leave(2)
assert call_with(16)
assert len(tasks()) == before - 14
"""
    if with_threads(tmp_path, NO_ROOM + script) == "no libgomp\n":
        pytest.skip("the OpenMP runtime is not libgomp")


@linux
@parallel
def test_no_room_for_the_stacks_that_the_user_has_chosen(tmp_path: Path) -> None:
    script = """
before = tasks()
leave(1024)
assert call_with(2) and tasks() == before
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert call_with(2) and len(tasks()) == len(before) + 1
"""
    with_threads(tmp_path, NO_ROOM + script, OMP_STACKSIZE=" 4g ")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 << 30),
        (" 512 k ", 512 << 10),
        ("3000", 3000 << 10),
        ("65536B", 65536),
        ("16m", 16 << 20),
        ("", 7 << 20),
        ("much", 7 << 20),
        ("1.5G", 7 << 20),
        ("9999999999G", 7 << 20),
    ],
)
def test_stack_size_is_read_as_libgomp_reads_it(text: str, size: int) -> None:
    assert _threads.worker_stack({}) == 0
    assert _threads.worker_stack({"OMP_STACKSIZE": text}) in (size, 0)
    both = {"OMP_STACKSIZE": text, "GOMP_STACKSIZE": "7M"}
    assert _threads.worker_stack(both) == size
