"""Cross-entropy, a loss over the layouts of _hinge.pxi. Included by _cpu.pyx."""


cdef int axis_of_classes(axis, int ndim) except -1:
    if type(axis) is int and -ndim <= axis < ndim:
        return axis + ndim if axis < 0 else axis
    return _arguments.as_one_axis(axis, ndim)


cdef void move_last(layout *whole, int axis) noexcept:
    """The reduced axis goes behind the others."""
    cdef int last = whole.ndim - 1
    cdef ptrdiff_t size = whole.shape[axis]
    cdef ptrdiff_t step[FS_OPERANDS]
    memcpy(step, whole.step[axis], sizeof(step))
    for axis in range(axis, last):
        whole.shape[axis] = whole.shape[axis + 1]
        memcpy(whole.step[axis], whole.step[axis + 1], sizeof(step))
    whole.shape[last] = size
    memcpy(whole.step[last], step, sizeof(step))
    whole.reduced = <uint64_t>1 << last


cdef bint are_targets(labels, cnp.ndarray x) except -1:
    """Whether labels are probabilities, one for each score."""
    if PyArray_CheckExact(labels):
        return cnp.PyArray_SAMESHAPE(<cnp.ndarray>labels, x)
    return np.shape(labels) == np.shape(x)


cdef double smoothing_of(label_smoothing) except? -1:
    cdef double part = real_number(label_smoothing, "label_smoothing", FS_F64)
    if not 0 <= part <= 1:
        _arguments.as_smoothing(label_smoothing)
    return part


cdef object entropy(scores, labels, axis, temperature, ignore_index, label_smoothing,
                    reduction, sample_weight, where, bint return_grad):
    """The loss, or a pair with the gradient."""
    cdef fs_job job
    cdef layout whole
    cdef request asked
    cdef cnp.ndarray x, mask, targets, places, weights, y = None
    cdef int y_type, place
    x = scores_of(scores, "scores")
    place = axis_of_classes(axis, cnp.PyArray_NDIM(x))
    mask = mask_for(where, x, "scores")
    y_type = type_of(x) if is_floating(type_of(x)) else FS_F64
    if type(reduction) is not str or reduction not in _arguments.ENTROPY_REDUCTIONS:
        _arguments.check_choice("reduction", reduction, _arguments.ENTROPY_REDUCTIONS)
    if not is_number(temperature):
        temperature = _arguments.as_temperatures(temperature, dtype_of(y_type),
                                                 np.shape(x), (place,), "scores")
        return over_quotients(x, mask, temperature, labels, place, ignore_index,
                              label_smoothing, reduction, sample_weight, return_grad,
                              y_type)
    begin(&job, &whole, FS_CROSS_ENTROPY, y_type, x, place)
    job.operand[FS_X].temperature = divisor(temperature, y_type)
    job.operand[FS_X].overflow = &job.overflow
    set_operand(&job, &whole, FS_X, x)
    set_operand(&job, &whole, FS_MASK, mask)
    job.written = FS_NOTHING
    if return_grad:
        job.written = FS_GRADIENT
        y = like(x, y_type)
        check_shape(&whole, y)
        set_operand(&job, &whole, FS_Y, y)
    set_reduction(&asked, reduction)
    asked.ignores = ignore_index is not None
    job.p = 1
    job.largest = 0
    job.margin = 0
    job.scale = 1 / job.operand[FS_X].temperature
    job.smoothing = smoothing_of(label_smoothing)
    if are_targets(labels, x):
        if asked.ignores:
            raise TypeError("ignore_index needs labels that are integers")
        targets = scores_of(labels, "labels")
        set_operand(&job, &whole, FS_DY, targets)
        move_last(&whole, place)
    else:
        move_last(&whole, place)
        places = indices(labels, ignore_index, &whole)
        set_reduced_operand(&job, &whole, FS_LABELS, places)
    weights = set_weights(&job, &whole, sample_weight)
    loss = run_loss(&job, &whole, &asked)
    if job.overflow:
        return over_quotients(x, mask, job.operand[FS_X].temperature, labels, place,
                              ignore_index, label_smoothing, reduction, sample_weight,
                              return_grad, y_type)
    return (loss, y) if return_grad else loss


cdef object over_quotients(cnp.ndarray x, where, temperature, labels, int axis,
                           ignore_index, label_smoothing, reduction, sample_weight,
                           bint return_grad, int y_type):
    """The same of scores that are divided first."""
    mask = _arguments.as_mask(where, np.shape(x), "scores")
    compute = dtype_of(computed_in(y_type))
    scaled = _by_numpy.quotients(x, (axis,), mask, temperature, compute)
    result = entropy(scaled, labels, axis, 1.0, ignore_index, label_smoothing,
                     reduction, sample_weight, mask, return_grad)
    if not return_grad:
        return result
    return result[0], _by_numpy.divided(result[1], temperature, None, dtype_of(y_type))
