"""The hinge loss of scores in a .npy file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from .. import _arguments
from .._losses import hinge_loss
from .blocks import Array
from .npy import FileError, load, save

__all__ = ["Request", "print_loss", "write_rows"]

BLOCK_BYTES = 32 << 20


class Request(NamedTuple):
    """What the command line asks for; the options are those of `hinge_loss`."""

    source: str
    labels: str | None
    negatives: int | None
    options: dict[str, Any]


def print_loss(request: Request) -> None:
    """Print the loss of a file, reduced to one number. Raises `FileError`."""
    scores, labels, _ = _decode(request)
    if sys.stdout is None:
        raise FileError("cannot write the output: it is closed")
    print(hinge_loss(scores, labels, **request.options))


def write_rows(request: Request, target: str, force: bool) -> None:
    """Write the losses of rows, or single terms, to another file, block by block.

    Raises `FileError`.
    """
    scores, labels, rows = _decode(request)
    pairs = request.options["reduction"] == "pairs"
    dtype, compute = _arguments.result_dtypes(scores.dtype)
    shape = rows[:-1]
    if pairs:
        shape = rows if labels is not None else (*shape, rows[-1] - 1)

    def blocks() -> Iterator[Array]:
        if not shape:
            yield hinge_loss(scores, labels, **request.options)
            return
        row_bytes = prod(scores.shape[1:]) * scores.itemsize
        step = max(1, BLOCK_BYTES // max(row_bytes, 1))
        for first in range(0, len(scores), step):
            block = slice(first, first + step)
            part = None if labels is None else labels[block]
            yield hinge_loss(scores[block], part, **request.options)

    save(target, shape, dtype if pairs else compute, blocks(), force)


def _decode(request: Request) -> tuple[Array, Array | None, tuple[int, ...]]:
    """Return scores [..., C] and labels, checked, and the shape of the rows."""
    scores = load(request.source)
    labels = None if request.labels is None else load(request.labels)
    files = repr(request.source)
    if request.labels is not None:
        files += f" with labels {request.labels!r}"
    try:
        scores = _arguments.as_scores(scores, "scores")
        if request.negatives is not None:
            scores = scores.reshape(_arguments.as_groups(scores, request.negatives))
        _arguments.check_has_positive(scores, labels is not None)
        if labels is not None:
            *rows, classes = scores.shape
            labels = _arguments.as_labels(labels, tuple(rows), classes)
            bad = (labels < 0) | (labels >= classes)
            if bad.any():
                raise _arguments.bad_label(labels, int(bad.argmax()), classes)
        _arguments.as_margin(
            request.options["margin"], _arguments.result_dtypes(scores.dtype)[1]
        )
    except (TypeError, ValueError, IndexError) as error:
        raise FileError(f"{files}: {error}") from error
    return scores, labels, scores.shape
