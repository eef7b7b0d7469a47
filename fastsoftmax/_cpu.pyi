from typing import Any

import numpy as np

from ._arguments import Array

SOFTMAX: int
LOG_SOFTMAX: int
SOFTMAX_VJP: int
LOG_SOFTMAX_VJP: int

openmp: bool
openmp_runtime: str  # the path of the library; "" without OpenMP
isa: str
supported_isas: tuple[str, ...]

def openmp_limit() -> int: ...
def current_threads() -> int: ...
def keeps_mib() -> tuple[int, int]: ...
def kept_bytes() -> int: ...
def replace_lost_pages(from_now_on: bool) -> None: ...
def lost_pages() -> int: ...
def empty_like(x: Array, dtype: np.dtype[Any]) -> Array: ...
def softmax_like(
    op: int,
    x: object,
    axis: object,
    temperature: object,
    where: object,
    out: object,
    dtype: object,
) -> Any: ...
def logsumexp(
    a: object,
    axis: object,
    b: object,
    keepdims: bool,
    return_sign: bool,
    where: object,
    out: object,
    dtype: object,
) -> Any: ...
def vjp(
    op: int,
    y: object,
    dy: object,
    axis: object,
    temperature: object,
    where: object,
    out: object,
    dtype: object,
) -> Any: ...
def hinge_loss(
    scores: object,
    labels: object,
    negatives: object,
    margin: object,
    p: object,
    variant: object,
    reduction: object,
    sample_weight: object,
    where: object,
    ignore_index: object,
    return_grad: bool,
) -> Any: ...
def pair_hinge_loss(
    pos: object,
    neg: object,
    margin: object,
    p: object,
    variant: object,
    reduction: object,
    sample_weight: object,
    where: object,
    return_grad: bool,
) -> Any: ...
def cross_entropy(
    scores: object,
    labels: object,
    axis: object,
    temperature: object,
    ignore_index: object,
    label_smoothing: object,
    reduction: object,
    sample_weight: object,
    where: object,
    return_grad: bool,
) -> Any: ...
