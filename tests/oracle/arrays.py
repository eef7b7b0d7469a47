"""The same numbers laid out in other ways; sets as rows, and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .arithmetic import Array

Axes = int | tuple[int, ...] | None


def copied_to(room: Array, x: Array) -> Array:
    room[...] = x
    return room


def _spaced(x: Array) -> Array:
    return np.zeros((*x.shape[:-1], 3 * x.shape[-1]), x.dtype)[..., ::3]


def _spaced_first(x: Array) -> Array:
    return np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)[::2]


def _unaligned(x: Array) -> Array:
    """Contiguous, one byte behind an aligned address."""
    memory = bytearray(x.nbytes + 1)
    return np.ndarray(x.shape, x.dtype, memory, offset=1)


def _shifted(x: Array) -> Array:
    """Contiguous, one element behind the start of an allocation."""
    return np.zeros(x.size + 1, x.dtype)[1:].reshape(x.shape)


def _field(x: Array) -> Array:
    """A field of packed records: neither aligned nor a whole number of items apart."""
    record = np.dtype([("before", "u1"), ("x", x.dtype), ("after", "u2")])
    return np.zeros(x.shape, record)["x"]


def frozen(x: Array) -> Array:
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x.copy(order="C"),
    "F": lambda x: x.copy(order="F"),
    "axes rotated": lambda x: np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1),
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "first axis backwards": lambda x: x[::-1].copy()[::-1],
    "every third": lambda x: copied_to(_spaced(x), x),
    "every second row": lambda x: copied_to(_spaced_first(x), x),
    "one byte off": lambda x: copied_to(_unaligned(x), x),
    "one element off": lambda x: copied_to(_shifted(x), x),
    "field": lambda x: copied_to(_field(x), x),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "byte-swapped F": lambda x: x.astype(x.dtype.newbyteorder(), order="F"),
    "read-only": lambda x: frozen(x.copy()),
}
# Where neighbours in memory are of other sets: sums add up in another order.
OF_COLUMNS = ("F", "axes rotated", "byte-swapped F")
OF_ROWS = [name for name in LAYOUTS if name not in OF_COLUMNS]
WRITABLE = [k for k in LAYOUTS if "swapped" not in k and k != "read-only"]


# ---- sets as rows [B, n] ----


def as_rows(x: Array, axis: Axes) -> tuple[Array, Callable[[Array], Array]]:
    """The sets of x as rows, and what brings a result of them into its shape."""
    shape = x.shape or (1,)
    given = range(len(shape)) if axis is None else np.atleast_1d(axis)
    axes = tuple(int(a) % len(shape) for a in given)
    last = tuple(range(-len(axes), 0))
    moved = np.moveaxis(x.reshape(shape), axes, last)
    outer = moved.shape[: len(shape) - len(axes)]
    n = math.prod(shape[a] for a in axes)

    def back(rows: Array) -> Array:
        if rows.ndim == 1:
            return rows.reshape(outer)
        return np.moveaxis(rows.reshape(moved.shape), last, axes).reshape(x.shape)

    return moved.reshape(math.prod(outer), n), back


class Place:
    """Where sets lie in an array: rows [B, n] become [*lead, n], n moved to an axis."""

    def __init__(self, axis: int, split: bool = False) -> None:
        self.axis, self.split = axis, split

    def lay(self, x: Array) -> Array:
        """Rows, or what has one element for each."""
        lead = (2, len(x) // 2) if self.split else (len(x),)
        if x.ndim == 1:
            return x.reshape(lead)
        laid = x.reshape(*lead, x.shape[1])
        if self.axis != -1:
            laid = np.moveaxis(laid, -1, self.axis)
        return np.array(laid, order="C")

    def rows(self, y: Array, given: Array) -> Array:
        """The opposite, for a result of the rows that were given."""
        if y.size != given.size or y.ndim != 2 + self.split:
            return y.reshape(len(given))
        if self.axis != -1:
            y = np.moveaxis(y, self.axis, -1)
        return y.reshape(given.shape)


PLACES = {
    "last axis": Place(-1),
    "first axis": Place(0),
    "middle axis": Place(1, split=True),
}
ROWS, COLUMNS = PLACES["last axis"], PLACES["first axis"]
