"""Hinge losses: every wrong argument gets an error that names it."""

from __future__ import annotations

import re
from typing import Any

import child
import ml_dtypes
import numpy as np
import pytest

from fastsoftmax import hinge_loss, pair_hinge_loss

INF, NAN = np.inf, np.nan
SCORES = np.arange(12.0).reshape(3, 4)
LABELS = np.array([0, 3, 1])
CLASSES = re.escape("[0, 4)")
BOTH = {
    "hinge_loss": (hinge_loss, (SCORES,)),
    "labels": (hinge_loss, (SCORES, LABELS)),
    "pair_hinge_loss": (pair_hinge_loss, (SCORES[:, 0], SCORES[:, 1:])),
}

of_both = pytest.mark.parametrize(("call", "args"), BOTH.values(), ids=list(BOTH))


def assert_raises(error: type, words: str, call: Any, *args: Any, **options: Any):
    """With what takes the fast path, and with what does not."""
    for more in ({}, {"where": True}, {"sample_weight": 1.0}, {"return_grad": True}):
        with pytest.raises(error, match=words) as caught:
            call(*args, **{**more, **options})
        assert type(caught.value) is error


# ---- labels ----


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, ">i8"])
@pytest.mark.parametrize(
    ("labels", "label", "row"),
    [([0, 4, 7], 4, 1), ([-1, 0, 0], -1, 0), ([0, 3, 9], 9, 2), ([4, -9, 1], 4, 0)],
)
def test_label_out_of_range(labels, label, row, dtype):
    for given in (labels, np.array(labels, dtype), np.repeat(labels, 2)[::2]):
        words = rf"label {label} of row {row} is not in {CLASSES}"
        assert_raises(IndexError, words, hinge_loss, SCORES, given)
        assert_raises(IndexError, words, hinge_loss, SCORES.astype(np.float32), given)


def test_label_out_of_range_of_other_shapes():
    words = rf"label 4 of row 1, 2 is not in {CLASSES}"
    labels = np.zeros((2, 3), int)
    labels[1, 2] = 4
    assert_raises(IndexError, words, hinge_loss, np.zeros((2, 3, 4)), labels)
    words = rf"label 4 of the row is not in {CLASSES}"
    assert_raises(IndexError, words, hinge_loss, SCORES[0], 4)
    words = re.escape("label 0 of row 0 is not in [0, 0)")
    assert_raises(IndexError, words, hinge_loss, np.zeros((3, 0)), [0, 0, 0])
    words = rf"label {2**64 - 1} of row 1 is not in {CLASSES}"
    labels = np.array([0, 2**64 - 1, 0], np.uint64)
    assert_raises(IndexError, words, hinge_loss, SCORES, labels)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([0.0, 1, 2], "float64"),
        (np.float32([0, 1, 2]), "float32"),
        ([True, False, True], "bool"),
        (["0", "1", "2"], "<U1"),
        (np.array([0, 1, None]), "object"),
        ([0j, 1, 2], "complex128"),
    ],
)
def test_labels_must_be_integers(labels, dtype):
    words = f"labels must be integers, got dtype {dtype}"
    assert_raises(TypeError, words, hinge_loss, SCORES, labels)


def test_masked_labels():
    labels = np.ma.array(LABELS, mask=[True, False, False])
    assert_raises(TypeError, "labels is a masked array", hinge_loss, SCORES, labels)


@pytest.mark.parametrize(
    "labels", [0, [0], [0, 1], [0, 1, 2, 3], [[0, 1, 2]], [[0], [1], [2]], []]
)
def test_labels_of_another_shape(labels):
    shape = re.escape(str(np.shape(labels)))
    words = rf"labels must have one element for each row.*\(3,\), got shape {shape}"
    assert_raises(ValueError, words, hinge_loss, SCORES, labels)


class Reshapes:
    """Weights that give the scores another shape when asked for their array."""

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.scores.resize((*self.scores.shape, 1), refcheck=False)
        return np.ones(len(self.scores))


def test_scores_that_change_shape_during_a_call():
    scores = np.ones((300, 40))
    weights = Reshapes(scores)
    with pytest.raises(ValueError, match="changed another one's shape"):
        hinge_loss(scores, sample_weight=weights, reduction="pairs")


