"""PyTorch: tensors that share the array's memory, no autograd where none is needed."""

from __future__ import annotations

from typing import Any

from ..cases import OPS, WEIGHTED, Case
from ..data import Data
from .base import Call, Library


class Torch(Library):
    """Functions of torch; the gradients are what its autograd calls."""

    name = module = package = "torch"
    ops = tuple(op for op in OPS if op not in WEIGHTED)
    has_out = True

    def start(self) -> None:
        self.lib.set_num_threads(self.threads)

    def supports(self, case: Case) -> str:
        if case.call == "out=" and case.op.startswith("hinge"):
            return "has no out="
        return super().supports(case)

    def call(self, data: Data) -> Call:
        if data.case.op.startswith("hinge"):
            return self._hinge(data)
        if data.case.op.endswith("_vjp"):
            return self._vjp(data)
        x, axis = self.lib.from_numpy(data.x), data.case.axis
        function = getattr(self.lib, data.case.op)
        if data.case.call == "out=":
            out = self.lib.from_numpy(data.out)
            return Call(lambda: function(x, axis, out=out))
        return Call(lambda: function(x, axis))

    def _vjp(self, data: Data) -> Call:
        functions = {
            "softmax_vjp": self.lib._softmax_backward_data,
            "log_softmax_vjp": self.lib._log_softmax_backward_data,
        }
        function, axis = functions[data.case.op], data.case.axis
        y, dy = self.lib.from_numpy(data.y), self.lib.from_numpy(data.dy)
        dtype = y.dtype
        if data.case.call == "out=":
            out = self.lib.from_numpy(data.out)
            word = "grad_input" if data.case.op == "softmax_vjp" else "out"
            options = {word: out}
            return Call(lambda: function(dy, y, axis, dtype, **options))
        return Call(lambda: function(dy, y, axis, dtype))

    def _hinge(self, data: Data) -> Call:
        """Time its loss, which is divided by the number of classes."""
        loss = self.lib.nn.functional.multi_margin_loss
        x, labels = self.lib.from_numpy(data.x), self.lib.from_numpy(data.labels)
        classes = data.case.n
        if data.case.op == "hinge":
            return Call(
                lambda: loss(x, labels, reduction="sum"),
                lambda result: result.numpy() * classes,
            )

        def gradient() -> Any:
            leaf = x.detach().requires_grad_(True)
            loss(leaf, labels, reduction="sum").backward()
            return leaf.grad

        return Call(gradient, lambda result: result.numpy() * classes)
