"""Softmax, log-softmax, logsumexp and hinge losses for NumPy arrays: exact, and fast.

The first three are drop-ins for the functions of the same names in scipy.special; see
each one's help.
"""

import sys
from importlib import import_module

from .threads import short_spins

try:
    with short_spins():
        import_module(".cpu", __name__)  # loads the OpenMP runtime
except ModuleNotFoundError as error:
    if error.name != f"{__name__}.cpu":
        raise
    sentence = (
        f"fastsoftmax was found in {__path__[0]}, a source folder without compiled "
        "kernels: run from another folder to use the installed package, or compile in "
        "place with `python setup.py build_ext --inplace`."
    )
    if sys.argv[:1] == ["-m"]:
        raise SystemExit(sentence) from None
    raise ImportError(sentence) from None

from .api import log_softmax, log_softmax_vjp, logsumexp, softmax, softmax_vjp
from .hinge import hinge_loss, pair_hinge_loss
from .settings import get_num_threads, set_num_threads, show_config

__all__ = [
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
