"""The losses of scores in a .npy file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import _arguments
from .blocks import Array
from .npy import folder_of, save
from .source import FileError, Source, opened, unchanged

__all__ = ["Request", "print_loss", "write_rows"]

BLOCK_BYTES = 32 << 20


class Request(NamedTuple):
    """What the command line asks for; the options are those of the function."""

    function: Callable[..., Any]
    source: str
    kind: str | None
    labels: str | None
    options: dict[str, Any]
    negatives: int | None = None
    axis: int = -1
    where: str | None = None


class _Arrays(NamedTuple):
    """Scores [..., C]; labels and mask, which go with them row by row; all checked."""

    scores: Array
    beside: dict[str, Array]
    sources: list[Source]


def print_loss(request: Request) -> None:
    """Print the loss of a file, reduced to one number. Raises `FileError`."""
    with _reading(request, None) as arrays, unchanged(*arrays.sources):
        if sys.stdout is None:
            raise FileError("cannot write the output: it is closed")
        loss = request.function(arrays.scores, **arrays.beside, **request.options)
    print(loss)


def write_rows(request: Request, target: str, force: bool) -> None:
    """Write the losses of rows, or single terms, to another file, block by block.

    Raises `FileError`.
    """
    with _reading(request, folder_of(target)) as (scores, beside, sources):
        pairs = request.options["reduction"] == "pairs"
        dtype, compute = _arguments.result_dtypes(scores.dtype)
        shape = scores.shape[:-1]
        if pairs:
            shape = (*shape, scores.shape[-1] - ("labels" not in beside))

        def blocks() -> Iterator[Array]:
            if not shape:
                yield request.function(scores, **beside, **request.options)
                return
            row_bytes = prod(scores.shape[1:]) * scores.itemsize
            step = max(1, BLOCK_BYTES // max(row_bytes, 1))
            for first in range(0, len(scores), step):
                block = slice(first, first + step)
                parts = {name: array[block] for name, array in beside.items()}
                yield request.function(scores[block], **parts, **request.options)

        save(target, shape, dtype if pairs else compute, blocks(), sources, force)


@contextmanager
def _reading(request: Request, folder: str | None) -> Iterator[_Arrays]:
    """Open and check the arrays; and say what they lie in."""
    with ExitStack() as stack:
        source = stack.enter_context(opened(request.source, folder, request.kind))
        others = {
            name: stack.enter_context(opened(path, folder))
            for name, path in (("labels", request.labels), ("where", request.where))
            if path is not None
        }
        beside = {name: other.load() for name, other in others.items()}
        files = " with ".join(
            [repr(source.path), *(f"{n} {o.path!r}" for n, o in others.items())]
        )
        try:
            checked = _checked(request, source.load(), beside)
        except (TypeError, ValueError, IndexError) as error:
            raise FileError(f"{files}: {error}") from error
        yield _Arrays(*checked, [source, *others.values()])


def _checked(
    request: Request, scores: Array, beside: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """Return scores [..., C] and what goes with them, if all of it has a meaning."""
    scores = _arguments.as_scores(scores, "scores")
    if request.negatives is not None:
        scores = scores.reshape(_arguments.as_groups(scores, request.negatives))
    axis = _arguments.as_one_axis(request.axis, scores.ndim)
    shape, scores = scores.shape, np.moveaxis(scores, axis, -1)
    if "where" in beside:
        mask = _arguments.broadcast(beside["where"], shape, "where", "scores")
        beside["where"] = np.moveaxis(mask, axis, -1)
    labels = beside.get("labels")
    if labels is not None and labels.shape == shape:
        beside["labels"] = np.moveaxis(labels, axis, -1)
    elif labels is not None:
        *rows, classes = scores.shape
        labels = _arguments.as_labels(labels, tuple(rows))
        bad = (labels < 0) | (labels >= classes)
        bad &= labels != request.options.get("ignore_index")  # of None: all
        if bad.any():
            raise _arguments.bad_label(labels, int(bad.argmax()), classes)
        beside["labels"] = labels
    # The function itself judges the rest, on no rows where there are several.
    some = slice(0) if scores.ndim > 1 else ...
    parts = {name: array[some] for name, array in beside.items()}
    request.function(scores[some], **parts, **request.options)
    return scores, beside
