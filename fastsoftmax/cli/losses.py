"""The hinge loss of scores in a .npy file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, NamedTuple

from .. import _arguments
from .._losses import hinge_loss
from .blocks import Array
from .npy import folder_of, save
from .source import FileError, Source, opened, unchanged

__all__ = ["Request", "print_loss", "write_rows"]

BLOCK_BYTES = 32 << 20


class Request(NamedTuple):
    """What the command line asks for; the options are those of `hinge_loss`."""

    source: str
    kind: str | None
    labels: str | None
    negatives: int | None
    options: dict[str, Any]


def print_loss(request: Request) -> None:
    """Print the loss of a file, reduced to one number. Raises `FileError`."""
    with _reading(request, None) as (scores, labels, sources), unchanged(*sources):
        if sys.stdout is None:
            raise FileError("cannot write the output: it is closed")
        loss = hinge_loss(scores, labels, **request.options)
    print(loss)


def write_rows(request: Request, target: str, force: bool) -> None:
    """Write the losses of rows, or single terms, to another file, block by block.

    Raises `FileError`.
    """
    with _reading(request, folder_of(target)) as (scores, labels, sources):
        pairs = request.options["reduction"] == "pairs"
        dtype, compute = _arguments.result_dtypes(scores.dtype)
        shape = scores.shape[:-1]
        if pairs:
            shape = (*shape, scores.shape[-1] - (labels is None))

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

        save(target, shape, dtype if pairs else compute, blocks(), sources, force)


@contextmanager
def _reading(
    request: Request, folder: str | None
) -> Iterator[tuple[Array, Array | None, list[Source]]]:
    """Open and check scores [..., C] and labels; and say what they lie in."""
    with ExitStack() as stack:
        source = stack.enter_context(opened(request.source, folder, request.kind))
        sources = [source]
        if request.labels is not None:
            sources.append(stack.enter_context(opened(request.labels, folder)))
        scores, *rest = (s.load() for s in sources)
        files = " with labels ".join(repr(s.path) for s in sources)
        try:
            checked = _checked(request, scores, rest[0] if rest else None)
        except (TypeError, ValueError, IndexError) as error:
            raise FileError(f"{files}: {error}") from error
        yield (*checked, sources)


def _checked(
    request: Request, scores: Array, labels: Array | None
) -> tuple[Array, Array | None]:
    """Return scores [..., C] and labels, if they and the margin have a meaning."""
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
    compute = _arguments.result_dtypes(scores.dtype)[1]
    _arguments.as_margin(request.options["margin"], compute)
    return scores, labels
