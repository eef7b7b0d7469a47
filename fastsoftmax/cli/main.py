"""The command line: ``fastsoftmax``, or ``python -m fastsoftmax``."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import fastsoftmax

from .. import _arguments
from .._cpu import replace_lost_pages
from .._settings import config
from .demo import report
from .losses import Request, print_loss, write_rows
from .npy import Axis, transform
from .source import FileError

__all__ = ["main"]

INTERRUPTED = 128 + 2  # what a shell reports for a program that SIGINT ended
DTYPES = ("float16", "float32", "float64")
OVERVIEW = """\
Softmax, log-softmax, logsumexp, hinge losses and cross-entropy of NumPy .npy files.
Without a command: what was chosen on this machine, an example, its accuracy, its speed.
"""
FILES = """\
IN may be a member of an archive, FILE.npz:NAME, which is unpacked beside OUT first. It
is memory-mapped and worked on block by block, so it may be larger than memory: the
resident memory stays below 200 MB, whatever the size and the axis, on Linux. OUT
appears whole or not at all. Where IN is larger than 32 MiB and the axis is not the
innermost of the file, the work takes scratch files beside OUT, of the size of IN and,
if their types differ, of OUT.
"""
HINGE = """\
Hinge (max-margin) loss of rows of scores: sum over the negatives j of
max(0, margin - positive + score_j)^p. SCORES is a .npy file that is memory-mapped:
rows with the positive in column 0; with --labels, in the column that LABELS says; with
--negatives N, a flat vector of one positive, its N negatives, the next positive ...
Without OUT the loss is printed; with OUT the losses of the rows are written to it.
"""
CROSS_ENTROPY = """\
Cross-entropy of rows of logits: -sum(t * log_softmax(SCORES / T)). SCORES is a .npy
file that is memory-mapped; LABELS holds the class of each row (SCORES without the
axis), or, shaped like SCORES, the targets t themselves. Without OUT the loss is
printed; with OUT the losses of the rows are written to it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; by default those of the process.

    Returns
    -------
    int
        0, or 1 where a file or the output failed, or 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        2 for arguments that cannot be understood, 0 after ``--help``,
        143 after SIGTERM.
    """
    try:
        with _stopping_cleanly():
            try:
                return _run(sys.argv[1:] if argv is None else argv)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # when Python exits it is too late to handle
    except KeyboardInterrupt:
        print("fastsoftmax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        return _lose_output(error)


def _run(argv: Sequence[str]) -> int:
    """Do what the arguments say; return the exit status."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(_joined(argv))
    _place_rest(parser, arguments, rest)
    if arguments.version:
        print(f"fastsoftmax {config()['version']}")
        return 0
    if arguments.command is None:
        return _show()
    if "reduction" in arguments:
        _settle_reduction(parser, arguments)
    try:
        if "reduction" in arguments:
            _loss(arguments)
        else:
            _transform(arguments)
    except (FileError, MemoryError) as error:
        # On one line, whatever a library's message or a path holds.
        reason = " ".join(str(error).split()) or "out of memory"
        print(f"fastsoftmax {arguments.command}: error: {reason}", file=sys.stderr)
        return 1
    return 0


def _lose_output(error: OSError) -> int:
    """Say that stdout cannot be written; return the status."""
    # A reader such as `head` may leave early, and nobody needs to hear of it.
    if not isinstance(error, BrokenPipeError):
        reason = f"cannot write the output: {error.strerror}"
        print(f"fastsoftmax: error: {reason}", file=sys.stderr)
    # What stdout still holds must go somewhere when Python exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _show() -> int:
    """Print what was chosen on this machine, then the example; return the status."""
    print(_choices())
    print()
    for line in report():
        print(line, flush=True)
    return 0


def _choices() -> str:
    """Return a line that says what runs on this machine."""
    chosen = config()
    threads = "1 thread" if chosen["threads"] == 1 else f"{chosen['threads']} threads"
    openmp = "with" if chosen["openmp"] else "without"
    return (
        f"fastsoftmax {chosen['version']}: {chosen['isa']} "
        f"(of {', '.join(chosen['isas'])}), {threads}, {openmp} "
        f"OpenMP, NumPy {chosen['numpy']}"
    )


