"""The table in docs/hinge.md of other libraries' losses: every line is run.

Each is compared with the other library's definition, written out here, and with the
library itself where it is installed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastsoftmax import hinge_loss, pair_hinge_loss

Array = npt.NDArray[Any]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "hinge.md"
LINE = re.compile(r"^\| `((?:torch|sklearn|optax|keras)\..*?)` \| `(.*?)` \|$", re.M)
if not PAGE.exists():
    pytest.skip("needs docs/, beside tests/", allow_module_level=True)
LINES = LINE.findall(PAGE.read_text())

rng = np.random.default_rng(0)
B, C = 40, 7
GIVEN: dict[str, Any] = {
    # All scores of the first rows are negative: there Keras differs from the rest.
    "S": rng.normal(size=(B, C)) - 3 * (np.arange(B) < 5)[:, None],
    "y": rng.permutation(np.arange(B) % C),
    "w": rng.uniform(0.5, 2, C),
    "v": rng.uniform(0.5, 2, B),
    "m": 0.7,
    "a": rng.normal(size=B),
    "b": rng.normal(size=B),
    "t": rng.choice([-1, 1], B),
}
GIVEN["onehot"] = np.eye(C)[GIVEN["y"]]


def multi_margin_loss(
    S: Array,  # noqa: N803
    y: Array,
    p: int = 1,
    margin: float = 1.0,
    weight: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """PyTorch's: the sum over the other classes, divided by their number plus one."""
    rows = np.zeros(len(y))
    for i, label in enumerate(y):
        for j, score in enumerate(S[i]):
            term = max(0.0, margin - S[i, label] + score) ** p if j != label else 0.0
            rows[i] += term * (1 if weight is None else weight[label]) / S.shape[1]
    return rows.mean() if reduction == "mean" else rows


def margin_ranking_loss(a: Array, b: Array, t: Array, margin: float) -> Any:
    return np.maximum(0, -t * (a - b) + margin).mean()


def sklearn_hinge_loss(
    true: Array, decision: Array, sample_weight: Array | None = None
) -> Any:
    if decision.ndim == 1:
        return np.maximum(0, 1 - true * decision).mean()
    return np.average(multiclass_hinge_loss(decision, true), weights=sample_weight)


def multiclass_hinge_loss(S: Array, y: Array) -> Array:  # noqa: N803
    others = np.where(np.eye(S.shape[1])[y] == 1, -np.inf, S)
    return np.maximum(0, 1 + others.max(axis=1) - S[np.arange(len(y)), y])


def categorical_hinge(onehot: Array, S: Array) -> Array:  # noqa: N803
    positive = np.sum(onehot * S, axis=-1)
    negative = np.max((1 - onehot) * S, axis=-1)
    return np.maximum(negative - positive + 1, 0)


DEFINITIONS: dict[str, Callable[..., Any]] = {
    "torch.nn.functional.multi_margin_loss": multi_margin_loss,
    "torch.nn.functional.margin_ranking_loss": margin_ranking_loss,
    "sklearn.metrics.hinge_loss": sklearn_hinge_loss,
    "optax.losses.multiclass_hinge_loss": multiclass_hinge_loss,
    "keras.losses.categorical_hinge": categorical_hinge,
}


def ours(code: str) -> Any:
    functions = {"hinge_loss": hinge_loss, "pair_hinge_loss": pair_hinge_loss, "np": np}
    return eval(code, functions | GIVEN)


def arguments(code: str) -> str:
    return code[code.index("(") :]


def test_every_definition_is_in_the_table() -> None:
    assert {there.split("(")[0] for there, _ in LINES} == DEFINITIONS.keys()


@pytest.mark.parametrize(("there", "here"), LINES)
def test_equals_the_definition(there: str, here: str) -> None:
    definition = DEFINITIONS[there.split("(")[0]]
    expected = eval(f"definition{arguments(there)}", {"definition": definition} | GIVEN)
    result = ours(here)
    assert np.shape(result) == np.shape(expected)
    assert np.all(expected > 0) or np.shape(expected)
    np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-15)


# The others are large, and their definitions short.
OF_LIBRARIES = [line for line in LINES if line[0].startswith(("torch.", "sklearn."))]


@pytest.mark.parametrize(("there", "here"), OF_LIBRARIES)
def test_equals_the_library(there: str, here: str) -> None:
    name = there.split(".")[0]
    pytest.importorskip(name, reason=f"{name} is not installed")
    given = GIVEN
    if name == "torch":
        torch = importlib.import_module("torch")
        given = {
            key: torch.tensor(value) if isinstance(value, np.ndarray) else value
            for key, value in GIVEN.items()
        }
    module, function = there.split("(")[0].rsplit(".", 1)
    theirs = getattr(importlib.import_module(module), function)
    expected = np.asarray(eval(f"theirs{arguments(there)}", {"theirs": theirs} | given))
    np.testing.assert_allclose(ours(here), expected, rtol=1e-6, atol=1e-6)


def test_scores_that_are_all_negative_tell_keras_from_the_rest() -> None:
    rows = slice(0, 5)
    theirs = categorical_hinge(GIVEN["onehot"], GIVEN["S"])[rows]
    assert not np.allclose(theirs, multiclass_hinge_loss(GIVEN["S"], GIVEN["y"])[rows])
