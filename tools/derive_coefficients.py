"""Derives the numbers of fastsoftmax/kernels/math/coefficients.h.

    python tools/derive_coefficients.py            prints polynomials and tables
    python tools/derive_coefficients.py search 53  looks for a better table, for ever

A polynomial 1 + r + r^2 tail(r) is minimax (Remez), relative to exp(r), in 200 bits. A
table's factor c is the best that a search has found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp

mp.prec = 200

Real = Any  # mpmath has no types
Tail = Sequence[Real]  # coefficients of r^2, r^3, ...

ENTRIES = 8


class Use(NamedTuple):
    """A polynomial's degree, the bits of its coefficients, and for |r| up to what."""

    degree: int
    bits: int
    half: Real


# A little more than half of ln 2, and of an eighth of it: x / ln 2 is itself rounded
# before it is rounded to an integer.
WIDE, NARROW = mp.log(2) / 2, mp.log(2) / 16
USES = {
    "FS_EXP_TAIL_4": Use(4, 24, NARROW * mp.mpf("1.003")),
    "FS_EXP_TAIL_6": Use(6, 24, WIDE * mp.mpf("1.002")),
    "FS_EXP_TAIL_7": Use(7, 53, NARROW * mp.mpf("1.0001")),
    "FS_EXP_TAIL_12": Use(12, 53, WIDE * mp.mpf("1.002")),
}


# ---- polynomials ----


def error_at(r: Real, tail: Tail) -> Real:
    """Return the relative error of the polynomial as exp(r)."""
    value = mp.mpf(0)
    for a in reversed(tail):
        value = value * r + a
    return (1 + r + r * r * value) / mp.exp(r) - 1


def largest_error(tail: Tail, half: Real) -> Real:
    """Return the largest relative error that a fine grid shows."""
    grid = (half * mp.mpf(i) / 1000 for i in range(-1000, 1001))
    return max(abs(error_at(r, tail)) for r in grid)


def refined(of: Callable[[Real], Real], low: Real, r: Real, high: Real) -> Real:
    """Return the extremum near r and between low and high, by parabolas."""
    step = min(r - low, high - r) / 2
    while step > mp.mpf(2) ** -60:
        a, b, c = of(r - step), of(r), of(r + step)
        r = min(max(r + step * (a - c) / (2 * (a - 2 * b + c)), low), high)
        step /= 16
    return r


def extrema(of: Callable[[Real], Real], half: Real, count: int) -> list[Real]:
    """Return where |of| is largest between its changes of sign in [-half, half]."""
    last = 256
    grid = [-half * mp.cos(mp.pi * mp.mpf(i) / last) for i in range(last + 1)]
    values = [of(r) for r in grid]
    found: list[int] = []
    for i, value in enumerate(values):  # 0 where r is
        if value and (not found or value * values[found[-1]] < 0):
            found.append(i)
        elif value and abs(value) > abs(values[found[-1]]):
            found[-1] = i
    while len(found) > count:
        del found[0 if abs(values[found[0]]) < abs(values[found[-1]]) else -1]
    inside = [min(max(i, 1), last - 1) for i in found]
    return [
        grid[i] if i in (0, last) else refined(of, grid[j - 1], grid[j], grid[j + 1])
        for i, j in zip(found, inside, strict=True)
    ]


def minimax(use: Use) -> Tail:
    """Return the best tail of the degree."""
    powers = range(2, use.degree + 1)
    count = len(powers) + 1
    nodes = [-use.half * mp.cos(mp.pi * mp.mpf(i) / (count - 1)) for i in range(count)]
    nodes = [r if abs(r) > use.half / 100 else use.half / 10 for r in nodes]
    tail: list[Real] = []
    for _ in range(20):
        system, right = mp.matrix(count, count), mp.matrix(count, 1)
        for i, r in enumerate(nodes):
            for k, power in enumerate(powers):
                system[i, k] = r**power / mp.exp(r)
            system[i, count - 1] = (-1) ** i
            right[i] = 1 - (1 + r) / mp.exp(r)
        *tail, level = mp.lu_solve(system, right)
        nodes = extrema(lambda r, tail=tail: error_at(r, tail), use.half, count)
        largest = max(abs(error_at(r, tail)) for r in nodes)
        if largest < abs(level) * (1 + mp.mpf(2) ** -80):
            break
    return tail


def rounded(value: Real, bits: int) -> Real:
    """Return the nearest number of so many bits."""
    with mp.workprec(bits):
        return +value


# ---- tables ----

# What `search` has found: c, the place of j in the entries' bits, their type.
TABLES = (
    ("0x1.16747cp+0", 20, np.float32, "u4"),
    ("0x1.0b00b5fcd7f7ep+0", 49, np.float64, "u8"),
)


def powers_of(c: Real) -> list[Real]:
    """Return the entries, not rounded."""
    return [c * mp.mpf(2) ** (mp.mpf(j) / ENTRIES) for j in range(ENTRIES)]


def spread(c: Real, bits: int) -> Real:
    """Return how far the entries c 2^(j/8) are off to both sides, in 2^-bits."""
    errors = [(rounded(power, bits) - power) / power for power in powers_of(c)]
    return (max(errors) - min(errors)) * 2**bits


def candidates(bits: int) -> Iterator[np.ndarray]:
    """Yield integers c 2^(bits - 1) between two entries: of floats all there are."""
    first, last = 1 << (bits - 1), int(2 ** (bits - 1 + 1 / ENTRIES))
    rng = np.random.default_rng(0)
    while bits == 53:
        yield rng.integers(first, last, 1 << 20)
    yield np.arange(first, last)


def search(bits: int) -> Iterator[tuple[Real, Real]]:
    """Yield better and better c of `bits` bits, each with its spread."""
    best = 1.0
    powers = [np.longdouble(mp.nstr(power, 25)) for power in powers_of(mp.mpf(1))]
    for c in candidates(bits):
        errors = []
        for power in powers:
            exact = c * power
            unit = np.where(exact >= 2**bits, 2, 1)
            errors.append((np.rint(exact / unit) * unit - exact) / exact)
        spreads = (np.max(errors, axis=0) - np.min(errors, axis=0)) * 2.0**bits
        if spreads.min() < best:
            best = spreads.min()
            found = mp.mpf(int(c[spreads.argmin()])) / 2 ** (bits - 1)
            yield found, spread(found, bits)


if __name__ == "__main__":
    if sys.argv[1:2] == ["search"]:
        for found, wide in search(int(sys.argv[2])):
            print(f"c = {float(found).hex()}: entries within {mp.nstr(wide, 4)}")
    else:
        for name, use in USES.items():
            tail = [rounded(a, use.bits) for a in minimax(use)]
            digits = ", ".join(float(a).hex() for a in reversed(tail))
            error = mp.nstr(mp.log(largest_error(tail, use.half), 2), 5)
            print(f"{name}: {digits}; relative error 2^{error}")
        for c, shift, as_type, word in TABLES:
            for j, power in enumerate(powers_of(mp.mpf(float.fromhex(c)))):
                bits = int(np.array(float(power), as_type).view(word))
                print(f"c 2^({j}/8), c = {c}: {bits - (j << shift):#x}")
