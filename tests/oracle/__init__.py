"""One table of oracles: each function, what it should give, and how near.

The files of tests each hold one guarantee, and iterate over the rows of this table.

A row says how the function is called (`call`), what it should give (`judge`: the exact
values, in wide arithmetic, and how far a result may be off), which inputs are hard
(`cases`, `special`), and which options it takes. All work on rows: operands [B, n], or
[B] where there is one element for each set. `over` lays them out as the function is to
see them, and brings the results back.

To add a function:

1. Write its exact value and its stated bound over rows in a module here: a plain
   formula in long double, which returns a `Judge` for each result.
2. Write its cases in inputs.py: "ordinary" rows, those that are hard, special values.
3. Add its row to ORACLES.

Files on accuracy, special values, layouts, bits and threads then ask of it what they
ask of the others. Known values, identities and errors of its own go to its own file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fastsoftmax as fs

from . import entropies, gradients, hinges, inputs, softmaxes, weights
from .arithmetic import (
    Array,
    Judge,
    assert_all_right,
    computed,
    native,
    silently,
)
from .arrays import COLUMNS, LAYOUTS, PLACES, ROWS, Axes, Place, as_rows
from .inputs import Case


@dataclass(frozen=True)
class Oracle:
    """One function; see the module's text."""

    name: str
    call: Callable[..., tuple[Any, ...]]  # (*operands, axis, **options)
    judge: Callable[..., tuple[Judge, ...]]  # (*rows, dtype, **options)
    cases: dict[str, Case]
    special: Callable[[int], tuple[Array, ...]]
    types: Callable[[Any], tuple[np.dtype[Any], ...]]  # of results, for an input's
    takes: frozenset[str] = field(default_factory=frozenset)
    arrays: int = 1  # operands that have the dimension n
    # Of a loss, with any reduction: the pair that a call gives, and what says what both
    # should be.
    total: Callable[..., tuple[Any, Any]] = NotImplemented
    batch: Callable[..., hinges.Batch | entropies.Batch] = NotImplemented

    def __str__(self) -> str:
        return self.name

    def draw(
        self, rows: int, n: int, dtype: Any = np.float64, case: str = "ordinary"
    ) -> tuple[Array, ...]:
        """Rows that are the same for every type, but for their rounding."""
        rng = np.random.default_rng([n, rows, list(self.cases).index(case)])
        given = self.cases[case](rng, (rows, n), dtype)
        return self.typed(given, dtype)

    def typed(self, given: tuple[Array, ...], dtype: Any) -> tuple[Array, ...]:
        """Operands that have n in that type; labels are what they are."""
        if np.dtype(dtype).kind in "bu":
            given = tuple(abs(x) for x in given)
        of_n, others = given[: self.arrays], given[self.arrays :]
        return (*(x.astype(dtype) for x in of_n), *others)

    def over(
        self,
        given: tuple[Array, ...],
        place: Place = ROWS,
        lay: Callable[[Array], Array] | None = None,
        **options: Any,
    ) -> tuple[Array, ...]:
        """Results for rows, laid along an axis and then in memory."""
        laid = [place.lay(x) for x in given]
        if lay is not None:
            laid[: self.arrays] = [lay(x) for x in laid[: self.arrays]]
        for name in ("where", "sample_weight", "temperature"):
            if isinstance(options.get(name), np.ndarray):
                shape = given[0].shape[: 1 if name == "sample_weight" else 2]
                options[name] = place.lay(np.broadcast_to(options[name], shape))
        if isinstance(options.get("temperature"), np.ndarray):
            options["temperature"] = options["temperature"].take([0], place.axis)
        results = silently(self.call, *laid, axis=place.axis, **options)
        return tuple(place.rows(np.asarray(y), given[0]) for y in results)

    def judges(
        self, given: tuple[Array, ...], axis: Axes = -1, **options: Any
    ) -> tuple[Judge, ...]:
        """Of operands of any shape, over any axes."""
        first = given[0]
        rows, back = as_rows(first, axis)
        others = [
            as_rows(np.broadcast_to(x, first.shape), axis)[0]
            if k < self.arrays
            else x.reshape(-1)
            for k, x in enumerate(given[1:], 1)
        ]
        for name in ("where", "temperature"):
            if np.ndim(options.get(name)):
                whole = np.broadcast_to(options[name], first.shape)
                options[name] = as_rows(whole, axis)[0]
        found = self.judge(rows, *others, **options)
        return tuple(Judge(back(j.value), back(j.allowed)) for j in found)

    def check(
        self, given: tuple[Array, ...], axis: Axes = -1, **options: Any
    ) -> tuple[Any, ...]:
        """Call on operands of any shape; the results, which are right."""
        results = silently(self.call, *given, axis=axis, **options)
        options.pop("out", None)
        assert_all_right(results, self.judges(given, axis, **options), f"axis {axis}")
        return results


