from typing import Any

from .plan import Plan

SOFTMAX: int
LOG_SOFTMAX: int
LOGSUMEXP: int
TYPES: dict[str, int]

openmp: bool
isa: str
supported_isas: tuple[str, ...]

def openmp_limit() -> int: ...
def current_threads() -> int: ...
def run(op: int, plan: Plan) -> None: ...
def fast(op: int, x: object, axis: object) -> Any | None: ...
