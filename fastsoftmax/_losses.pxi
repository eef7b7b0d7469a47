"""The losses: docstrings, and one call each. Included by _cpu.pyx.

CuPy's arrays go on to cuda/call.py, Dask's to dask/call.py; _hinge.pxi and
_entropy.pxi decode everything else.
"""


def hinge_loss(scores, labels=None, *, negatives=None, margin=1.0, p=1, variant="sum",
               reduction="sum", sample_weight=None, where=None, ignore_index=None,
               return_grad=False):
    """Hinge (max-margin) loss of rows that hold a positive and its negatives.

    The loss of a row with the positive score s+ and the negative scores s_j is
    ``sum_j max(0, margin - s+ + s_j) ** p``, or the largest of these terms.

    Parameters
    ----------
    scores : array_like
        Any real dtype and layout; not changed. One of three forms:

        - [..., N + 1]: the positive is in column 0, the negatives behind it;
        - [..., C] with `labels`: the positive is in column ``labels[row]``, all others
          are negatives;
        - a flat vector with `negatives` = N: a positive, its N negatives, the next
          positive, and so on.
    labels : array_like of int, optional
        Shaped like scores without the last axis; each in [0, C).
    negatives : int, optional
        N >= 0, for the flat form.
    margin : float, optional
        In units of the scores; finite and >= 0. Rounded to the type computed in.
    p : {1, 2}, optional
        Power of each term: 1, or 2 for the squared hinge.
    variant : {"sum", "max"}, optional
        A row's loss is the sum of its terms (Weston and Watkins) or the largest of them
        (Crammer and Singer).
    reduction : {"sum", "mean", "none", "pairs"}, optional
        Over rows: the sum of their losses; that, divided by the number of rows that
        count; the losses, one a row; or every single term, which makes `variant`
        meaningless.
    sample_weight : array_like, optional
        One factor for the loss of each row (shaped like labels), or one for all; any
        real number. A loss of 0 stays 0, whatever its factor; a row of weight 0 does
        not count. Gradients and pairs take it rounded to the type computed in.
    where : array_like of bool, optional
        Broadcasts against scores. False takes a score out of the negatives; the
        positive counts whatever `where` says of it. A row whose negatives are all taken
        out does not count.
    ignore_index : int, optional
        Rows with this label do not count. It need not be in [0, C).
    return_grad : bool, optional
        Return a pair: the loss, and its gradient with respect to the scores.

    Returns
    -------
    loss : scalar or ndarray
        In units of the scores (their square for p = 2). A scalar for "sum" and "mean";
        with "none" shaped like scores without the last axis; with "pairs" [..., N], or,
        where there are labels, [..., C] with 0 at the positive.
        Integers give float64; of floating scores, losses are float64 for float64, else
        float32 (a sum soon leaves 16 bits), and terms ("pairs") of the scores' dtype.
    grad : ndarray
        Only with `return_grad`: shaped and laid out like scores, of their dtype
        (float64 for integers). For "none" it is the gradient of the sum. A float16
        beyond 65504, as of the positive of that many violators, is infinite.

    Raises
    ------
    IndexError
        If a label is neither in [0, C) nor ignored: names the first such row.
    TypeError
        If scores are not real numbers of at most 64 bits; if labels or `negatives` are
        not integers, or both are given; if `margin` or `sample_weight` are not real; if
        `where` is not boolean; for masked arrays.
    ValueError
        If shapes do not fit, if an option is not one of those above or not in its
        range, or if `return_grad` meets "pairs".

    See Also
    --------
    pair_hinge_loss : positives and negatives in two arrays.

    Notes
    -----
    Integers are converted to float64 first. A loss that does not overflow is within
    (p + 1/2) 2^-23 of the exact one, relative (float64: 2^-52), a single term with its
    weight within (p + 3/2) 2^-23, plus the rounding of a row's float64 sum. The losses
    of NumPy arrays are added up as a pair of float64 numbers, and rounded at last. Sums
    are formed in an order that depends on shape and layout alone, not on the number of
    threads.
    The gradient of a term t is ``p * t ** (p - 1)`` where t > 0, else 0: also at the
    kink. The gradient of "max" goes to the first largest violator.

    =============================  ===========================================
    a row holds                    result
    =============================  ===========================================
    a NaN                          its loss is NaN; the other rows' are not
    +inf, -inf                     what IEEE 754 makes of margin - s+ + s_j
    no negative                    0
    anything, and does not count   0, and so is all of its gradient
    =============================  ===========================================

    No row at all gives 0, the mean of no row that counts NaN. No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are. A label that is not in [0, C)
    makes its row NaN there; docs/cupy.md says what else differs.
    Dask arrays of rows give lazy Dask arrays, but for `negatives` and "pairs"; see
    docs/dask.md.

    References
    ----------
    Weston and Watkins, "Support vector machines for multi-class pattern recognition",
    ESANN 1999. Crammer and Singer, "On the algorithmic implementation of multiclass
    kernel-based vector machines", JMLR 2 (2001).

    Examples
    --------
    Two positives, two sampled negatives each, in one flat vector:

    >>> import numpy as np
    >>> from fastsoftmax import hinge_loss
    >>> scores = np.array([0.5, 0.2, -0.1, 1.0, -0.5, 0.3])
    >>> hinge_loss(scores, negatives=2, reduction="none").round(3)
    array([1.1, 0.3])
    >>> loss, grad = hinge_loss(scores, negatives=2, return_grad=True)
    >>> round(float(loss), 3), grad
    (1.4, array([-2.,  1.,  1., -1.,  0.,  1.]))
    >>> hinge_loss([[0.2, 0.5], [0.9, -0.4]], labels=[1, 0]).round(3)
    np.float64(0.7)
    """
    if is_foreign(scores) or is_foreign(labels) or is_foreign(sample_weight) or (
        is_foreign(where)
    ):
        call = _arguments.backend_of(scores, labels, sample_weight, where)
        return call.hinge_loss(scores, labels, sample_weight, where, negatives,
                               ignore_index, margin, p, variant, reduction, return_grad)
    return hinge(scores, labels, negatives, margin, p, variant, reduction,
                 sample_weight, where, ignore_index, return_grad)


