"""What is measured against all others."""

from __future__ import annotations

from ..cases import OPS, WEIGHTED, Case
from ..data import Data
from .base import Call, Library, weighted


class Ours(Library):
    """This package, called as its README says."""

    name = module = package = "fastsoftmax"
    ops = OPS
    has_out = True

    def start(self) -> None:
        self.lib.set_num_threads(self.threads)

    def supports(self, case: Case) -> str:
        if case.call == "out=" and case.op.startswith(("hinge", *WEIGHTED)):
            return "has no out= for losses and signs"
        return super().supports(case)

    def call(self, data: Data) -> Call:
        case, axis = data.case, data.case.axis
        if case.op.startswith("hinge"):
            return self._hinge(data)
        if case.op in WEIGHTED:
            return weighted(self.lib.logsumexp, data)
        function = getattr(self.lib, case.op)
        if case.op.endswith("_vjp"):
            y, dy = data.y, data.dy
            if case.call == "out=":
                out = data.out
                return Call(lambda: function(y, dy, axis=axis, out=out))
            return Call(lambda: function(y, dy, axis=axis))
        x = data.x
        if case.call == "out=":
            out = data.out
            return Call(lambda: function(x, axis=axis, out=out))
        return Call(lambda: function(x, axis=axis))

    def _hinge(self, data: Data) -> Call:
        function, x, labels = self.lib.hinge_loss, data.x, data.labels
        if data.case.op == "hinge_grad":
            return Call(
                lambda: function(x, labels, return_grad=True), lambda pair: pair[1]
            )
        return Call(lambda: function(x, labels))
