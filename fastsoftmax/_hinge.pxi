"""The hinge losses. Included by _cpu.pyx.

A layout here has the axes of the rows, and one more, reduced: that of a row's others.
Each function returns the loss, or a pair with the gradient.
"""

# What a call asks for beside its arrays.
cdef struct request:
    bint by_row, is_mean, is_pairs, ignores


cdef cnp.ndarray scores_of(x, str name):
    cdef cnp.ndarray a = numbers(x, name)
    return a if type_of(a) != NO_KERNEL else _arguments.as_scores(a, name)


cdef void set_reduction(request *asked, reduction):
    asked.by_row = reduction == "none"
    asked.is_mean = reduction == "mean"
    asked.is_pairs = reduction == "pairs"


cdef int set_options(fs_job *job, request *asked, margin, p, variant, reduction,
                     bint return_grad) except -1:
    if type(p) is not int or type(variant) is not str or type(reduction) is not str or (
        p not in (1, 2) or variant not in _arguments.VARIANTS
        or reduction not in _arguments.REDUCTIONS
        or (return_grad and reduction == "pairs")
    ):
        p = _arguments.as_options(p, variant, reduction, return_grad)
    job.margin = real_number(margin, "margin", job.compute)
    if not 0 <= job.margin < INFINITY:
        _arguments.as_margin(margin, dtype_of(job.compute))
    job.margin = fabs(job.margin)  # not -0
    job.p = p
    job.largest = variant == "max"
    job.scale = 1
    set_reduction(asked, reduction)
    return 0


# ---- layouts ----

cdef void group(const fs_job *job, layout *whole, ptrdiff_t width) noexcept:
    """A flat vector becomes groups of `width`."""
    cdef int a
    whole.ndim = 2
    whole.reduced = 2
    whole.shape[0] //= width
    whole.shape[1] = width
    for a in range(FS_OPERANDS):
        if job.operand[a].data != NULL:
            whole.step[1][a] = whole.step[0][a]
            whole.step[0][a] *= width


cdef void split_positives(fs_job *job, const layout *whole, layout *others, int scores,
                          int positives) noexcept:
    """The first element of each row is its positive; the others are behind it."""
    cdef int d, last = whole.ndim - 1
    job.operand[positives] = job.operand[scores]
    for d in range(last):
        others.step[d][positives] = whole.step[d][scores]
    others.step[last][positives] = 0
    job.operand[scores].data += whole.step[last][scores]


cdef tuple rows_of(const layout *whole):
    return tuple([whole.shape[d] for d in range(whole.ndim - 1)])


cdef ptrdiff_t count_rows(const layout *whole) noexcept:
    cdef ptrdiff_t rows = 1
    cdef int d
    for d in range(whole.ndim - 1):
        rows *= whole.shape[d]
    return rows


# ---- labels and weights ----

cdef inline int64_t label_at(const char *place, int type) noexcept nogil:
    if type == FS_I64 or type == FS_U64:
        return (<const int64_t *>place)[0]
    if type == FS_I32:
        return (<const int32_t *>place)[0]
    if type == FS_U32:
        return (<const uint32_t *>place)[0]
    if type == FS_I16:
        return (<const int16_t *>place)[0]
    if type == FS_U16:
        return (<const uint16_t *>place)[0]
    if type == FS_I8:
        return (<const int8_t *>place)[0]
    return (<const uint8_t *>place)[0]


cdef ptrdiff_t take_labels(const char *given, int type, const int64_t *ignored,
                           int64_t *taken, ptrdiff_t count, ptrdiff_t classes,
                           fs_watch *watch) noexcept nogil:
    """Copies labels, ignored ones as -1; returns where the first is that is none, or
    `count`."""
    cdef ptrdiff_t size = fs_size_of(<fs_type>type), i
    for i in range(count):
        if i % 65536 == 65535 and fs_poll(watch):
            break
        taken[i] = label_at(given + i * size, type)
        if ignored != NULL and taken[i] == ignored[0]:
            taken[i] = -1
        elif not 0 <= taken[i] < classes:
            return i
    return count


cdef bint is_one_a_row(a, const layout *whole) noexcept:
    """Whether a is an ndarray of integers, one a row, contiguous in C order."""
    cdef int d
    if not PyArray_CheckExact(a) or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>a):
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray>a) != whole.ndim - 1 or not (
        cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(<cnp.ndarray>a))
    ):
        return False
    for d in range(whole.ndim - 1):
        if cnp.PyArray_DIM(<cnp.ndarray>a, d) != whole.shape[d]:
            return False
    return True