@pytest.mark.parametrize("ignored", [1.0, True, "1", [1], np.nan], ids=repr)
def test_ignore_index_must_be_an_integer(ignored):
    words = "ignore_index must be an integer, got " + re.escape(repr(ignored))
    assert_raises(TypeError, words, hinge_loss, SCORES, LABELS, ignore_index=ignored)


def test_ignore_index_needs_labels():
    assert_raises(
        TypeError, "ignore_index needs labels", hinge_loss, SCORES, ignore_index=0
    )


def test_a_bad_label_beside_an_ignored_one():
    words = rf"label -2 of row 2 is not in {CLASSES}"
    options = {"ignore_index": -1}
    assert_raises(IndexError, words, hinge_loss, SCORES, [0, -1, -2], **options)


# ---- scores ----


@pytest.mark.parametrize(
    "dtype", [complex, np.complex64, np.longdouble, np.clongdouble, ">c16"]
)
def test_scores_must_be_real_and_of_64_bits_at_most(dtype):
    x = SCORES.astype(dtype)
    name = np.dtype(dtype)
    said = f"must be real numbers of at most 64 bits, got dtype {name}"
    assert_raises(TypeError, f"scores {said}", hinge_loss, x)
    assert_raises(TypeError, f"scores {said}", hinge_loss, x, LABELS)
    assert_raises(TypeError, f"scores {said}", hinge_loss, x.ravel(), negatives=3)
    pos, neg = SCORES[:, 0], SCORES[:, 1:]
    assert_raises(TypeError, f"pos {said}", pair_hinge_loss, pos.astype(dtype), neg)
    assert_raises(TypeError, f"neg {said}", pair_hinge_loss, pos, neg.astype(dtype))


@pytest.mark.parametrize("scores", ["abc", None, [["a", "b"]], [[None, 1]], {"a": 1}])
def test_scores_must_be_numbers(scores):
    assert_raises(TypeError, "scores must hold numbers.*dtype", hinge_loss, scores)
    words = "neg must hold numbers.*dtype"
    assert_raises(TypeError, words, pair_hinge_loss, [1.0], scores)


def test_masked_scores():
    masked = np.ma.array(SCORES, mask=SCORES > 5)
    assert_raises(TypeError, "scores is a masked array", hinge_loss, masked)
    assert_raises(TypeError, "scores is a masked array", hinge_loss, masked, LABELS)
    pos, neg = masked[:, 0], masked[:, 1:]
    plain = SCORES[:, 0], SCORES[:, 1:]
    assert_raises(TypeError, "pos is a masked array", pair_hinge_loss, pos, plain[1])
    assert_raises(TypeError, "neg is a masked array", pair_hinge_loss, plain[0], neg)


@pytest.mark.parametrize("scores", [3.0, np.float32(2), np.zeros((3, 0)), []])
def test_scores_without_a_positive(scores):
    shape = re.escape(str(np.shape(scores)))
    words = f"a positive and its negatives along the last axis.*{shape}"
    assert_raises(ValueError, words, hinge_loss, scores)


def test_a_scalar_has_no_row_for_a_label():
    for labels in (0, [0], []):
        assert_raises(ValueError, r"scores must.*\(\)", hinge_loss, 3.0, labels)


@pytest.mark.parametrize(
    ("pos", "neg"),
    [
        ((3,), (4, 2)),
        ((3, 2), (3, 2)),
        ((1, 3), (3, 2)),
        ((3, 1, 1), (3, 2)),
        ((), (3, 2)),
        ((1,), (3, 2)),
        ((3,), (3,)),
        ((), ()),
        ((2, 3), (3, 2, 4)),
    ],
)
def test_pos_and_neg_that_do_not_fit(pos, neg):
    shapes = rf"{re.escape(str(pos))} for neg of shape {re.escape(str(neg))}"
    words = f"pos must have one score for each row of neg, got shape {shapes}"
    assert_raises(ValueError, words, pair_hinge_loss, np.zeros(pos), np.zeros(neg))


# ---- negatives ----


