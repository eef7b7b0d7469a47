"""What a library must tell to be measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..cases import Case
from ..data import Array, Data


class Call(NamedTuple):
    """What is timed, and how its result becomes an ndarray afterwards."""

    run: Callable[[], Any]
    finish: Callable[[Any], Array] = np.asarray
    times: int = 1  # how often one run does the work


def weighted(logsumexp: Callable[..., Any], data: Data) -> Call:
    """Return the call of SciPy's logsumexp, or of one like it, with weights."""
    x, axis, b = data.x, data.case.axis, data.b
    if data.case.op == "signed_logsumexp":
        return Call(
            lambda: logsumexp(x, axis=axis, b=b, return_sign=True),
            lambda pair: np.asarray(pair[0]),
        )
    return Call(lambda: logsumexp(x, axis=axis, b=b))


class UnsupportedError(Exception):
    """The library cannot do this cell; the text says why."""


class Library:
    """One library in a process of its own, with a number of threads."""

    name: str
    module: str  # what to import
    package: str  # whose version is recorded
    also_needs: tuple[str, ...] = ()  # other modules without which it is no use
    ops: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32", "float64")
    has_out = False
    is_limit = False  # not a peer: what the machine could do at best

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lib: Any = importlib.import_module(self.module)
        self.start()

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Variables that must be set before the import."""
        return {}

    def start(self) -> None:
        """Set the number of threads."""

    def supports(self, case: Case) -> str:
        """Return why the cell cannot be done; nothing if it can."""
        if case.op not in self.ops:
            return f"has no {case.op}"
        if case.dtype not in self.dtypes:
            return f"does not compute in {case.dtype}"
        if case.call == "out=" and not self.has_out:
            return "has no out="
        return ""

    def prepare(self, data: Data) -> Call:
        """Return the call of a cell, with everything done that a user does once."""
        why = self.supports(data.case)
        if why:
            raise UnsupportedError(why)
        return self.call(data)

    def call(self, data: Data) -> Call:
        """Return the call of a cell that is supported."""
        raise NotImplementedError
