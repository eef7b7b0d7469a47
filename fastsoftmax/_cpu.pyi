"""What type checkers see of the extension: the public functions, then what is ours.

Any is what depends on numbers of axes: a scalar or an array. What changes no type, or
must be left as it is for the type that is said, stands in a TypedDict.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._arguments import Array, Axis

_T = TypeVar("_T", bound=np.inexact[Any])
_F = TypeVar("_F", bound=np.floating[Any])
_Out = TypeVar("_Out", bound=Array)
_DType = type[_T] | np.dtype[_T]
_Whole = np.integer[Any] | np.bool
_Many = Array | Sequence[Any]
_Maybe = ArrayLike | None
_Yes = Literal[True]
_No = Literal[False]

# ---- the softmax family ----

class _Masked(TypedDict, total=False):
    where: _Maybe

class _Scaled(_Masked, total=False):
    temperature: ArrayLike

class _New(_Scaled, total=False):
    out: None

class _Same(_New, total=False):
    dtype: None

class _Typed(_Scaled, total=False):
    dtype: DTypeLike | None

@overload
def softmax(x: _T, axis: Axis = None, **kw: Unpack[_Same]) -> _T: ...
@overload
def softmax(
    x: float | _Whole, axis: Axis = None, **kw: Unpack[_Same]
) -> np.float64: ...
@overload
def softmax(x: NDArray[_T], axis: Axis = None, **kw: Unpack[_Same]) -> NDArray[_T]: ...
@overload
def softmax(
    x: NDArray[_Whole], axis: Axis = None, **kw: Unpack[_Same]
) -> NDArray[np.float64]: ...
@overload
def softmax(
    x: _Many, axis: Axis = None, *, dtype: _DType[_T], **kw: Unpack[_New]
) -> NDArray[_T]: ...
@overload
def softmax(
    x: ArrayLike, axis: Axis = None, *, out: _Out, **kw: Unpack[_Typed]
) -> _Out: ...
@overload
def softmax(
    x: _Many, axis: Axis = None, *, dtype: DTypeLike | None = None, **kw: Unpack[_New]
) -> NDArray[Any]: ...
@overload
def softmax(
    x: ArrayLike, axis: Axis = None, *, out: Array | None = None, **kw: Unpack[_Typed]
) -> Any: ...

log_softmax = softmax  # takes the same, and gives the same types

@overload
def softmax_vjp(
    y: NDArray[_F], dy: NDArray[_F], axis: Axis = None, **kw: Unpack[_Same]
) -> NDArray[_F]: ...
@overload
def softmax_vjp(
    y: _Many, dy: ArrayLike, axis: Axis = None, *, dtype: _DType[_F], **kw: Unpack[_New]
) -> NDArray[_F]: ...
@overload
def softmax_vjp(
    y: ArrayLike, dy: ArrayLike, axis: Axis = None, *, out: _Out, **kw: Unpack[_Typed]
) -> _Out: ...
@overload
def softmax_vjp(
    y: _Many,
    dy: ArrayLike,
    axis: Axis = None,
    *,
    dtype: DTypeLike | None = None,
    **kw: Unpack[_New],
) -> NDArray[Any]: ...
@overload
def softmax_vjp(
    y: ArrayLike,
    dy: ArrayLike,
    axis: Axis = None,
    *,
    out: Array | None = None,
    **kw: Unpack[_Typed],
) -> Any: ...

log_softmax_vjp = softmax_vjp

class _Sum(_Masked, total=False):
    b: None
    out: None
    dtype: None

class _OfAll(_Sum, total=False):
    keepdims: _No

class _Log(_OfAll, total=False):
    return_sign: _No

class _Kept(_Sum, total=False):
    return_sign: _No

class _Signed(_Masked, total=False):
    b: _Maybe
    keepdims: bool
    out: Array | None
    dtype: DTypeLike | None

@overload
def logsumexp(a: _F | NDArray[_F], axis: None = None, **kw: Unpack[_Log]) -> _F: ...
@overload
def logsumexp(
    a: _F | NDArray[_F], axis: None = None, *, return_sign: _Yes, **kw: Unpack[_OfAll]
) -> tuple[_F, _F]: ...
@overload
def logsumexp(
    a: NDArray[_F], axis: Axis = None, *, keepdims: _Yes, **kw: Unpack[_Kept]
) -> NDArray[_F]: ...
@overload
def logsumexp(
    a: ArrayLike, axis: Axis = None, *, return_sign: _Yes, **kw: Unpack[_Signed]
) -> tuple[Any, Any]: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: _Maybe = None,
    keepdims: bool = False,
    return_sign: _No = False,
    *,
    where: _Maybe = None,
    out: _Out,
    dtype: DTypeLike | None = None,
) -> _Out: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: _Maybe = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    where: _Maybe = None,
    out: Array | None = None,
    dtype: DTypeLike | None = None,
) -> Any: ...

# ---- the losses ----

class _Weighted(TypedDict, total=False):
    where: _Maybe
    sample_weight: _Maybe

class _Pairs(_Weighted, total=False):
    margin: float
    p: int
    variant: str

class _Hinge(_Pairs, total=False):
    negatives: int | None
    ignore_index: int | None

class _Entropy(_Weighted, total=False):
    temperature: ArrayLike
    ignore_index: int | None
    label_smoothing: float

_Total = Literal["sum", "mean"]

class _PairTotal(_Pairs, total=False):
    reduction: _Total

class _HingeTotal(_Hinge, total=False):
    reduction: _Total

class _EntropyTotal(_Entropy, total=False):
    reduction: _Total

@overload
def hinge_loss(
    scores: ArrayLike,
    labels: _Maybe = None,
    *,
    return_grad: _No = False,
    **kw: Unpack[_HingeTotal],
) -> np.floating[Any]: ...
@overload
def hinge_loss(
    scores: ArrayLike,
    labels: _Maybe = None,
    *,
    reduction: Literal["pairs"],
    return_grad: _No = False,
    **kw: Unpack[_Hinge],
) -> NDArray[Any]: ...
@overload
def hinge_loss(
    scores: NDArray[_F],
    labels: _Maybe = None,
    *,
    return_grad: _Yes,
    **kw: Unpack[_HingeTotal],
) -> tuple[np.floating[Any], NDArray[_F]]: ...
@overload
def hinge_loss(
    scores: ArrayLike,
    labels: _Maybe = None,
    *,
    reduction: str = "sum",
    return_grad: _Yes,
    **kw: Unpack[_Hinge],
) -> tuple[Any, NDArray[Any]]: ...
@overload
def hinge_loss(
    scores: ArrayLike,
    labels: _Maybe = None,
    *,
    reduction: str = "sum",
    return_grad: bool = False,
    **kw: Unpack[_Hinge],
) -> Any: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    return_grad: _No = False,
    **kw: Unpack[_PairTotal],
) -> np.floating[Any]: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: Literal["pairs"],
    return_grad: _No = False,
    **kw: Unpack[_Pairs],
) -> NDArray[Any]: ...
@overload
def pair_hinge_loss(
    pos: NDArray[_F], neg: NDArray[_F], *, return_grad: _Yes, **kw: Unpack[_PairTotal]
) -> tuple[np.floating[Any], tuple[NDArray[_F], NDArray[_F]]]: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: str = "sum",
    return_grad: _Yes,
    **kw: Unpack[_Pairs],
) -> tuple[Any, tuple[NDArray[Any], NDArray[Any]]]: ...
@overload
def pair_hinge_loss(
    pos: ArrayLike,
    neg: ArrayLike,
    *,
    reduction: str = "sum",
    return_grad: bool = False,
    **kw: Unpack[_Pairs],
) -> Any: ...
@overload
def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    return_grad: _No = False,
    **kw: Unpack[_EntropyTotal],
) -> np.floating[Any]: ...
@overload
def cross_entropy(
    scores: NDArray[_F],
    labels: ArrayLike,
    axis: int = -1,
    *,
    return_grad: _Yes,
    **kw: Unpack[_EntropyTotal],
) -> tuple[np.floating[Any], NDArray[_F]]: ...
@overload
def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    reduction: str = "mean",
    return_grad: _Yes,
    **kw: Unpack[_Entropy],
) -> tuple[Any, NDArray[Any]]: ...
@overload
def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    **kw: Unpack[_Entropy],
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
