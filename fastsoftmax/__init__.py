"""Softmax, log-softmax, logsumexp and hinge losses for NumPy arrays: exact, and fast.

The first three are drop-ins for the functions of the same names in scipy.special; see
each one's help.
"""

import sys as _sys
from importlib import import_module as _import_module

from ._threads import short_spins as _short_spins

try:
    with _short_spins():
        _import_module("._cpu", __name__)  # loads the OpenMP runtime
except ModuleNotFoundError as error:
    if error.name != f"{__name__}._cpu":
        raise
    _sentence = (
        f"fastsoftmax was found in {__path__[0]}, a source folder without compiled "
        "kernels: run from another folder to use the installed package, or compile in "
        "place with `python setup.py build_ext --inplace`."
    )
    if _sys.argv[:1] == ["-m"]:
        raise SystemExit(_sentence) from None
    raise ImportError(_sentence) from None

from ._cpu import (
    cross_entropy,
    hinge_loss,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)
from ._settings import get_num_threads, set_num_threads, show_config
from ._settings import version as _version

__all__ = [
    "cross_entropy",
    "get_num_threads",
    "hinge_loss",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "pair_hinge_loss",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_vjp",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
