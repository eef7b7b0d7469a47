"""ONNX Runtime: a model of one node and a session of its own for each cell."""

from __future__ import annotations

import importlib
from typing import Any

from ..cases import Case
from ..data import Data
from .base import Call, Library

NODES = {
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "logsumexp": "ReduceLogSumExp",
}
OPSET = 18


def model_of(case: Case) -> Any:
    """Return a model of one node, with the input's shape fixed."""
    onnx = importlib.import_module("onnx")
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(
        importlib.import_module("numpy").dtype(case.dtype)
    )
    inputs, parts = ["x"], []
    if case.op == "logsumexp":
        shape = [
            size
            for d, size in enumerate(case.shape)
            if d != case.axis % len(case.shape)
        ]
        parts = [helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [case.axis])]
        node = helper.make_node(NODES[case.op], ["x", "axes"], ["y"], keepdims=0)
    else:
        shape = list(case.shape)
        node = helper.make_node(NODES[case.op], inputs, ["y"], axis=case.axis)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", kind, case.shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        parts,
    )
    opset = helper.make_operatorsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


class OnnxRuntime(Library):
    """session.run, NumPy in and out; `out=` binds both to arrays that exist."""

    name = module = package = "onnxruntime"
    also_needs = ("onnx",)
    ops = tuple(NODES)
    has_out = True

    def call(self, data: Data) -> Call:
        options = self.lib.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = self.lib.InferenceSession(
            model_of(data.case).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        if data.case.call == "out=":
            return self._bound(session, data)
        feed = {"x": data.x}
        return Call(lambda: session.run(None, feed), lambda results: results[0])

    def _bound(self, session: Any, data: Data) -> Call:
        value = self.lib.OrtValue.ortvalue_from_numpy
        binding, x, out = session.io_binding(), value(data.x), value(data.out)
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", out)
        return Call(lambda: session.run_with_iobinding(binding), lambda _: out.numpy())
