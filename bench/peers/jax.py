"""JAX: compiled, the input on the device beforehand, the result waited for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..cases import OPS, WEIGHTED, Case
from ..data import Data
from .base import Call, Library


class Jax(Library):
    """jax.nn and jax.scipy; losses and gradients are formulas, compiled."""

    name = module = package = "jax"
    ops = OPS

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        return {
            "JAX_PLATFORMS": "cpu",
            "NPROC": str(threads),
            "XLA_FLAGS": f"{flags} intra_op_parallelism_threads={threads}",
        }

    def start(self) -> None:
        self.lib.config.update("jax_enable_x64", True)
        self.np = importlib.import_module("jax.numpy")

    def call(self, data: Data) -> Call:
        case, put = data.case, self.lib.device_put
        function = self.lib.jit(self._function(case))
        if case.op.startswith("hinge"):
            arguments = [put(data.x), put(data.labels)]
        elif case.op.endswith("_vjp"):
            arguments = [put(data.y), put(data.dy)]
        elif case.op in WEIGHTED:
            arguments = [put(data.x), put(data.b)]
        else:
            arguments = [put(data.x)]
        ready = self.lib.block_until_ready
        if case.op == "hinge_grad":
            return Call(lambda: ready(function(*arguments)), lambda pair: pair[1])
        if case.op in WEIGHTED:
            return Call(lambda: ready(function(*arguments)), lambda pair: pair[0])
        if len(arguments) == 1:
            (x,) = arguments
            return Call(lambda: function(x).block_until_ready())
        return Call(lambda: function(*arguments).block_until_ready())

    def _function(self, case: Case) -> Callable[..., Any]:
        axis, np, nn = case.axis, self.np, self.lib.nn
        if case.op == "hinge":
            return self._loss
        if case.op == "hinge_grad":
            found: Callable[..., Any] = self.lib.value_and_grad(self._loss)
            return found
        log_of_sum = self.lib.scipy.special.logsumexp
        if case.op in WEIGHTED:
            return lambda x, b: log_of_sum(x, axis=axis, b=b, return_sign=True)
        functions: dict[str, Callable[..., Any]] = {
            "softmax": lambda x: nn.softmax(x, axis=axis),
            "log_softmax": lambda x: nn.log_softmax(x, axis=axis),
            "logsumexp": lambda x: log_of_sum(x, axis=axis),
            "softmax_vjp": lambda y, dy: (
                y * (dy - np.sum(y * dy, axis=axis, keepdims=True))
            ),
            "log_softmax_vjp": lambda y, dy: (
                dy - np.exp(y) * np.sum(dy, axis=axis, keepdims=True)
            ),
        }
        return functions[case.op]

    def _loss(self, scores: Any, labels: Any) -> Any:
        """Sum the terms; the positive's own is the margin, 1, in every row."""
        positive = self.np.take_along_axis(scores, labels[:, None], axis=1)
        terms = self.np.maximum(0, 1 - positive + scores)
        return self.np.sum(terms) - len(scores)
