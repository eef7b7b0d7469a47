"""TensorFlow: eager or a compiled function, whichever is faster in the cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..cases import Case
from ..data import Data
from .base import Call, Library


class TensorFlow(Library):
    """tf.nn and tf.math, the input a tensor beforehand."""

    name = module = "tensorflow"
    package = "tensorflow-cpu"
    ops = ("softmax", "log_softmax", "logsumexp")

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        return {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}

    def start(self) -> None:
        self.lib.config.threading.set_intra_op_parallelism_threads(self.threads)
        self.lib.config.threading.set_inter_op_parallelism_threads(1)

    def call(self, data: Data) -> Call:
        x, eager = self.lib.constant(data.x), self._function(data.case)
        compiled = self.lib.function(eager)
        choices = [lambda: eager(x), lambda: compiled(x)]
        return Call(min(choices, key=_shortest_time), lambda result: result.numpy())

    def _function(self, case: Case) -> Callable[[Any], Any]:
        nn, axis, tf = self.lib.nn, case.axis, self.lib
        return {
            "softmax": lambda x: nn.softmax(x, axis=axis),
            "log_softmax": lambda x: nn.log_softmax(x, axis=axis),
            "logsumexp": lambda x: tf.reduce_logsumexp(x, axis=axis),
        }[case.op]


def _shortest_time(run: Callable[[], Any], tries: int = 5) -> float:
    run()
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