# ---- the softmaxes, their gradients ----


def _softmax(name: str) -> Oracle:
    function = getattr(fs, name)

    def judge(*rows: Array, dtype: Any = None, **options: Any) -> tuple[Judge, ...]:
        found = softmaxes.judge(name, *rows, dtype=dtype, **options)
        return (found.rounded_to(native(rows[0].dtype if dtype is None else dtype)),)

    takes = {"axes", "where", "out", "dtype"}
    return Oracle(
        name,
        lambda *operands, **options: (function(*operands, **options),),
        judge,
        inputs.LOGITS,
        inputs.special_logits,
        lambda dtype: (native(dtype),),
        frozenset(takes if name == "logsumexp" else {*takes, "temperature", "like x"}),
    )


WEIGHTED = Oracle(
    "logsumexp of weights",
    lambda a, b, axis, **options: fs.logsumexp(a, axis, b, return_sign=True, **options),
    weights.judge,
    inputs.WEIGHTED,
    inputs.special_weights,
    lambda dtype: (native(dtype), native(dtype)),
    frozenset({"axes", "where", "dtype"}),
    arrays=2,
)


def _gradient(name: str) -> Oracle:
    function, is_log = getattr(fs, name), name.startswith("log")

    def judge(y: Array, dy: Array, **options: Any) -> tuple[Judge, ...]:
        if "dtype" not in options:
            options["dtype"] = native(np.result_type(y, dy))
        judge = gradients.judge(name, y, dy, **options)
        return (judge.rounded_to(options["dtype"]),)

    return Oracle(
        name,
        lambda *operands, **options: (function(*operands, **options),),
        judge,
        inputs.LOGARITHMS if is_log else inputs.PROBABILITIES,
        functools.partial(inputs.special_gradients, is_log),
        lambda dtype: (native(dtype),),
        frozenset({"axes", "out", "temperature", "like x"}),
        arrays=2,
    )


# ---- losses: those of the rows, and the gradient of their sum ----


def _of_rows(
    batch: Callable[..., hinges.Batch | entropies.Batch],
    *given: Array,
    **options: Any,
) -> tuple[Judge, ...]:
    found = batch(*given, **options)
    return found.loss(given[0].dtype), found.gradient(given[0].dtype)


def hinge_as(
    form: str, scores: Array, labels: Any = None, **options: Any
) -> tuple[Any, Any]:
    """Pass rows over the last axis in one of the forms; results as for column 0."""
    options = {"reduction": "none", "return_grad": True, **options}
    n = scores.shape[-1]
    at_0 = form == "labels" and labels is None
    if at_0:
        labels = np.zeros(scores.shape[:-1], int)
    if form in ("column 0", "labels"):
        result = fs.hinge_loss(scores, labels, **options)
    elif form == "flat":
        if options.get("where") is not None:
            mask = np.broadcast_to(options["where"], scores.shape)
            options["where"] = mask.reshape(-1)
        result = fs.hinge_loss(scores.reshape(-1), negatives=n - 1, **options)
    else:
        where = options.get("where")
        if where is not None and np.ndim(where) and np.shape(where)[-1] > 1:
            options["where"] = where[..., 1:]
        pos = scores[..., 0] if form == "pairs" else scores[..., :1]
        result = fs.pair_hinge_loss(pos, scores[..., 1:], **options)
    if at_0 and options["reduction"] == "pairs":
        assert not result[..., 0].astype(float).any()
        result = result[..., 1:]
    if not options["return_grad"]:
        return result, None
    loss, grad = result
    if isinstance(grad, tuple):
        assert grad[0].shape == pos.shape
        grad = (grad[0].reshape(*scores.shape[:-1], 1), grad[1])
        grad = np.concatenate(grad, axis=-1)
    return loss, grad.reshape(scores.shape)


