"""SciPy: the functions of the same names."""

from __future__ import annotations

from ..cases import WEIGHTED
from ..data import Data
from .base import Call, Library, weighted


class SciPy(Library):
    """scipy.special."""

    name = package = "scipy"
    module = "scipy.special"
    ops = ("softmax", "log_softmax", "logsumexp", *WEIGHTED)

    def call(self, data: Data) -> Call:
        x, axis = data.x, data.case.axis
        if data.case.op in WEIGHTED:
            return weighted(self.lib.logsumexp, data)
        function = getattr(self.lib, data.case.op)
        return Call(lambda: function(x, axis=axis))