def _transform(arguments: argparse.Namespace) -> None:
    """Run one of the commands that work on files."""
    function = partial(
        getattr(fastsoftmax, arguments.command.replace("-", "_")),
        dtype=arguments.dtype,
    )
    if "temperature" in arguments:
        function = partial(function, temperature=arguments.temperature)
    transform(
        function,
        arguments.source,
        arguments.target,
        arguments.axis,
        where=arguments.where,
        kind=arguments.kind,
        keepdims=getattr(arguments, "keepdims", None),
        force=arguments.force,
    )


def _loss(arguments: argparse.Namespace) -> None:
    """Print a loss, or write those of the rows."""
    given = vars(arguments)
    function: Callable[..., Any] = fastsoftmax.hinge_loss
    names: tuple[str, ...] = ("margin", "p", "variant", "reduction")
    of_rows = {"negatives": arguments.negatives} if "negatives" in given else {}
    if arguments.command == "cross-entropy":
        function = fastsoftmax.cross_entropy
        names = ("temperature", "ignore_index", "label_smoothing", "reduction")
        of_rows = {"axis": arguments.axis, "where": arguments.where}
    request = Request(
        function,
        arguments.source,
        arguments.kind,
        arguments.labels,
        {name: given[name] for name in names},
        **of_rows,
    )
    if arguments.target is None:
        print_loss(request)
    else:
        write_rows(request, arguments.target, arguments.force)


