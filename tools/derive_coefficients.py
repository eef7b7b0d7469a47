"""Derives the numbers of fastsoftmax/kernels/math/coefficients.h.

    python tools/derive_coefficients.py            prints polynomials and tables
    python tools/derive_coefficients.py search 53  looks for a better table, for ever

A polynomial, its first terms and r^2 or r^3 tail(r), is minimax (Remez), relative to
exp(r) or log(1 + r), in 200 bits. A table's factor c is the best that a search found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp

mp.prec = 200

Real = Any  # mpmath has no types
Tail = Sequence[Real]  # coefficients of r^first, r^(first + 1), ...
Function = Callable[[Real], Real]

ENTRIES = 8


class Use(NamedTuple):
    """A polynomial's degree, the bits of its coefficients, and for which r; of what."""

    degree: int
    bits: int
    low: Real
    high: Real
    first: int = 2
    lead: Function = lambda r: 1 + r
    function: Function = mp.exp


def exponential(degree: int, bits: int, half: Real) -> Use:
    """Return what a polynomial for |r| <= half is."""
    return Use(degree, bits, -half, half)


def logarithm(degree: int, bits: int) -> Use:
    """Return what a polynomial for 1 + r from sqrt(1/2) to sqrt(2) is."""
    low, high = mp.sqrt(0.5) - 1, mp.sqrt(2) - 1
    return Use(degree, bits, low, high, 3, lambda r: r - r * r / 2, mp.log1p)


# A little more than half of ln 2, and of an eighth of it: x / ln 2 is itself rounded
# before it is rounded to an integer.
WIDE, NARROW = mp.log(2) / 2, mp.log(2) / 16
USES = {
    "FS_EXP_TAIL_4": exponential(4, 24, NARROW * mp.mpf("1.003")),
    "FS_EXP_TAIL_6": exponential(6, 24, WIDE * mp.mpf("1.002")),
    "FS_EXP_TAIL_7": exponential(7, 53, NARROW * mp.mpf("1.0001")),
    "FS_EXP_TAIL_12": exponential(12, 53, WIDE * mp.mpf("1.002")),
    "FS_LOG_TAIL_11": logarithm(11, 24),
    "FS_LOG_TAIL_21": logarithm(21, 53),
}


# ---- polynomials ----


def error_at(r: Real, tail: Tail, use: Use) -> Real:
    """Return the relative error of the polynomial."""
    value = mp.mpf(0)
    for a in reversed(tail):
        value = value * r + a
    return (use.lead(r) + r**use.first * value) / use.function(r) - 1


def largest_error(tail: Tail, use: Use) -> Real:
    """Return the largest relative error that a fine grid, but for 0, shows."""
    width = use.high - use.low
    grid = (use.low + width * mp.mpf(i) / 2000 for i in range(2001))
    return max(abs(error_at(r, tail, use)) for r in grid if r)


def refined(of: Function, low: Real, r: Real, high: Real) -> Real:
    """Return the extremum near r and between low and high, by parabolas."""
    step = min(r - low, high - r) / 2
    while step > mp.mpf(2) ** -60:
        a, b, c = of(r - step), of(r), of(r + step)
        r = min(max(r + step * (a - c) / (2 * (a - 2 * b + c)), low), high)
        step /= 16
    return r


def spaced(use: Use, last: int) -> list[Real]:
    """Return `last` + 1 numbers from low to high, closer to each other at both ends."""
    middle, half = (use.low + use.high) / 2, (use.high - use.low) / 2
    return [middle - half * mp.cos(mp.pi * mp.mpf(i) / last) for i in range(last + 1)]


def extrema(of: Function, use: Use, count: int) -> list[Real]:
    """Return where |of| is largest between its changes of sign."""
    last = 256
    grid = spaced(use, last)
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
    powers = range(use.first, use.degree + 1)
    count = len(powers) + 1
    nodes = spaced(use, count - 1)
    nodes = [r if abs(r) > use.high / 100 else use.high / 10 for r in nodes]
    tail: list[Real] = []
    for _ in range(20):
        system, right = mp.matrix(count, count), mp.matrix(count, 1)
        for i, r in enumerate(nodes):
            for k, power in enumerate(powers):
                system[i, k] = r**power / use.function(r)
            system[i, count - 1] = (-1) ** i
            right[i] = 1 - use.lead(r) / use.function(r)
        *tail, level = mp.lu_solve(system, right)
        nodes = extrema(lambda r, tail=tail: error_at(r, tail, use), use, count)
        largest = max(abs(error_at(r, tail, use)) for r in nodes)
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
            error = mp.nstr(mp.log(largest_error(tail, use), 2), 5)
            print(f"{name}: {digits}; relative error 2^{error}")
        for c, shift, as_type, word in TABLES:
            for j, power in enumerate(powers_of(mp.mpf(float.fromhex(c)))):
                bits = int(np.array(float(power), as_type).view(word))
                print(f"c 2^({j}/8), c = {c}: {bits - (j << shift):#x}")
