"""The command line: measures, reports, compares."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from . import RESULTS, prefer_installed_package

prefer_installed_package()

from . import accuracy, cases, machine, results_file  # noqa: E402
from .cases import Case  # noqa: E402
from .peers import LIMITS, NAMES, OURS, PEERS, absence, version  # noqa: E402
from .report import comparison, report  # noqa: E402
from .results_file import Results  # noqa: E402
from .timing import Session, Settings  # noqa: E402

QUICK = Settings(rounds=3, block_seconds=0.004, pause_seconds=0.002)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures fastsoftmax beside every peer that is installed.",
        epilog="A cell: softmax float32 4096x1000 axis=-1 default warm threads=1",
    )
    add = made.add_argument
    add("--quick", action="store_true", help="some forty cells, under two minutes")
    add(
        "--match",
        action="extend",
        nargs="+",
        default=[],
        metavar="WORDS",
        help='cells with all these words, wildcards allowed: "softmax float32 4096x*"',
    )
    add(
        "--cell",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help='a cell that need not be in the table: "softmax float32 300x77 axis=0"',
    )
    add("--ops", nargs="+", choices=cases.OPS, metavar="OP", help=", ".join(cases.OPS))
    add("--threads", nargs="+", type=int, metavar="N", help="only these: 1, 2")
    add(
        "--only",
        nargs="+",
        choices=NAMES,
        metavar="LIBRARY",
        help=f"time nothing but these: {', '.join(NAMES)}",
    )
    add(
        "--peers",
        nargs="*",
        choices=PEERS,
        metavar="PEER",
        help="the peers to compare with; none: ours and the limits",
    )
    add("--rounds", type=int, metavar="N", help="turns of each library in each cell")
    add("--each", action="store_true", help="show every library's time in every cell")
    add("--no-accuracy", action="store_true", help="leave out the table of errors")
    add("--no-charts", action="store_true", help="draw nothing")
    add("--output", type=Path, metavar="JSON", help="where results go")
    add("--list", action="store_true", help="print the cells' names and end")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="what moved")
    add("--show", type=Path, metavar="JSON", help="report on a file, and draw it")
    return made


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """Return the cells that the options ask for."""
    if options.cell:
        return [cases.parse(name) for name in options.cell]
    table = cases.quick() if options.quick else cases.full()
    found = [
        case
        for case in cases.matching(table, options.match)
        if (not options.ops or case.op in options.ops)
        and (not options.threads or case.threads in options.threads)
    ]
    if not found:
        raise ValueError("no cell matches; --list prints their names")
    return found


def chosen_libraries(options: argparse.Namespace) -> list[str]:
    """Return the libraries that the options ask for, installed or not."""
    if options.only:
        return [name for name in NAMES if name in options.only]
    peers = PEERS if options.peers is None else options.peers
    return [name for name in NAMES if name in (OURS, *peers, *LIMITS)]


def is_partial(options: argparse.Namespace) -> bool:
    """Tell whether the options leave anything out of the table."""
    narrow = (options.match, options.cell, options.ops, options.threads, options.only)
    return any(narrow) or options.peers is not None


def destination(options: argparse.Namespace) -> Path:
    """Return the results file."""
    if options.output:
        return Path(options.output)
    if is_partial(options):
        return RESULTS / "partial.json"
    return RESULTS / ("quick.json" if options.quick else "full.json")


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], object]]:
    """Show a bar on a terminal, if tqdm is installed; yield what moves it."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda text: None
        return
    with tqdm(total=total, disable=None, leave=False, unit="cell") as bar:

        def step(text: str) -> None:
            bar.set_description(text, refresh=False)
            bar.update()

        yield step


def measure(options: argparse.Namespace) -> Results:
    """Run the chosen cells, one number of threads after the other."""
    wanted, names = chosen_cases(options), chosen_libraries(options)
    settings = QUICK if options.quick else Settings()
    if options.rounds:
        settings = Settings(
            options.rounds, settings.block_seconds, settings.pause_seconds
        )
    absent = {name: why for name in names if (why := absence(name))}
    names = [name for name in names if name not in absent]
    versions = {name: version(name) for name in names if name not in LIMITS}
    results = Results(machine.describe(), versions, asdict(settings), absent)
    judged = [] if options.no_accuracy or is_partial(options) else judged_columns()
    with progress(len(wanted) + len(judged)) as step:
        for threads in dict.fromkeys(case.threads for case in wanted):
            with Session(names, threads, settings) as session:
                results.absent.update(session.absent)
                for case in (case for case in wanted if case.threads == threads):
                    results.cells.append(session.measure(case))
                    step(case.name)
                for op, dtype in judged:
                    results.accuracy[f"{op} {dtype}"] = session.errors(op, dtype)
                    step(f"accuracy {op} {dtype}")
                judged = []
    results.cells.sort(key=lambda cell: wanted.index(cell.case))
    return results


def judged_columns() -> list[tuple[str, str]]:
    """Return op and dtype of each column of the table of errors."""
    dtypes = cases.DTYPES if accuracy.JUDGES_FLOAT64 else ("float32",)
    return [(op, dtype) for op in accuracy.OPS for dtype in dtypes]


def draw(results: Results, path: Path) -> list[Path]:
    """Draw the charts beside a results file, if Matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no charts: matplotlib is not installed", file=sys.stderr)
        return []
    from .charts import save_charts

    return save_charts(results, path)


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    if options.compare:
        before, after = map(results_file.load, options.compare)
        print(comparison(before, after))
        return
    if options.show:
        results = results_file.load(options.show)
        print(report(results, options.each))
        if not options.no_charts:
            draw(results, options.show)
        return
    if options.list:
        print(*(case.name for case in chosen_cases(options)), sep="\n")
        return
    results = measure(options)
    path = destination(options)
    results_file.save(results, path)
    drawn = [] if options.no_charts or is_partial(options) else draw(results, path)
    print(report(results, options.each))
    print(f"\nresults: {path}", *(f"chart: {chart}" for chart in drawn), sep="\n")


def main() -> None:
    """Run; an error is a sentence, not a traceback."""
    options = parser().parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser().error(f"--rounds {options.rounds}: expected 1 or more")
    # As for Ctrl-C, no process may be left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
