"""OpenVINO: a model of one node, compiled for each cell."""

from __future__ import annotations

import importlib

from ..data import Data
from .base import Call, Library


class OpenVino(Library):
    """The compiled model, called with an array that it need not copy.

    Its CPU plug-in computes float64 in float32, so that float64 cells would not be the
    same work.
    """

    name = module = package = "openvino"
    ops = ("softmax", "log_softmax")
    dtypes = ("float32",)

    def start(self) -> None:
        self.ops_of = importlib.import_module("openvino.opset13")
        self.core = self.lib.Core()

    def call(self, data: Data) -> Call:
        x = self.ops_of.parameter(list(data.case.shape), data.x.dtype.type)
        function = getattr(self.ops_of, data.case.op)
        model = self.lib.Model([function(x, data.case.axis)], [x], "model")
        compiled = self.core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": self.threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
        array = data.x
        return Call(lambda: compiled(array), lambda results: results[0])