def _hinge(form: str, p: int, variant: str) -> Oracle:
    def call(
        scores: Array, labels: Any = None, axis: int = -1, **options: Any
    ) -> tuple[Any, Any]:
        if isinstance(options.get("where"), np.ndarray) and options["where"].ndim:
            options["where"] = np.moveaxis(options["where"], axis, -1)
        moved = np.moveaxis(scores, axis, -1)
        options = {"p": p, "variant": variant, **options}
        losses, grad = hinge_as(form, moved, labels, **options)
        return losses, np.moveaxis(grad, -1, axis)

    def with_labels(case: Case) -> Case:
        return lambda rng, shape, dtype: inputs.labelled(case(rng, shape, dtype)[0])

    def special(n: int) -> tuple[Array, ...]:
        given = inputs.special_of_loss(n, variant)
        return inputs.labelled(*given) if form == "labels" else given

    cases = inputs.SCORES
    if form == "labels":
        cases = {name: with_labels(case) for name, case in cases.items()}
    batch = functools.partial(hinges.batch, p=p, variant=variant)
    return Oracle(
        f"hinge {form} {variant} p={p}",
        call,
        functools.partial(_of_rows, batch),
        cases,
        special,
        lambda dtype: (computed(dtype), native(dtype)),
        frozenset({"where", "weights", "margin", "like x"}),
        total=functools.partial(hinge_as, form, p=p, variant=variant),
        batch=batch,
    )


def _entropy(form: str) -> Oracle:
    def total(*given: Array, **options: Any) -> tuple[Any, Any]:
        options = {"reduction": "none", "return_grad": True, **options}
        result = fs.cross_entropy(*given, **options)
        return result if options["return_grad"] else (result, None)

    def case_of(name: str) -> Case:
        return lambda rng, shape, dtype: inputs.with_targets(
            form, *inputs.LOGITS[name](rng, shape, dtype)
        )

    return Oracle(
        f"cross_entropy {form}",
        total,
        functools.partial(_of_rows, entropies.batch),
        {name: case_of(name) for name in inputs.OF_ENTROPY},
        lambda n: inputs.with_targets(form, *inputs.special_logits(n)),
        lambda dtype: (computed(dtype), native(dtype)),
        frozenset({"where", "weights", "temperature", "like x"}),
        arrays=2 if form == "targets" else 1,
        total=total,
        batch=entropies.batch,
    )


FORMS = ("column 0", "labels", "pairs", "flat", "pairs [B, 1]")
SOFTMAXES = [_softmax(name) for name in ("softmax", "log_softmax", "logsumexp")]
GRADIENTS = [_gradient(name) for name in ("softmax_vjp", "log_softmax_vjp")]
ALL_HINGES = [_hinge(form, *loss) for form in FORMS for loss in hinges.LOSSES]
# Each form of the first three with two losses, each loss with one form or two: what
# they do to each other, test_special_values.py and test_accuracy.py ask of all.
HINGES = [ALL_HINGES[i] for i in (0, 3, 5, 6, 8, 11)]
ENTROPIES = [_entropy(form) for form in ("labels", "targets")]
ORACLES = [*SOFTMAXES, *GRADIENTS, *HINGES, *ENTROPIES, WEIGHTED]
OF_FUNCTION = {getattr(fs, o.name): o for o in (*SOFTMAXES, *GRADIENTS)}
# Those that are judged by the same exact numbers are asked together.
FAMILIES = [SOFTMAXES, *([oracle] for oracle in ORACLES[3:])]


def of_every(
    rows: Iterable[Oracle] = ORACLES, taking: str = "", without: str = ""
) -> Any:
    """Parametrise over the rows that take some option."""
    chosen = [
        o
        for o in rows
        if (not taking or taking in o.takes) and (not without or without not in o.takes)
    ]
    return pytest.mark.parametrize("oracle", chosen, ids=str)


def right(
    function: Callable[..., Any], *given: Any, axis: Axes = None, **options: Any
) -> Judge:
    """What a call of a softmax, or of a gradient, gives."""
    first, *others = map(np.asarray, given)
    others = [np.broadcast_to(x, first.shape) for x in others]
    [judge] = OF_FUNCTION[function].judges((first, *others), axis, **options)
    return judge


def name_of(family: Any) -> str:
    """The id of a family; of anything else its own."""
    if not isinstance(family, list):
        return str(family)
    return "softmaxes" if len(family) > 1 else family[0].name


def taken(given: tuple[Array, ...], index: Any) -> tuple[Array, ...]:
    """Some of the rows, each operand a copy."""
    return tuple(x[index].copy() for x in given)


__all__ = [
    "ALL_HINGES",
    "COLUMNS",
    "ENTROPIES",
    "FAMILIES",
    "FORMS",
    "GRADIENTS",
    "HINGES",
    "LAYOUTS",
    "ORACLES",
    "PLACES",
    "ROWS",
    "SOFTMAXES",
    "WEIGHTED",
    "Oracle",
    "Place",
    "hinge_as",
    "name_of",
    "of_every",
    "right",
    "taken",
]
