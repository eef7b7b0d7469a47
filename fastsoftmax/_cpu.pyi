from typing import Any

import numpy as np

from . import _hinge_plan
from ._plan import Array, Plan

SOFTMAX: int
LOG_SOFTMAX: int
LOGSUMEXP: int
SOFTMAX_VJP: int
LOG_SOFTMAX_VJP: int
TYPES: dict[str, int]

openmp: bool
isa: str
supported_isas: tuple[str, ...]

def openmp_limit() -> int: ...
def current_threads() -> int: ...
def keeps_mib() -> tuple[int, int]: ...
def kept_bytes() -> int: ...
def empty_like(x: Array, dtype: np.dtype[Any]) -> Array: ...
def run(op: int, plan: Plan) -> None: ...
def run_hinge(plan: _hinge_plan.Plan) -> float: ...
def fast(
    op: int,
    x: object,
    axis: object,
    temperature: object,
    where: object,
    out: object,
) -> Any | None: ...
def fast_vjp(
    op: int, y: object, dy: object, axis: object, temperature: object, out: object
) -> Any | None: ...
def fast_hinge(
    scores: object,
    labels: object,
    negatives: object,
    margin: object,
    p: object,
    variant: object,
    reduction: object,
    weights: object,
    return_grad: bool,
) -> tuple[Any, Any] | None: ...