@pytest.mark.parametrize("negatives", [2.0, "2", [2], True, np.True_, 2j, NAN])
def test_negatives_must_be_an_integer(negatives):
    words = re.escape(f"negatives must be an integer, got {negatives!r}")
    assert_raises(TypeError, words, hinge_loss, np.zeros(6), negatives=negatives)


@pytest.mark.parametrize("negatives", [-1, np.int8(-7)])
def test_negatives_must_not_be_negative(negatives):
    words = f"negatives must be >= 0, got {int(negatives)}"
    assert_raises(ValueError, words, hinge_loss, np.zeros(6), negatives=negatives)


@pytest.mark.parametrize(("size", "negatives"), [(7, 2), (6, 3), (6, 6), (1, 1)])
def test_negatives_must_divide_the_scores(size, negatives):
    words = rf"negatives={negatives}.* multiple of {negatives + 1}.*\({size},\)"
    for dtype in (np.float64, np.int8):
        x = np.zeros(size, dtype)
        assert_raises(ValueError, words, hinge_loss, x, negatives=negatives)


@pytest.mark.parametrize("shape", [(2, 3), (), (1, 3)])
def test_scores_with_negatives_must_be_flat(shape):
    words = rf"negatives=2 scores must be a flat vector.*{re.escape(str(shape))}"
    assert_raises(ValueError, words, hinge_loss, np.zeros(shape), negatives=2)


def test_labels_and_negatives():
    for scores, labels in ((SCORES, LABELS), (np.zeros(6), [0, 0])):
        words = "labels or negatives, not both"
        assert_raises(TypeError, words, hinge_loss, scores, labels, negatives=2)


# ---- options ----


@of_both
@pytest.mark.parametrize("margin", [NAN, INF, -INF, -1, -1.0, -1e-9, np.float32(-2)])
def test_margin_must_be_finite_and_not_negative(margin, call, args):
    words = re.escape(f"margin must be finite and >= 0 in float64, got {margin!r}")
    assert_raises(ValueError, words, call, *args, margin=margin)


def test_margin_must_fit_the_type_computed_in():
    words = "margin must be finite and >= 0 in float32, got 1e[+]39"
    for dtype in (np.float32, np.float16):
        assert_raises(ValueError, words, hinge_loss, SCORES.astype(dtype), margin=1e39)
    assert hinge_loss(SCORES, margin=1e39) == pytest.approx(9e39)


@of_both
@pytest.mark.parametrize("margin", ["a", "1", None, [1.0], np.ones(3), 1j])
def test_margin_must_be_a_real_number(margin, call, args):
    words = re.escape(f"margin must be a real number, got {margin!r}")
    assert_raises(TypeError, words, call, *args, margin=margin)


@pytest.mark.parametrize("margin", [1, True, np.float32(1), np.array(1.0), np.int8(1)])
def test_margins_of_any_real_type(margin):
    assert hinge_loss(SCORES, margin=margin) == hinge_loss(SCORES)
    assert hinge_loss(SCORES, margin=-0.0) == hinge_loss(SCORES, margin=0)


@of_both
@pytest.mark.parametrize("p", [0, 3, -1, 1.5, "1", None, True, NAN, [1], INF, 1j + 1])
def test_p_must_be_1_or_2(p, call, args):
    words = re.escape(f"p must be 1 or 2, got {p!r}")
    assert_raises(ValueError, words, call, *args, p=p)


OPTIONS = ["Sum", "", None, 1, b"sum", ["sum"], ("max",), np.array(["sum", "mean"])]


@of_both
@pytest.mark.parametrize("variant", [*OPTIONS, "mean", "none"], ids=repr)
def test_variant(variant, call, args):
    words = rf"variant must be one of .*'sum', 'max'.* got {re.escape(repr(variant))}"
    assert_raises(ValueError, words, call, *args, variant=variant)


@of_both
@pytest.mark.parametrize(
    "reduction", [*OPTIONS, "max", "row", np.array(["none"])], ids=repr
)
def test_reduction(reduction, call, args):
    words = rf"reduction must be .*'sum'.*'pairs'.* got {re.escape(repr(reduction))}"
    assert_raises(ValueError, words, call, *args, reduction=reduction)