def pair_hinge_loss(pos, neg, *, margin=1.0, p=1, variant="sum", reduction="sum",
                    sample_weight=None, where=None, return_grad=False):
    """Hinge (max-margin) loss of positives and, in another array, their negatives.

    The loss of a row with the positive score s+ and the negative scores s_j is
    ``sum_j max(0, margin - s+ + s_j) ** p``, or the largest of these terms.

    Parameters
    ----------
    pos : array_like
        Scores of the positives, [B] or [B, 1]; any real dtype and layout; not changed.
    neg : array_like
        Scores of their negatives, [B, N]. (Instead of B any number of dimensions.)
    margin : float, optional
        In units of the scores; finite and >= 0.
    p : {1, 2}, optional
        Power of each term: 1, or 2 for the squared hinge.
    variant : {"sum", "max"}, optional
        A row's loss is the sum of its terms, or the largest of them.
    reduction : {"sum", "mean", "none", "pairs"}, optional
        As in `hinge_loss`.
    sample_weight : array_like, optional
        One factor for the loss of each row, [B], or one for all.
    where : array_like of bool, optional
        Broadcasts against neg. False takes a score out of the negatives; a row without
        any left does not count.
    return_grad : bool, optional
        Return a pair: the loss, and its gradients with respect to pos and neg.

    Returns
    -------
    loss : scalar or ndarray
        As that of `hinge_loss`; with "pairs" shaped like neg.
    grad : tuple of two ndarrays
        Only with `return_grad`: shaped like pos and neg, of NumPy's type for both
        together (float64 for integers).

    Raises
    ------
    TypeError, ValueError
        As `hinge_loss`; also if the shapes of pos and neg do not fit.

    See Also
    --------
    hinge_loss : the positive and its negatives in one array.

    Notes
    -----
    Formula, special values, accuracy and CuPy arrays are those of `hinge_loss`. Dask
    arrays are a TypeError.

    References
    ----------
    See `hinge_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import pair_hinge_loss
    >>> pos, neg = [0.5, 1.0], [[0.2, -0.1], [-0.5, 0.3]]
    >>> pair_hinge_loss(pos, neg, reduction="pairs").round(3)
    array([[0.7, 0.4],
           [0. , 0.3]])
    >>> loss, grads = pair_hinge_loss(pos, neg, variant="max", return_grad=True)
    >>> float(loss), grads[0]
    (1.0, array([-1., -1.]))
    """
    if is_foreign(pos) or is_foreign(neg) or is_foreign(sample_weight) or (
        is_foreign(where)
    ):
        call = _arguments.backend_of(pos, neg, sample_weight, where)
        return call.pair_hinge_loss(pos, neg, sample_weight, where, margin, p, variant,
                                    reduction, return_grad)
    return pair_hinge(pos, neg, margin, p, variant, reduction, sample_weight, where,
                      return_grad)


