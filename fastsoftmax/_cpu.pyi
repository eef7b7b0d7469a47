"""What type checkers see of the extension: the public functions, then what is ours.

Any is what depends on numbers of axes, a scalar or an array. Options that change no
type stand together in a TypedDict.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._arguments import Array, Axis

_T = TypeVar("_T", bound=np.inexact[Any])
_F = TypeVar("_F", bound=np.floating[Any])
_Out = TypeVar("_Out", bound=Array)
_Whole = np.integer[Any] | np.bool
_Many = Array | Sequence[Any]
_Total = Literal["sum", "mean"]

# ---- the softmax family ----

class _Where(TypedDict, total=False):
    where: ArrayLike | None

class _Any(_Where, total=False):
    temperature: ArrayLike

class _New(_Any, total=False):
    out: None

class _Typed(_Any, total=False):
    dtype: DTypeLike | None

@overload
def softmax(
    x: _T, axis: Axis = None, *, dtype: None = None, **more: Unpack[_New]
) -> _T: ...
@overload
def softmax(
    x: float | _Whole, axis: Axis = None, *, dtype: None = None, **more: Unpack[_New]
) -> np.float64: ...
@overload
def softmax(
    x: NDArray[_T], axis: Axis = None, *, dtype: None = None, **more: Unpack[_New]
) -> NDArray[_T]: ...
@overload
def softmax(
    x: NDArray[_Whole], axis: Axis = None, *, dtype: None = None, **more: Unpack[_New]
) -> NDArray[np.float64]: ...
@overload
def softmax(
    x: _Many,
    axis: Axis = None,
    *,
    dtype: type[_T] | np.dtype[_T],
    **more: Unpack[_New],
) -> NDArray[_T]: ...
@overload
def softmax(
    x: ArrayLike, axis: Axis = None, *, out: _Out, **more: Unpack[_Typed]
) -> _Out: ...
@overload
def softmax(
    x: _Many,
    axis: Axis = None,
    *,
    dtype: DTypeLike | None = None,
    **more: Unpack[_New],
) -> NDArray[Any]: ...
@overload
def softmax(
    x: ArrayLike, axis: Axis = None, *, out: Array | None = None, **more: Unpack[_Typed]
) -> Any: ...

log_softmax = softmax  # takes the same, and gives the same types

class _Sums(_Where, total=False):
    dtype: DTypeLike | None

class _NewSums(_Where, total=False):
    dtype: None
    out: None

@overload
def logsumexp(
    a: _F | NDArray[_F],
    axis: None = None,
    b: None = None,
    keepdims: Literal[False] = False,
    return_sign: Literal[False] = False,
    **more: Unpack[_NewSums],
) -> _F: ...
@overload
def logsumexp(
    a: _F | NDArray[_F],
    axis: None = None,
    b: None = None,
    keepdims: Literal[False] = False,
    *,
    return_sign: Literal[True],
    **more: Unpack[_NewSums],
) -> tuple[_F, _F]: ...
@overload
def logsumexp(
    a: NDArray[_F],
    axis: Axis = None,
    b: None = None,
    *,
    keepdims: Literal[True],
    return_sign: Literal[False] = False,
    **more: Unpack[_NewSums],
) -> NDArray[_F]: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    *,
    return_sign: Literal[True],
    out: Array | None = None,
    **more: Unpack[_Sums],
) -> tuple[Any, Any]: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    *,
    out: _Out,
    **more: Unpack[_Sums],
) -> _Out: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    out: Array | None = None,
    **more: Unpack[_Sums],
) -> Any: ...
@overload
def softmax_vjp(
    y: NDArray[_F],
    dy: NDArray[_F],
    axis: Axis = None,
    *,
    dtype: None = None,
    **more: Unpack[_New],
) -> NDArray[_F]: ...
@overload
def softmax_vjp(
    y: _Many,
    dy: ArrayLike,
    axis: Axis = None,
    *,
    dtype: type[_F] | np.dtype[_F],
    **more: Unpack[_New],
) -> NDArray[_F]: ...
@overload
def softmax_vjp(
    y: ArrayLike, dy: ArrayLike, axis: Axis = None, *, out: _Out, **more: Unpack[_Typed]
) -> _Out: ...
@overload
def softmax_vjp(
    y: _Many,
    dy: ArrayLike,
    axis: Axis = None,
    *,
    dtype: DTypeLike | None = None,
    **more: Unpack[_New],
) -> NDArray[Any]: ...
@overload
def softmax_vjp(
    y: ArrayLike,
    dy: ArrayLike,
    axis: Axis = None,
    *,
    out: Array | None = None,
    **more: Unpack[_Typed],
) -> Any: ...

log_softmax_vjp = softmax_vjp

# ---- the losses ----

class _Pairs(_Where, total=False):
    margin: float
    p: int
    variant: str
    sample_weight: ArrayLike | None

class _Hinge(_Pairs, total=False):
    negatives: int | None
    ignore_index: int | None

class _Entropy(_Any, total=False):
    ignore_index: int | None
    label_smoothing: float
    sample_weight: ArrayLike | None

@overload
def hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    reduction: _Total = "sum",
    return_grad: Literal[False] = False,
    **more: Unpack[_Hinge],
) -> np.floating[Any]: ...
@overload
def hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    reduction: Literal["pairs"],
    return_grad: Literal[False] = False,
    **more: Unpack[_Hinge],
) -> NDArray[Any]: ...
@overload
def hinge_loss(
    scores: NDArray[_F],
    labels: ArrayLike | None = None,
    *,
    reduction: _Total = "sum",
    return_grad: Literal[True],
    **more: Unpack[_Hinge],
) -> tuple[np.floating[Any], NDArray[_F]]: ...
@overload
def hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    reduction: str = "sum",
    return_grad: Literal[True],
    **more: Unpack[_Hinge],
) -> tuple[Any, NDArray[Any]]: ...
@overload
def hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    reduction: str = "sum",
    return_grad: bool = False,
    **more: Unpack[_Hinge],
) -> Any: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: _Total = "sum",
    return_grad: Literal[False] = False,
    **more: Unpack[_Pairs],
) -> np.floating[Any]: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: Literal["pairs"],
    return_grad: Literal[False] = False,
    **more: Unpack[_Pairs],
) -> NDArray[Any]: ...
@overload
def pair_hinge_loss(
    pos: NDArray[_F],
    neg: NDArray[_F],
    *,
    reduction: _Total = "sum",
    return_grad: Literal[True],
    **more: Unpack[_Pairs],
) -> tuple[np.floating[Any], tuple[NDArray[_F], NDArray[_F]]]: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: str = "sum",
    return_grad: Literal[True],
    **more: Unpack[_Pairs],
) -> tuple[Any, tuple[NDArray[Any], NDArray[Any]]]: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: str = "sum",
    return_grad: bool = False,
    **more: Unpack[_Pairs],
) -> Any: ...
@overload
def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    reduction: _Total = "mean",
    return_grad: Literal[False] = False,
    **more: Unpack[_Entropy],
) -> np.floating[Any]: ...
@overload
def cross_entropy(
    scores: NDArray[_F],
    labels: ArrayLike,
    axis: int = -1,
    *,
    reduction: _Total = "mean",
    return_grad: Literal[True],
    **more: Unpack[_Entropy],
) -> tuple[np.floating[Any], NDArray[_F]]: ...
@overload
def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    reduction: str = "mean",
    return_grad: Literal[True],
    **more: Unpack[_Entropy],
) -> tuple[Any, NDArray[Any]]: ...
@overload
def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    **more: Unpack[_Entropy],
) -> Any: ...

# ---- what the package itself uses ----

openmp: bool
openmp_runtime: str  # the path of the library; "" without OpenMP
isa: str
supported_isas: tuple[str, ...]

def openmp_limit() -> int: ...
def set_openmp_limit(limit: int) -> None: ...
def share_always(yes: bool) -> None: ...
def current_threads() -> int: ...
def keeps_mib() -> tuple[int, int]: ...
def kept_bytes() -> int: ...
def replace_lost_pages(from_now_on: bool) -> None: ...
def lost_pages() -> int: ...
def empty_like(x: Array, dtype: np.dtype[Any]) -> Array: ...
