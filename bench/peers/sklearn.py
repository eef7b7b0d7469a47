"""scikit-learn: softmax of the rows of a matrix."""

from __future__ import annotations

from ..cases import Case
from ..data import Data
from .base import Call, Library


class ScikitLearn(Library):
    """sklearn.utils.extmath.softmax, which copies unless told otherwise."""

    name = "sklearn"
    package = "scikit-learn"
    module = "sklearn.utils.extmath"
    ops = ("softmax",)

    def supports(self, case: Case) -> str:
        if len(case.shape) != 2 or case.axis_word != "last":
            return "only rows of a matrix"
        return super().supports(case)

    def call(self, data: Data) -> Call:
        function, x = self.lib.softmax, data.x
        return Call(lambda: function(x))
