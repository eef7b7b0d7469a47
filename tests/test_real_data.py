"""Real input: scikit-learn's digits through a logistic regression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from oracle.arithmetic import Array
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from fastsoftmax import log_softmax, logsumexp, softmax


class Digits(NamedTuple):
    """Decision function, probabilities and labels of images not trained on."""

    scores: Array
    probabilities: Array
    labels: Array


@pytest.fixture(scope="module")
def digits() -> Digits:
    images, labels = load_digits(return_X_y=True)
    half = len(images) // 2
    model = LogisticRegression(max_iter=10_000).fit(images[:half], labels[:half])
    return Digits(
        model.decision_function(images[half:]),
        model.predict_proba(images[half:]),
        labels[half:],
    )


def test_softmax_of_the_decision_function_is_predict_proba(digits):
    assert digits.probabilities.min() < 1e-12 < 0.999 < digits.probabilities.max()
    np.testing.assert_allclose(
        softmax(digits.scores, axis=-1), digits.probabilities, rtol=1e-12
    )


def test_softmax_in_float32_picks_the_same_digits(digits):
    y = softmax(digits.scores.astype(np.float32), axis=-1)
    np.testing.assert_allclose(y, digits.probabilities, rtol=1e-5)
    np.testing.assert_array_equal(y.argmax(-1), digits.probabilities.argmax(-1))


def test_log_softmax_reproduces_log_loss(digits):
    logs = log_softmax(digits.scores, axis=-1)
    loss = -np.take_along_axis(logs, digits.labels[:, np.newaxis], axis=-1).mean()
    expected = log_loss(digits.labels, digits.probabilities)
    assert 0.05 < expected < 0.5
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_logsumexp_normalises(digits):
    total = logsumexp(digits.scores, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        np.exp(digits.scores - total), digits.probabilities, rtol=1e-12
    )
