"""Runs a kernel as the tests of mutants do, and says what is wrong with it.

Every case is a family of kernels on an array that is small, reaches every branch that
a mutant changes, and holds what an error would show in: peaks far below 0, terms that
only the low part of a sum sees, differences that cancel, masks, ties.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastsoftmax.cuda import choose as variants
from fastsoftmax.cuda.choose import Launches, Operation
from gpu import cases, execution, ptx
from gpu.execution import Arguments, Outcome, Way

Array = np.ndarray[Any, np.dtype[Any]]

SCHEDULES = (None, 1, 2, 3)


@dataclass(frozen=True)
class Case:
    """One launch of a variant, with what should come out, within `ulps`."""

    operation: Operation
    variant: str
    arguments: Callable[[], Arguments]
    expected: Callable[[Arguments], dict[str, Array]]
    ulps: float = 3


# ---- data ----


def _numbers(*shape: int) -> Array:
    """Return rows along axis 1, one high, one low, one with a sum just above 1."""
    rng = np.random.default_rng(np.prod(shape))
    x = (rng.standard_normal(shape) * 8).astype(np.float32)
    x[-1] -= 100
    x[0] = -17 - rng.random(shape[1:]) / 2
    x[0, shape[1] // 2] = 0
    return x


def _plain(*shape: int) -> Arguments:
    return Arguments(_numbers(*shape), y=(shape, np.dtype(np.float32)))


def _masked() -> Arguments:
    x = _numbers(9, 488)
    mask = np.random.default_rng(1).random(x.shape) < 0.7
    mask[:, 244] = True
    mask[3] = False
    mask[5] = np.arange(488) % 2
    x[5, 6::2] = np.inf  # masked ones
    x[5, 7] = np.nan
    return Arguments(x, mask.view(np.uint8), y=(x.shape, np.dtype(np.float32)))


def _vjp(*shape: int) -> Arguments:
    rng = np.random.default_rng(2)
    dy = (1 + rng.standard_normal(shape) / 1e3).astype(np.float32)
    y = rng.random(shape) + 0.5
    y = (y / y.sum(1, keepdims=True)).astype(np.float32)
    return Arguments(y, dy, y=(shape, np.dtype(np.float32)))


def _log_vjp() -> Arguments:
    plain = _vjp(9, 300)
    return replace(plain, x=np.log(plain.x / 8))


def _weighted() -> Arguments:
    a = _numbers(9, 300)
    b = np.random.default_rng(3).random(a.shape).astype(np.float32)
    b[:, 7::50] = 0
    a[:, 7::50] = 1e30
    b[4] = -b[4]
    once = ((9,), np.dtype(np.float32))
    return Arguments(a, b, y=once, extra=("sign",), writes={"sign": once})


def _hinge(p: int) -> Arguments:
    rng = np.random.default_rng(4)
    scores = (rng.standard_normal((6, 100)) * 8).astype(np.float32)
    labels = rng.integers(0, 100, 6)
    rows = np.arange(6)
    scores[rows, labels] = 8 * rng.random(6) + 30
    near = scores[rows, labels, None] - np.float32(0.1)
    scores[:, 40:80:8] = near + np.arange(1, 6) * np.float32(1e-5)
    scores[:, 90:96] = np.float32(41.5)  # ties
    mask = rng.random(scores.shape) < 0.7
    mask[:, 91:94] = True
    mask[0, ::2], mask[0, 1::2] = True, False
    mask[4, ::2], mask[4, 1::2] = False, True
    labels[4] = 33
    scores[4, 33] = -np.inf
    mask[rows, labels] = True
    once = ((6,), np.dtype(np.float32))
    every = "labels", "weights", None, "losses", None, np.float64(0.25)
    return Arguments(
        scores,
        mask.view(np.uint8),
        y=(scores.shape, np.dtype(np.float32)),
        extra=(*every, None, None, np.float32(0.1), np.int32(p), np.int32(1)),
        reads={"labels": labels, "weights": rng.random(6) + 0.5},
        writes={"losses": once},
    )


# ---- what should come out, in double ----


def _softmax_parts(given: Arguments) -> tuple[Array, Array]:
    """Return x - peak and log(sum(exp(x - peak)))."""
    x = given.x.astype(np.float64)
    if given.second is not None:
        x = np.where(given.second != 0, x, -np.inf)
    d = x - x.max(1, keepdims=True)
    lead = d.argmax(1)[:, None]
    others = np.exp(d)
    np.put_along_axis(others, lead, 0, 1)
    return d, np.log1p(others.sum(1, keepdims=True))


def _softmax(given: Arguments) -> dict[str, Array]:
    with np.errstate(invalid="ignore"):
        d, log_sum = _softmax_parts(given)
        y = np.exp(d - log_sum)
    if given.second is not None:
        y = np.where(given.second != 0, y, 0)
    return {"y": y}


def _log_softmax(given: Arguments) -> dict[str, Array]:
    d, log_sum = _softmax_parts(given)
    return {"y": d - log_sum}


def _two(given: Arguments) -> tuple[Array, Array]:
    assert given.second is not None
    return given.x.astype(np.float64), given.second.astype(np.float64)


def _softmax_vjp(given: Arguments) -> dict[str, Array]:
    y, dy = _two(given)
    return {"y": y * (dy - (y * dy).sum(1, keepdims=True))}


def _log_softmax_vjp(given: Arguments) -> dict[str, Array]:
    y, dy = _two(given)
    return {"y": dy - np.exp(y) * dy.sum(1, keepdims=True)}


def _weighted_logsumexp(given: Arguments) -> dict[str, Array]:
    a, b = _two(given)
    a = np.where(b == 0, -np.inf, a)
    peak = a.max(1)
    total = (b * np.exp(a - peak[:, None])).sum(1)
    return {"y": peak + np.log(abs(total)), "sign": np.sign(total)}


def _terms(given: Arguments) -> tuple[Array, Array]:
    """Return where the labels are, and the terms of a hinge loss."""
    assert given.reads is not None
    scores, mask = _two(given)
    at = given.reads["labels"][:, None]
    margin = float(given.extra[8])
    counts = mask != 0
    np.put_along_axis(counts, at, False, 1)
    base = margin - np.take_along_axis(scores, at, 1)
    with np.errstate(invalid="ignore"):
        return at, np.where(counts, np.maximum(scores + base, 0), 0)


def _hinge_results(given: Arguments, terms: Array, at: Array) -> dict[str, Array]:
    assert given.reads is not None
    scale, p = float(given.extra[5]), int(given.extra[9])
    weights = given.reads["weights"][:, None]
    slopes = np.where(terms > 0, terms ** (p - 1) * p, 0) * weights * scale
    grad = slopes.copy()
    np.put_along_axis(grad, at, -slopes.sum(1, keepdims=True), 1)
    return {"y": grad, "losses": (terms**p).sum(1) * weights[:, 0]}


def _hinge_sum(given: Arguments) -> dict[str, Array]:
    at, terms = _terms(given)
    return _hinge_results(given, terms, at)


def _hinge_largest(given: Arguments) -> dict[str, Array]:
    at, terms = _terms(given)
    scores, mask = _two(given)
    scores = np.where(mask != 0, scores, -np.inf)
    np.put_along_axis(scores, at, -np.inf, 1)
    best = scores.argmax(1)[:, None]
    only = np.zeros_like(terms)
    np.put_along_axis(only, best, np.take_along_axis(terms, best, 1), 1)
    return _hinge_results(given, only, at)


# ---- cases ----


def _shaped(*shape: int) -> Callable[[], Arguments]:
    return functools.partial(_plain, *shape)


CASES = {
    "tile": Case(variants.LOG_SOFTMAX, "tile", _shaped(201, 11), _log_softmax),
    "warp": Case(variants.LOG_SOFTMAX, "rows", _shaped(5, 488), _log_softmax),
    "short": Case(variants.SOFTMAX, "rows", _shaped(6, 36), _softmax),
    "masked": Case(variants.SOFTMAX, "rows", _masked, _softmax),
    "block": Case(variants.LOG_SOFTMAX, "block", _shaped(3, 3000), _log_softmax),
    "split": Case(variants.LOG_SOFTMAX, "split", _shaped(2, 9000), _log_softmax),
    "split vjp": Case(
        variants.SOFTMAX_VJP,
        "split",
        functools.partial(_vjp, 1, 8300),
        _softmax_vjp,
    ),
    "cluster": Case(variants.SOFTMAX, "cluster", _shaped(2, 7000), _softmax),
    "column": Case(variants.SOFTMAX, "columns", _shaped(3, 10, 45), _softmax),
    "columns": Case(
        variants.LOG_SOFTMAX, "columns of 8", _shaped(2, 100, 40), _log_softmax
    ),
    "column cluster": Case(
        variants.SOFTMAX, "column cluster", _shaped(1, 400, 40), _softmax
    ),
    "split columns": Case(
        variants.SOFTMAX, "split columns", _shaped(1, 600, 20), _softmax
    ),
    "hinge sum": Case(
        variants.HINGE_SUM, "rows", functools.partial(_hinge, 2), _hinge_sum
    ),
    "hinge largest": Case(
        variants.HINGE_LARGEST, "rows", functools.partial(_hinge, 1), _hinge_largest
    ),
    "log vjp": Case(variants.LOG_SOFTMAX_VJP, "rows", _log_vjp, _log_softmax_vjp),
    "weighted": Case(
        variants.WEIGHTED_LOGSUMEXP, "rows", _weighted, _weighted_logsumexp
    ),
}


def _launches(case: Case, given: Arguments) -> Launches:
    rows, n, inner = (*given.x.shape, 1)[:3]
    asked = cases.Case(case.operation, "float32", case.variant)
    return asked.launches(cases.Shape(rows, n, inner))


# ---- the check ----


def _ulps(got: Array, want: Array) -> float:
    """Return the largest error in units of float32, infinite where the kinds differ."""
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    tiny = float(np.finfo(np.float32).tiny)
    with np.errstate(invalid="ignore"):
        size = np.minimum(np.maximum(abs(want), tiny), 1e38)
        unit = np.spacing(size.astype(np.float32)).astype(np.float64)
        errors = np.where(same, 0, abs(got.astype(np.float64) - want) / unit)
        errors = np.where((abs(want) < tiny) & (abs(got) <= tiny), 0, errors)
    errors = np.where(np.isnan(errors), np.inf, errors)
    return float(errors.max())


def _wrong_traffic(case: Case, given: Arguments, outcome: Outcome) -> str | None:
    """Every launch reads each element once, the last one writes each result once."""
    # All threads read the positive of a hinge loss.
    more = 6 * 4 if case.operation.name.startswith("Hinge") else 0
    for number, traffic in enumerate(outcome.traffic):
        reads = traffic["x"].reads
        least, most = reads.min(), reads.max()
        if least != 1 or (reads > 1).sum() > more:
            return f"launch {number} reads x {least} to {most} times"
        wanted = int(number == len(outcome.traffic) - 1)
        again = int(wanted and given.second is not None)  # special rows of a mask
        writes = traffic["y"].writes if case.operation.has_results else wanted
        if np.min(writes) < wanted or np.max(writes) > wanted + again:
            return f"launch {number} writes y {traffic['y'].writes.max()} times"
    return None


@functools.cache
def _usual(name: str) -> tuple[tuple[int, int], ...]:
    """Return sectors and conflicts of the package's own kernel."""
    case = CASES[name]
    given = case.arguments()
    outcome = execution.run(case.operation, given, Way(), _launches(case, given))
    return tuple((report.sectors, report.conflicts) for report in outcome.reports)


def _wrong_cost(name: str, outcome: Outcome) -> str | None:
    for report, (sectors, conflicts) in zip(outcome.reports, _usual(name), strict=True):
        if report.sectors > sectors:
            return f"{report.sectors} sectors rather than {sectors}"
        if report.conflicts > conflicts:
            return f"{report.conflicts} conflicts rather than {conflicts}"
    return None


def fault_of(name: str, text: str | None = None) -> str | None:
    """Say what is wrong with the kernel that a case runs, compiled from a text."""
    case = CASES[name]
    given = case.arguments()
    launches = _launches(case, given)
    for schedule in SCHEDULES:
        way = Way(schedule=schedule, text=text)
        try:
            outcome = execution.run(case.operation, given, way, launches)
        except ptx.Fault as fault:
            return str(fault)
        for array, want in case.expected(given).items():
            error = _ulps(outcome[array], want)
            if error > case.ulps:
                return f"{array} is {error:.3g} ULP off"
        wrong = _wrong_traffic(case, given, outcome)
        if wrong is None and schedule is None:
            wrong = _wrong_cost(name, outcome)
        if wrong is not None:
            return wrong
    return None
