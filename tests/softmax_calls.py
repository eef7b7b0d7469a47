"""What the tests of the softmaxes' inputs and options share."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.arithmetic import Array

from fastsoftmax import log_softmax, logsumexp, softmax

FUNCTIONS = [softmax, log_softmax, logsumexp]
ELEMENTWISE = [softmax, log_softmax]
INF, NAN = np.inf, np.nan

of_all = pytest.mark.parametrize("function", FUNCTIONS)
of_both = pytest.mark.parametrize("function", ELEMENTWISE)


def draw(shape: tuple[int, ...], dtype: type = np.float64) -> Array:
    rng = np.random.default_rng(list(shape))
    return rng.normal(0, 5, shape).astype(dtype)