cdef cnp.ndarray indices(labels, ignore_index, const layout *whole):
    """The labels as int64, each an index into its row, or -1 where it is ignored.

    What is checked is a copy: another thread could change the caller's afterwards.
    """
    cdef cnp.ndarray given, taken
    cdef fs_listener listener
    cdef fs_watch *watch
    cdef ptrdiff_t classes = whole.shape[whole.ndim - 1], count = count_rows(whole), bad
    cdef int type
    cdef int64_t ignored
    cdef int64_t *ignores = NULL
    if is_one_a_row(labels, whole):
        given = <cnp.ndarray>labels
    else:
        given = _arguments.as_labels(labels, rows_of(whole))
        given = np.require(given, given.dtype.newbyteorder("="), "CA")
    taken = cnp.PyArray_EMPTY(whole.ndim - 1, <cnp.npy_intp *>whole.shape,
                              cnp.NPY_INT64, 0)
    watch = watch_over(count, &listener)
    type = type_of(given)
    if ignore_index is not None:
        ignore_index = _arguments.as_ignored(ignore_index)
        limits = np.iinfo(given.dtype)
        if limits.min <= ignore_index <= limits.max:
            ignored = <int64_t><uint64_t>(ignore_index & 0xffffffffffffffff)
            ignores = &ignored
    with nogil:
        bad = take_labels(<const char *>PyArray_DATA(given), type, ignores,
                          <int64_t *>PyArray_DATA(taken), count, classes, watch)
    if fs_stopped(watch):
        raise_pending()
    if bad < count:
        raise _arguments.bad_label(given.reshape(rows_of(whole)), bad, classes)
    return taken


cdef cnp.ndarray set_weights(fs_job *job, layout *whole, sample_weight):
    """The weights, which the caller keeps alive; None if there are none."""
    cdef cnp.ndarray weights
    if sample_weight is None:
        return None
    weights = _arguments.as_weights(sample_weight, rows_of(whole))
    set_reduced_operand(job, whole, FS_WEIGHTS, weights)
    return weights


# ---- running ----

cdef double count_those_that_do(fs_job *job) except? -1:
    cdef fs_listener listener
    cdef double count
    job.watch = watch_over(job.outer * job.inner * max(job.n, 1), &listener)
    with nogil:
        count = fs_loss_count(job)
    if fs_stopped(job.watch):
        raise_pending()
    return count


cdef object run_loss(fs_job *job, layout *whole, const request *asked):
    """The loss; everything but the losses is set."""
    cdef ptrdiff_t rows = count_rows(whole)
    cdef ptrdiff_t elements = rows * whole.shape[whole.ndim - 1]
    cdef cnp.ndarray losses = None
    cdef double total = 0, counted = rows
    cdef bint is_inner, is_plain
    dtype = dtype_of(job.compute)
    if asked.by_row:
        losses = np.zeros(rows_of(whole), dtype)
        set_reduced_operand(job, whole, FS_LOSSES, losses)
    factor(job, whole, FS_X if job.operand[FS_Y].data == NULL else FS_Y)
    is_inner = job.inner > 1
    if not is_inner and job.n_outer > 0 and elements > 0:
        job.outer //= job.outer_shape[job.n_outer - 1]
        take_inner(job)
    is_plain = job.op == FS_HINGE or (
        job.operand[FS_MASK].data == NULL and job.operand[FS_X].temperature == 1
    )
    settle_direct(job, FS_X, is_plain, is_inner)
    if asked.is_mean:
        if asked.ignores or job.operand[FS_WEIGHTS].data != NULL or (
            job.operand[FS_MASK].data != NULL
        ):
            counted = count_those_that_do(job)
        job.scale = job.scale / counted if counted != 0 else 0
    if elements > 0:
        execute(job)
        total = job.total
    if asked.by_row:
        return scalar_of(losses) if cnp.PyArray_NDIM(losses) == 0 else losses
    if asked.is_mean:
        total = total / counted if counted != 0 else NAN
    if job.compute == FS_F32:
        return np.float32(<float>total)
    return np.float64(total)