@of_both
def test_pairs_have_no_gradient(call, args):
    words = r"return_grad=True.*pairs"
    assert_raises(ValueError, words, call, *args, reduction="pairs", return_grad=True)


@of_both
@pytest.mark.parametrize("shape", [(4,), (1,), (2,), (3, 1), (1, 3), (3, 4), (0,)])
def test_sample_weight_of_another_shape(shape, call, args):
    got = re.escape(str(shape))
    words = rf"sample_weight must have a weight for each row.*\(3,\).*{got}"
    assert_raises(ValueError, words, call, *args, sample_weight=np.ones(shape))


@of_both
def test_sample_weight_must_be_real_numbers(call, args):
    for weights, words in (
        (np.ones(3) * 1j, "sample_weight must be real, got dtype complex128"),
        (1j, "sample_weight must be real, got dtype complex128"),
        ("abc", "sample_weight must hold numbers.*<U3"),
        ([None] * 3, "sample_weight must hold numbers.*object"),
        (np.ma.array([1.0, 2, 3], mask=[1, 0, 0]), "sample_weight is a masked array"),
    ):
        assert_raises(TypeError, words, call, *args, sample_weight=weights)


@of_both
@pytest.mark.parametrize("where", [1, [1, 0, 1], 1.0, "yes", [None], np.ones(3, "u1")])
def test_where_must_be_boolean(where, call, args):
    words = f"where must be boolean, got dtype {np.asarray(where).dtype}"
    assert_raises(TypeError, words, call, *args, where=where)


@of_both
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (1, 3, 4), (0,), (2, 1)])
def test_where_must_broadcast_to_the_scores(shape, call, args):
    name, against = ("scores", "(3, 4)") if call is hinge_loss else ("neg", "(3, 3)")
    words = re.escape(f"where of shape {shape} does not broadcast to the shape of ")
    words += rf"{name}, {re.escape(against)}"
    assert_raises(ValueError, words, call, *args, where=np.ones(shape, bool))


@of_both
def test_masked_where(call, args):
    where = np.ma.array(np.ones(args[-1].shape[-1:], bool))
    if call is hinge_loss:
        where = np.ma.array(np.ones(4, bool))
    assert_raises(TypeError, r"where\.filled", call, *args, where=where)


def test_where_of_flat_scores_is_flat():
    words = r"where of shape \(2, 3\).*scores, \(6,\)"
    where = np.ones((2, 3), bool)
    assert_raises(ValueError, words, hinge_loss, np.zeros(6), negatives=2, where=where)


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        hinge_loss(SCORES, LABELS, 3)
    with pytest.raises(TypeError, match="positional"):
        pair_hinge_loss(SCORES[:, 0], SCORES[:, 1:], 1.0)


# ---- what only looks like good input ----


def test_numbers_beyond_any_type():
    words = "margin must be finite and >= 0 in float64, got 1000"
    assert_raises(ValueError, words, hinge_loss, SCORES, LABELS, margin=10**400)
    for huge in (2**48, 2**63 - 1, 10**30):
        words = f"negatives must be below {2**48}, got {huge}"
        assert_raises(ValueError, words, hinge_loss, [], negatives=huge)


LABELS_THAT_CHANGE = """
import sys, threading
import numpy as np
from fastsoftmax import hinge_loss

scores, labels = np.zeros((20_000, 40), np.float32), np.zeros(20_000, int)
done = threading.Event()

def change():
    while not done.is_set():
        labels[-5000:] = 2**44
        labels[-5000:] = 0

other = threading.Thread(target=change)
other.start()
for _ in range(300):
    try:
        hinge_loss(scores, labels, margin=eval(sys.argv[1]), return_grad=True)
    except IndexError:
        pass
done.set()
other.join()
print("alive")
"""


@pytest.mark.parametrize("margin", ["1.0", "np.float32(0.5)"])
def test_labels_that_another_thread_changes_do_not_crash(tmp_path, margin):
    assert child.python(tmp_path, LABELS_THAT_CHANGE, margin) == "alive\n"


@of_both
def test_8_bit_floats(call, args):
    narrow = [np.asarray(a).astype(ml_dtypes.float8_e5m2) for a in args]
    assert_raises(TypeError, "got dtype float8_e5m2", call, *narrow)
