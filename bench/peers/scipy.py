"""SciPy: the functions of the same names."""

from __future__ import annotations

from ..data import Data
from .base import Call, Library


class SciPy(Library):
    """scipy.special."""

    name = package = "scipy"
    module = "scipy.special"
    ops = ("softmax", "log_softmax", "logsumexp")

    def call(self, data: Data) -> Call:
        function = getattr(self.lib, data.case.op)
        x, axis = data.x, data.case.axis
        return Call(lambda: function(x, axis=axis))