def cross_entropy(scores, labels, axis=-1, *, temperature=1.0, ignore_index=None,
                  label_smoothing=0.0, reduction="mean", sample_weight=None, where=None,
                  return_grad=False):
    """Cross-entropy of logits, ``-sum(t * log_softmax(scores))`` for targets t.

    Parameters
    ----------
    scores : array_like
        Logits, [..., C] or with the classes along another `axis`; any real dtype and
        layout; not changed.
    labels : array_like
        Integers in [0, C), shaped like scores without `axis`: t is 1 there, 0
        elsewhere. Or t itself, shaped like scores: probabilities of the classes, of any
        real dtype, used as they are.
    axis : int, optional
        Of the classes.
    temperature : float or array_like of float, optional
        As of `softmax`: scores are divided by it first.
    ignore_index : int, optional
        Rows with this label do not count. It need not be in [0, C).
    label_smoothing : float, optional
        Between 0 and 1: that part of each target is spread evenly over the classes that
        `where` leaves.
    reduction : {"mean", "sum", "none"}, optional
        Over rows: the sum of their losses, divided by the weight of those that count;
        the sum; or the losses, one a row.
    sample_weight : array_like, optional
        One factor for the loss of each row (shaped like integer labels), or one for
        all. A row of weight 0 does not count.
    where : array_like of bool, optional
        Broadcasts against scores. False takes a class out: its gradient is 0, and so is
        its target where targets are smoothed or probabilities. A row without any left
        does not count.
    return_grad : bool, optional
        Return a pair: the loss, and its gradient with respect to the scores.

    Returns
    -------
    loss : scalar or ndarray
        Float64 for float64 and integers, else float32. With "none" shaped like scores
        without `axis`.
    grad : ndarray
        Only with `return_grad`: shaped and laid out like scores, of their dtype
        (float64 for integers). For "none" it is the gradient of the sum.

    Raises
    ------
    IndexError
        If a label is neither in [0, C) nor ignored: names the first such row.
    TypeError, ValueError
        As `hinge_loss` and `softmax`; also if `label_smoothing` is not in [0, 1], or if
        `ignore_index` meets probabilities.

    See Also
    --------
    log_softmax, log_softmax_vjp, hinge_loss

    Notes
    -----
    The loss of a label is minus what `log_softmax` gives there, as accurate next to 0
    as anywhere. A loss is within 3 units of 2^-23 (float64: 2^-52), relative; where
    targets are smoothed or probabilities, within 5 of ``sum(abs(t * log_softmax))``.
    The gradient is ``weight * (softmax(scores) * sum(t) - t)`` over the temperature,
    within 3, or 5, of the larger of its terms. That is beside what a row's float64 sums
    and subnormal steps lose. The losses of NumPy arrays are added up as a pair of
    float64 numbers, and rounded at last. The order of sums is decided by shape and
    layout.

    ==============================  ============================================
    a row holds                     its loss
    ==============================  ============================================
    a NaN, or nothing but -inf      NaN
    -inf where the target is        inf (a label masked out, too, but smoothed)
    +inf                            NaN if the target is there, else inf
    anything, and does not count    0, and so is all of its gradient
    ==============================  ============================================

    The mean of no row that counts is NaN. No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are. A label that is not in [0, C)
    makes its row NaN there; docs/cupy.md says what else differs.
    Dask arrays of rows give lazy Dask arrays; see docs/dask.md.

    References
    ----------
    Bridle (1990), doi:10.1007/978-3-642-76153-9_28. Szegedy et al., "Rethinking the
    Inception architecture for computer vision", CVPR 2016 (label smoothing).

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import cross_entropy
    >>> scores = np.array([[2.0, 1.0, 0.5], [0.1, 0.2, 9.9]])
    >>> cross_entropy(scores, [0, 2]).round(4)
    np.float64(0.2322)
    >>> labels = [0, -100]
    >>> _, grad = cross_entropy(scores, labels, ignore_index=-100, return_grad=True)
    >>> grad.round(3)
    array([[-0.371,  0.231,  0.14 ],
           [ 0.   ,  0.   ,  0.   ]])
    """
    if is_foreign(scores) or is_foreign(labels) or is_foreign(sample_weight) or (
        is_foreign(where)
    ):
        call = _arguments.backend_of(scores, labels, sample_weight, where)
        return call.cross_entropy(scores, labels, sample_weight, where, axis,
                                  temperature, ignore_index, label_smoothing,
                                  reduction, return_grad)
    return entropy(scores, labels, axis, temperature, ignore_index, label_smoothing,
                   reduction, sample_weight, where, return_grad)