# Arguments


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2, without the usage that argparse puts first."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> _Parser:
    """Return the parser of all commands."""
    parser = _Parser(prog="fastsoftmax", description=OVERVIEW, allow_abbrev=False)
    parser.add_argument(
        "--version", action="store_true", help="show the version and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in ("softmax", "log-softmax", "logsumexp"):
        command = commands.add_parser(
            name,
            help=f"{name} of a .npy file",
            description=f"Write {name} of IN to OUT, both .npy files. {FILES}",
            allow_abbrev=False,
        )
        _add_file_arguments(command)
        if name == "logsumexp":
            command.add_argument(
                "--keepdims",
                action="store_true",
                help="keep the reduced axes, with length one",
            )
        else:
            _add_temperature(command, "IN")
    _add_hinge(commands)
    _add_cross_entropy(commands)
    return parser


def _add_hinge(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Add the command ``hinge``."""
    command = commands.add_parser(
        "hinge",
        help="hinge (max-margin) loss of a .npy file of scores",
        description=HINGE,
        allow_abbrev=False,
    )
    _add_loss_files(command)
    layout = command.add_mutually_exclusive_group()
    layout.add_argument(
        "--labels", metavar="LABELS", help="a .npy file: each row's positive column"
    )
    layout.add_argument(
        "--negatives",
        type=_count,
        metavar="N",
        help="SCORES is flat: one positive, N negatives, and so on",
    )
    command.add_argument(
        "--margin",
        type=_margin,
        default=1.0,
        metavar="M",
        help="a finite number >= 0, in units of the scores (default 1)",
    )
    command.add_argument(
        "--p",
        type=int,
        choices=(1, 2),
        default=1,
        help="power of each term (default 1)",
    )
    command.add_argument(
        "--variant",
        choices=_arguments.VARIANTS,
        default="sum",
        help="a row's loss: the sum of its terms, or the largest (default sum)",
    )
    command.add_argument(
        "--reduction",
        choices=_arguments.REDUCTIONS,
        help="sum (default) or mean over rows is printed; none (default where there is "
        "OUT: one loss a row) and pairs (every term) are written to OUT",
    )
    _add_shared(command)


def _add_cross_entropy(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Add the command ``cross-entropy``."""
    command = commands.add_parser(
        "cross-entropy",
        help="cross-entropy of a .npy file of logits",
        description=CROSS_ENTROPY,
        allow_abbrev=False,
    )
    _add_loss_files(command, labels="a .npy file: classes, or targets")
    command.add_argument(
        "--axis", type=int, default=-1, metavar="A", help="of the classes (default -1)"
    )
    _add_temperature(command, "SCORES")
    command.add_argument(
        "--ignore-index",
        type=int,
        metavar="I",
        help="rows with this label do not count",
    )
    command.add_argument(
        "--label-smoothing",
        type=_part,
        default=0.0,
        metavar="S",
        help="the part of each target that all classes share (default 0)",
    )
    command.add_argument(
        "--reduction",
        choices=_arguments.ENTROPY_REDUCTIONS,
        help="mean (default) over the rows that count or sum is printed; none (default "
        "where there is OUT: one loss a row) is written to OUT",
    )
    _add_mask(command, "SCORES")
    _add_shared(command)


def _place_rest(
    parser: _Parser, arguments: argparse.Namespace, rest: list[str]
) -> None:
    """Take what is left for OUT: argparse does not look for it behind options."""
    lacks_out = "reduction" in arguments and arguments.target is None
    if lacks_out and len(rest) == 1 and not rest[0].startswith("-"):
        arguments.target = rest.pop()
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")


def _settle_reduction(parser: _Parser, arguments: argparse.Namespace) -> None:
    """Make sure that what is asked for can be printed, or else has a file to go to."""
    written = ("none", "pairs")
    printed = "sum" if arguments.command == "hinge" else "mean"
    if arguments.reduction is None:
        arguments.reduction = printed if arguments.target is None else "none"
    problem = None
    if arguments.target is None and arguments.reduction in written:
        problem = "needs OUT, a file to write to"
    if arguments.target is not None and arguments.reduction not in written:
        problem = "is one number, which is printed: leave out OUT"
    if problem:
        error = f"argument --reduction: {arguments.reduction} {problem}"
        parser.exit(2, f"{parser.prog} {arguments.command}: error: {error}\n")


def _add_file_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments that all file commands share."""
    command.add_argument("source", metavar="IN", help="the .npy file to read")
    command.add_argument("target", metavar="OUT", help="the .npy file to write")
    command.add_argument(
        "--axis",
        type=_axis,
        default=-1,
        help='an integer, several as in "0,1", or "none" for the whole array (default '
        "-1; the Python functions' default is None, the whole array, as in SciPy)",
    )
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        metavar="D",
        help=f"compute and write in {', '.join(DTYPES)} (default: that of IN, and "
        "float64 for integers)",
    )
    _add_mask(command, "IN")
    _add_shared(command)


def _add_loss_files(command: argparse.ArgumentParser, **between: str) -> None:
    """Add SCORES and OUT of a loss, and what stands between them."""
    command.add_argument("source", metavar="SCORES", help="the .npy file of scores")
    for name, words in between.items():
        command.add_argument(name, metavar=name.upper(), help=words)
    command.add_argument(
        "target",
        metavar="OUT",
        nargs="?",
        help="the .npy file to write the rows' losses to",
    )


def _add_mask(command: argparse.ArgumentParser, name: str) -> None:
    """Add the option that says which elements of a file count."""
    command.add_argument(
        "--where",
        metavar="MASK",
        help=f"a .npy file of booleans that broadcasts against {name}: what counts",
    )


def _add_temperature(command: argparse.ArgumentParser, name: str) -> None:
    """Add the option that softmaxes and cross-entropy share."""
    command.add_argument(
        "--temperature",
        type=_temperature,
        default=1.0,
        metavar="T",
        help=f"divide {name} by this number > 0 first (default 1)",
    )


def _add_shared(command: argparse.ArgumentParser) -> None:
    """Add the arguments of every command."""
    command.add_argument(
        "--as",
        dest="kind",
        choices=("bfloat16",),
        help="what the input's elements are where NumPy saved them as raw bytes (|V2)",
    )
    command.add_argument(
        "--force", action="store_true", help="replace OUT where it exists"
    )


def _joined(argv: Sequence[str]) -> list[str]:
    """Tie ``--axis -2,-1`` together: argparse takes "-2,-1" for an option."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in ("--axis", "--temperature", "--margin"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _axis(text: str) -> Axis:
    """Decode ``--axis``."""
    if text.lower() == "none":
        return None
    try:
        axes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither an integer, nor several as in "0,1", nor "none"'
        ) from None
    return axes if "," in text else axes[0]


def _number(kind: type, words: str, fits: Callable[[Any], bool]) -> Callable[..., Any]:
    """Return what decodes a number that `fits`, which `words` describe."""

    def decode(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not fits(number):
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return number

    return decode


_temperature = _number(float, "a finite number > 0", lambda t: 0 < t < math.inf)
_margin = _number(float, "a finite number >= 0", lambda m: 0 <= m < math.inf)
_part = _number(float, "a number between 0 and 1", lambda s: 0 <= s <= 1)
_count = _number(int, "an integer >= 0", lambda n: n >= 0)


# Signals


@contextmanager
def _stopping_cleanly() -> Iterator[None]:
    """Let what would end the process end the work as an exception, which tidies up.

    SIGTERM and SIGHUP do, and pages of a mapped file that another process has cut off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    replace_lost_pages(True)
    try:
        yield
    finally:
        replace_lost_pages(False)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End the program with the status that a shell reports for this signal."""
    raise SystemExit(128 + number)