cdef object hinge(scores, labels, negatives, margin, p, variant, reduction,
                  sample_weight, where, ignore_index, bint return_grad):
    """All layouts but that of `pair_hinge_loss`."""
    cdef fs_job job
    cdef layout whole, others
    cdef request asked
    cdef cnp.ndarray x, mask, places = None, weights, y = None
    cdef int y_type, last
    x = scores_of(scores, "scores")
    mask = mask_for(where, x, "scores")
    if negatives is not None and labels is not None:
        raise TypeError("give labels or negatives, not both")
    width = None if negatives is None else _arguments.as_groups(x, negatives)[1]
    if width is None:
        _arguments.check_has_positive(x, labels is not None)
    y_type = type_of(x) if is_floating(type_of(x)) else FS_F64
    begin(&job, &whole, FS_HINGE, y_type, x, -1)
    set_operand(&job, &whole, FS_X, x)
    set_operand(&job, &whole, FS_MASK, mask)
    job.written = FS_NOTHING
    set_options(&job, &asked, margin, p, variant, reduction, return_grad)
    if return_grad or (asked.is_pairs and labels is not None):
        y = like(x, y_type)
        check_shape(&whole, y)
        set_operand(&job, &whole, FS_Y, y)
    if width is not None:
        group(&job, &whole, width)
    last = whole.ndim - 1
    if labels is not None:
        places = indices(labels, ignore_index, &whole)
        set_reduced_operand(&job, &whole, FS_LABELS, places)
    asked.ignores = ignore_index is not None
    if asked.ignores and labels is None:
        raise TypeError("ignore_index needs labels")
    weights = set_weights(&job, &whole, sample_weight)
    others = whole
    if labels is None:
        others.shape[last] -= 1
        split_positives(&job, &whole, &others, FS_X, FS_POSITIVES)
        if mask is not None:
            job.operand[FS_MASK].data += whole.step[last][FS_MASK]
        if return_grad:
            split_positives(&job, &whole, &others, FS_Y, FS_Y_POSITIVES)
    if asked.is_pairs:
        job.written = FS_PAIRS
        if labels is None:
            rows = x if width is None else x.reshape(-1, width)
            y = empty_like(rows[..., 1:], dtype_of(y_type))
            check_shape(&others, y)
            set_operand(&job, &others, FS_Y, y)
    elif return_grad:
        job.written = FS_GRADIENT
        if others.shape[last] == 0:
            y.fill(0)
    loss = run_loss(&job, &others, &asked)
    return y if asked.is_pairs else (loss, y) if return_grad else loss


cdef object pair_hinge(pos, neg, margin, p, variant, reduction, sample_weight, where,
                       bint return_grad):
    """Positives and their negatives in arrays of their own."""
    cdef fs_job job
    cdef layout whole
    cdef request asked
    asked.ignores = False
    cdef cnp.ndarray positives, x, mask, weights, y = None, y_positives = None
    cdef int y_type
    positives = scores_of(pos, "pos")
    x = scores_of(neg, "neg")
    _arguments.check_pairs(positives, x)
    mask = mask_for(where, x, "neg")
    y_type = type_of(x)
    if type_of(positives) != y_type:
        y_type = promoted_type(_arguments.promote((pos, positives), (neg, x)))
    y_type = y_type if is_floating(y_type) else FS_F64
    begin(&job, &whole, FS_HINGE, y_type, x, -1)
    set_options(&job, &asked, margin, p, variant, reduction, return_grad)
    set_operand(&job, &whole, FS_X, x)
    set_reduced_operand(&job, &whole, FS_POSITIVES, positives)
    set_operand(&job, &whole, FS_MASK, mask)
    weights = set_weights(&job, &whole, sample_weight)
    job.written = FS_NOTHING
    if return_grad or asked.is_pairs:
        job.written = FS_GRADIENT if return_grad else FS_PAIRS
        y = like(x, y_type)
        check_shape(&whole, y)
        set_operand(&job, &whole, FS_Y, y)
    if return_grad:
        y_positives = like(positives, y_type)
        set_reduced_operand(&job, &whole, FS_Y_POSITIVES, y_positives)
        if cnp.PyArray_SIZE(x) == 0:
            y_positives.fill(0)
    loss = run_loss(&job, &whole, &asked)
    return y if asked.is_pairs else (loss, (y_positives, y)) if return_grad else loss
