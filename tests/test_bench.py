"""`python -m bench`: its table, its arithmetic, and a run of one cell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "bench" / "__main__.py").exists():
    pytest.skip("needs the sources: bench/ is not installed", allow_module_level=True)
# Behind everything else: the root must not hide the installed package.
sys.path.append(str(ROOT))

from bench import accuracy, cases, data, gpu, peers, report, results_file, summary  # noqa: E402
from bench.cases import Case, matching, parse  # noqa: E402
from bench.results_file import Results  # noqa: E402
from bench.timing import Cell, Session, Settings  # noqa: E402

SHORT = Settings(rounds=1, block_seconds=0.0005, pause_seconds=0)
SMALL = ("32x10", "1x77", "3x50 axis=0", "2x3x5 axis=1")


def cell(name: str, **seconds: float) -> Cell:
    return Cell(parse(name), {library: (s, 0.01) for library, s in seconds.items()})


def results(*cells: Cell, l3: int = 32 << 20) -> Results:
    machine = {
        "processor": "some",
        "processors": 2,
        "caches": {"L2": 1 << 20, "L3": l3},
        "isa": "avx2",
        "python": "3",
        "system": "Linux",
    }
    return Results(machine, {"numpy": "2"}, {"rounds": 1}, {}, list(cells))


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


# ---- cells ----


@pytest.mark.parametrize("table", [cases.full, cases.quick])
def test_names_are_unique_and_name_the_cell(table):
    cells = table()
    names = [case.name for case in cells]
    assert len(set(names)) == len(names) > 30
    assert [parse(name) for name in names] == cells


def test_table_covers_what_is_promised():
    cells = cases.full()
    assert {case.op for case in cells} == set(cases.OPS)
    assert {case.axis_word for case in cells} == {"last", "first", "middle"}
    assert {1, 2} <= {case.threads for case in cells} <= {1, 2, 4, 16}
    assert {case.inputs for case in cells} == set(cases.INPUTS)
    assert {case.dtype for case in cells} == set(cases.DTYPES)
    assert {case.call for case in cells} == set(cases.CALLS)
    assert {case.cache for case in cells} == set(cases.CACHES)
    assert {2, 150000} <= {case.n for case in cells}
    assert {1, 100000} <= {case.shape[0] for case in cells}


def test_quick_cells_are_in_the_full_table():
    assert set(cases.quick()) <= set(cases.full())


def test_words_may_be_missing():
    assert parse("softmax float32 3x4") == Case("softmax", "float32", (3, 4))
    assert parse("softmax float64 3x4 out= axis=0 threads=2 cold") == Case(
        "softmax", "float64", (3, 4), 0, "out=", "cold", 2
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("softmax float32", "at least 'op dtype shape'"),
        ("softmin float32 3x4", "bad op; expected softmax,"),
        ("softmax int8 3x4", "bad dtype; expected float32, float64"),
        ("softmax float32 3y4", "bad shape; expected sizes such as 4096x1000"),
        ("softmax float32 3x0", "bad shape"),
        ("softmax float32 3x4 axis=2", "bad axis; expected -2, -1, 0, 1"),
        ("softmax float32 3x4 threads=0", "bad threads"),
        ("softmax float32 3x4 lukewarm", "unknown word 'lukewarm'"),
    ],
)
def test_bad_cells_are_named(name, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse(name)
    assert repr(name) in str(caught.value)


def test_patterns_are_whole_words():
    found = matching(cases.full(), ["softmax float32 4096x1000 threads=1"])
    assert [case.op for case in found] == ["softmax", "softmax"]
    assert len(matching(cases.full(), ["softmax float32 4096x1*"])) > len(found)
    either = ["softmax float32 1x10 out=", "hinge float64 128x20"]
    assert {case.op for case in matching(cases.full(), either)} == {"softmax", "hinge"}
    assert matching(cases.full(), []) == cases.full()


# ---- libraries ----


@pytest.mark.parametrize("name", ["fastsoftmax", "numpy", "scipy"])
@pytest.mark.parametrize("op", accuracy.OPS)
@pytest.mark.parametrize("call", cases.CALLS)
@pytest.mark.parametrize(("shape", "axis"), [((5, 7), -1), ((5, 7), 0), ((2, 3, 4), 1)])
def test_answers_are_scipys(name, op, call, shape, axis):
    special = pytest.importorskip("scipy.special")
    library = peers.library_class(name)(1)
    given = data.Data(Case(op, "float64", shape, axis, call))
    why = library.supports(given.case)
    if why:
        assert "out=" in why
        return
    made = library.prepare(given)
    result = made.finish(made.run())
    correct = getattr(special, op)(given.x, axis=axis)
    np.testing.assert_allclose(result, correct, rtol=1e-13)
    if call == "out=":
        np.testing.assert_array_equal(given.out, result)


def small_cells(op: str) -> list[str]:
    shapes = ["32x10", "8x33"] if op.startswith("hinge") else SMALL
    return [f"{op} {dtype} {shape}" for shape in shapes for dtype in cases.DTYPES]


@pytest.mark.parametrize("name", peers.NAMES)
def test_every_library_does_what_it_says(name):
    """Its process compares each answer with the formula's in float64."""
    why = peers.absence(name)
    if why:
        pytest.skip(why)
    library = peers.library_class(name)
    done = set()
    with Session([name], 2, SHORT) as session:
        if "compile" in session.absent.get(name, ""):
            pytest.skip(session.absent[name])
        assert session.absent == {}
        for text in (text for op in library.ops for text in small_cells(op)):
            for call in cases.CALLS:
                threads = 1 if library.is_limit else 2
                measured = session.measure(parse(f"{text} {call} threads={threads}"))
                assert measured.failed == {}
                if measured.times:
                    done.add(measured.case.op)
    assert done == set(library.ops)


def test_wrong_answers_are_found():
    from bench.worker import Worker, WrongAnswerError

    worker = Worker("numpy", 1, 0.001)
    given = data.Data(parse("softmax float64 3x4"))
    right = data.expected(given)
    worker._check(peers.Call(lambda: right), given)
    for wrong, words in ((right * 1.1, "off by 1.0e-01"), (right[:2], "shape")):
        with pytest.raises(WrongAnswerError, match=words):
            worker._check(peers.Call(lambda wrong=wrong: wrong), given)
    with pytest.raises(WrongAnswerError, match="off by nan"):
        worker._check(peers.Call(lambda: right * np.nan), given)


@pytest.mark.parametrize("name", ["torch", "scipy", "sklearn"])
def test_absent_library_is_named(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", only_whole_packages)
    assert peers.absence(name) == f"{name} is not installed"


def only_whole_packages(name):
    """Fail as the true one does for a submodule of what is not installed."""
    if "." in name:
        raise ModuleNotFoundError(name)


def test_dead_process_says_why():
    with Session(["numpy"], 1, SHORT) as session:
        session.processes[0].child.kill()
        session.processes[0].child.wait()
        measured = session.measure(parse("softmax float32 3x4"))
    assert measured.times == {}
    assert "its process ended (-9)" in measured.failed["numpy"]


# ---- arithmetic ----


def test_geometric_mean():
    assert summary.geometric_mean([1, 4, 2]) == pytest.approx(2)
    assert np.isnan(summary.geometric_mean([]))


def test_best_peer_is_neither_ours_nor_a_limit():
    one = cell("softmax float32 3x4", fastsoftmax=2, copy=0.1, numpy=4, scipy=3)
    assert summary.best_peer(one) == "scipy"
    assert summary.ratio(one) == pytest.approx(1.5)
    assert summary.ratio(cell("softmax float32 3x4", fastsoftmax=2, copy=1)) is None
    assert summary.ns_per_element(one, "numpy") == pytest.approx(4e9 / 12)


def test_groups():
    cells = [
        cell("softmax float32 3x4", fastsoftmax=1, numpy=4),
        cell("softmax float64 3x4 axis=0 threads=2", fastsoftmax=2, numpy=1),
    ]
    found = {group.name: group for group in summary.groups(cells)}
    assert found["all"].mean == pytest.approx(2**0.5)
    assert (found["all"].slower, found["all"].cells) == (1, 2)
    assert found["first axis"].mean == pytest.approx(0.5)
    assert found["2 threads"].slower == 1
    assert found["float32"].mean == pytest.approx(4)


def test_targets():
    rows = "softmax float32 64x1000 out="
    cells = [
        cell("softmax float32 10", fastsoftmax=1.4, **{"np.exp": 1}),
        cell(rows, fastsoftmax=2, copy=1, **{"three passes": 1}),
        cell("softmax float32 1024x256 out=", fastsoftmax=1.9),
        cell("softmax float32 1024x256 out= threads=2", fastsoftmax=1),
        cell("softmax float32 99999x99 out=", fastsoftmax=2, copy=1, numpy=9),
    ]
    found = {t.what: t for t in summary.targets(cells, {"L2": 1 << 20, "L3": 1 << 23})}
    values = {what: t.values[t.worst] for what, t in found.items()}
    assert values["ten elements: our time / np.exp's"] == pytest.approx(1.4)
    assert values["in cache: one thread / two"] == pytest.approx(1.9)
    assert values["in cache: three careless passes' time / ours"] == pytest.approx(0.5)
    assert values["out of cache: np.copyto's time / ours"] == pytest.approx(0.5)
    text = "\n".join(report.target_table(results(*cells, l3=1 << 23), each=False))
    assert "met in 1 of 1; softmax float32 10 " in text
    assert "met in 0 of 1; softmax float32 64x1000 " in text


def test_worst_cells_come_first():
    text = "\n".join(
        report.speed_table(
            [
                cell("softmax float32 3x4", fastsoftmax=1, numpy=4),
                cell("softmax float64 3x4", fastsoftmax=4, numpy=3),
            ]
        )
    )
    assert text.index("float64") < text.index("float32")
    assert "0.75x" in text


def test_exact_values():
    mpmath = pytest.importorskip("mpmath")
    if not accuracy.JUDGES_FLOAT64:
        pytest.skip("long double is too narrow here")
    x = accuracy.inputs("uniform", (1, 20), -1, "float64")
    with mpmath.workdps(50):
        terms = [mpmath.exp(mpmath.mpf(value)) for value in x[0].tolist()]
        total = mpmath.fsum(terms)
        for op, wanted in (
            ("softmax", [term / total for term in terms]),
            ("log_softmax", [mpmath.log(term / total) for term in terms]),
            ("logsumexp", [mpmath.log(total)]),
        ):
            found = accuracy.exact(op, x, -1).ravel()
            # Two float64 hold a long double.
            parts = [(float(v), float(v - np.longdouble(float(v)))) for v in found]
            for (high, low), value in zip(parts, wanted, strict=True):
                assert abs((mpmath.mpf(high) + low) / value - 1) < 2.0**-60


def test_errors_are_in_ulp():
    exact_values = np.array([1.0, 1.5, 1e-40], np.longdouble)
    off = np.array([1 + 2.0**-23, 1.5, 1e-40], np.float32)
    found = accuracy.ulps(off, exact_values, "float32")
    assert found[:2].tolist() == [1, 0]
    assert found[2] <= 0.5


# ---- files ----


def test_files_keep_what_was_measured(tmp_path):
    before = results(cell("softmax float32 3x4 cold", fastsoftmax=1e-6, numpy=2.5e-6))
    before.cells[0].failed = {"torch": "its process ended (-11): no message"}
    before.cells[0].busy = {"numpy": 1.9}
    before.accuracy = {"softmax float32": {"numpy": {"normal": [3.1, 0.4]}}}
    path = tmp_path / "new" / "a.json"
    results_file.save(before, path)
    assert results_file.load(path) == before
    text = report.report(before, each=True)
    for words in ("2.50x", "kept 1.9 processors", "process ended", "3.1 / 0.4"):
        assert words in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected JSON"),
        ("[]", "expected results of"),
        ('{"format": 1}', "expected 'cells' in"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_files_are_named(tmp_path, text, words):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        results_file.load(path)
    assert str(path) in str(caught.value)


def test_comparison_shows_what_moved():
    slow = cell("softmax float32 3x4", fastsoftmax=2e-6, numpy=4e-6)
    same = cell("softmax float64 3x4", fastsoftmax=1e-6, numpy=4e-6)
    fast = cell("softmax float32 3x4", fastsoftmax=1e-6, numpy=4e-6)
    text = report.comparison(results(slow, same), results(fast, same))
    assert " 2.00x   1.00x  softmax float32 3x4" in text
    assert "float64" not in text
    assert "1 of 2 cells within 5%" in text
    assert "our changes: 1.414x" in text
    assert "no cell" in report.comparison(results(slow), results(same))


def test_charts(tmp_path):
    pytest.importorskip("matplotlib")
    from bench.charts import save_charts

    shapes = ("1x10", "1x1000", "4096x10", "4096x128")
    cells = [
        cell(f"softmax {dtype} {shape}", fastsoftmax=1e-6, scipy=3e-6, copy=1e-7)
        for shape in shapes
        for dtype in cases.DTYPES
    ]
    drawn = save_charts(results(*cells), tmp_path / "a.json")
    assert [p.name for p in drawn] == ["a-float32.svg", "a-float64.svg", "a-ratios.svg"]
    for path in drawn:
        text = path.read_text()
        assert len(text) < 60000
        assert "<text" in text, "letters should stay letters"
    assert "fastsoftmax" in drawn[0].read_text()


# ---- the command ----


def test_one_cell(tmp_path):
    path = tmp_path / "one.json"
    done = bench(
        *("--match", "softmax float32 32x1000 default warm threads=1"),
        *("--rounds", "1", "--peers", "numpy", "scipy", "--output", path),
    )
    assert done.returncode == 0, done.stderr
    assert "fastsoftmax" in done.stdout
    assert "geometric mean" in done.stdout
    (line,) = json.loads(path.read_text())["cells"]
    assert {"fastsoftmax", "numpy", "copy"} <= line["times"].keys()
    again = bench("--show", path, "--no-charts")
    assert "of ours" in again.stdout, again.stderr
    compared = bench("--compare", path, path)
    assert "1 of 1 cells within 5%" in compared.stdout, compared.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--match", "softmax float16"], "no cell matches"),
        (["--cell", "softmax float16 3x4"], "bad dtype"),
        (["--compare", "nowhere.json", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--rounds", "0"], "--rounds 0: expected 1 or more"),
        (["--ops", "softmin"], "invalid choice: 'softmin'"),
    ],
)
def test_errors_are_one_sentence(arguments, words):
    done = bench(*arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_list():
    done = bench("--quick", "--list", "--ops", "hinge")
    names = [case.name for case in cases.quick() if case.op == "hinge"]
    assert done.stdout.splitlines() == names


# ---- on a GPU ----


def test_gpu_cells_are_picked_by_words() -> None:
    (cell,) = gpu.cells(["softmax float16 16384x4096"])
    assert (cell.op, cell.dtype, cell.shape) == ("softmax", "float16", (16384, 4096))
    every = gpu.cells([])
    assert {cell.axis for cell in every} == {-1, 1}
    assert any(cell.n % 2 for cell in every)
    assert any(cell.shape[0] == 1 for cell in every)
    columns = {cell.op for cell in every if cell.axis == 1}
    assert columns == set(gpu.OPS) - {"hinge", "cross_entropy", "cross_entropy_grad"}


@pytest.mark.parametrize(
    ("operation", "arrays"),
    [
        ("softmax", 2),
        ("logsumexp", 1),
        ("softmax_vjp", 3),
        ("hinge", 1),
        ("cross_entropy", 1.002),  # eight bytes a row are labels
        ("cross_entropy_grad", 2.002),
    ],
)
def test_gpu_times_beside_the_copy(operation: str, arrays: float) -> None:
    """The copy moves 2 arrays in 2 ms; each of ours takes 1 ms."""
    cell = Case(operation, "float32", (1000, 1000))
    times = {gpu.OURS: arrays / 1000, gpu.COPY: 0.002, "torch": 0.004}
    result = gpu.row(cell, times, {gpu.OURS: 1.25})
    assert result["share_of_copy"] == pytest.approx(1)
    assert result["ratio"]["torch"] == pytest.approx(4 / arrays)
    for words in ("100% of the copy", "torch", "ULP: fastsoftmax 1.25"):
        assert words in gpu.line(result)


def test_gpu_libraries_share_a_stream_that_waits_for_no_other() -> None:
    cupy, torch = MagicMock(), MagicMock()
    with gpu.one_stream(cupy, torch) as stream:
        cupy.cuda.Stream.assert_called_once_with(non_blocking=True)
        assert stream is cupy.cuda.Stream.return_value
        stream.__enter__.assert_called_once()
        torch.cuda.ExternalStream.assert_called_once_with(stream.ptr)
        torch.cuda.stream.assert_called_once_with(
            torch.cuda.ExternalStream.return_value
        )
    stream.__exit__.assert_called_once()


@pytest.mark.parametrize("op", gpu.ENTROPIES)
def test_gpu_libraries_have_the_same_cross_entropy(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, scipy = pytest.importorskip("torch"), pytest.importorskip("scipy")
    monkeypatch.setattr(gpu, "torch_on_gpu", lambda: torch)
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cupyx.scipy", scipy)
    x = np.random.default_rng(0).normal(0, 5, (50, 9)).astype("f4")
    calls = gpu.libraries(np, Case(op, "float32", x.shape), x)
    assert list(calls) == [gpu.OURS, "cupyx", "torch", gpu.COPY]
    ours, cupyx, theirs = (call() for call in list(calls.values())[:3])
    if op == "cross_entropy":
        ours, cupyx, theirs = (ours,), (cupyx,), (theirs,)
    for a, b, c in zip(ours, cupyx, theirs, strict=True):
        assert np.abs(a).max() > 0.01
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(c.detach().numpy(), a, rtol=1e-5, atol=1e-7)


class OnDevice(np.ndarray):
    def get(self) -> np.ndarray:
        return self.view(np.ndarray)


@pytest.mark.parametrize(("shape", "axis"), [((9, 5), -1), ((3, 7, 11), 1)])
@pytest.mark.parametrize("op", ["softmax", "logsumexp"])
def test_gpu_errors_are_those_of_some_sets(
    op: str, shape: tuple[int, ...], axis: int
) -> None:
    x = np.random.default_rng(0).normal(0, 5, shape).astype("f4").view(OnDevice)
    formula = getattr(pytest.importorskip("scipy.special"), op)
    good = formula(x, axis=axis).view(OnDevice)
    bad = (good * np.float32(1.001)).view(OnDevice)
    found = gpu.errors(
        SimpleNamespace(asarray=np.asanyarray, moveaxis=np.moveaxis),
        Case(op, "float32", shape, axis),
        {gpu.OURS: lambda: good, "torch": lambda: bad, gpu.COPY: lambda: x},
        x,
    )
    assert set(found) == {gpu.OURS, "torch"}
    assert found[gpu.OURS] < 20 < 2000 < found["torch"]


def test_without_a_gpu_the_bench_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--match", "none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:  # with a GPU, there is just no cell of that name
        assert "L2 cold" in done.stdout
    else:
        assert "no GPU that CuPy can use" in done.stderr


# ---- the README's figures ----

ROW = re.compile(r"^\| \((.*)\), ([\d.]+) (us|ms) \| (.*) \|$", re.M)
SENTENCE = re.compile(
    r"took ([\d.]+) times our time in the mean of (\d+) cells, and less than ours in"
    r"\s(\d+).*SciPy took ([\d.]+) times as long in the mean of (\d+)",
    re.S,
)


def rounded_as(text: str, value: float) -> float:
    """Round to as many digits as a text has."""
    digits = len(text.replace(".", "").lstrip("0"))
    return float(f"{value:.{digits}g}")


def test_the_readme_says_what_was_measured():
    text = (ROOT / "README.md").read_text()
    recorded = results_file.load(ROOT / "bench" / "results" / "full.json").cells
    by_case = {one.case: one.times for one in recorded}
    rows = ROW.findall(text)
    assert len(rows) == 5
    for shape, time, unit, ratios in rows:
        times = by_case[parse(f"softmax float32 {shape.replace(', ', 'x')}")]
        ours, _ = times[summary.OURS]
        assert rounded_as(time, ours * {"us": 1e6, "ms": 1e3}[unit]) == float(time)
        libraries = ("scipy", "torch", "onnxruntime", "jax")
        for said, library in zip(ratios.split(" | "), libraries, strict=True):
            assert rounded_as(said, times[library][0] / ours) == float(said), shape
    every = summary.groups(recorded)[0]
    with_scipy = [
        times["scipy"][0] / times[summary.OURS][0]
        for times in by_case.values()
        if "scipy" in times
    ]
    mean, cells, slower, of_scipy, cells_of_scipy = SENTENCE.search(text).groups()
    assert rounded_as(mean, every.mean) == float(mean)
    assert (every.cells, every.slower) == (int(cells), int(slower))
    found = summary.geometric_mean(with_scipy)
    assert rounded_as(of_scipy, found) == float(of_scipy)
    assert len(with_scipy) == int(cells_of_scipy)
