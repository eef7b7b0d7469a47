"""Cross-entropy, a loss over the layouts of _hinge.pxi. Included by _cpu.pyx."""


cdef object entropy(scores, labels, axis, temperature, ignore_index, label_smoothing,
                    reduction, sample_weight, where, bint return_grad):
    """The loss, or a pair with the gradient."""
    cdef fs_job job
    cdef layout whole
    cdef request asked
    cdef cnp.ndarray x, mask, targets, moved, places = None, weights, y = None
    cdef int y_type
    x = scores_of(scores, "scores")
    cdef int place = _arguments.as_one_axis(axis, x.ndim)
    mask = mask_for(where, x, "scores")
    if mask is not None:
        mask = _arguments.broadcast(mask, np.shape(x), "where", "scores")
    y_type = type_of(x) if is_floating(type_of(x)) else FS_F64
    _arguments.check_choice("reduction", reduction, ("mean", "sum", "none"))
    if not is_number(temperature):
        temperature = _arguments.as_temperatures(temperature, dtype_of(y_type),
                                                 np.shape(x), (place,))
        return over_quotients(x, mask, temperature, labels, place, ignore_index,
                              label_smoothing, reduction, sample_weight, return_grad,
                              y_type)
    moved = np.moveaxis(x, place, -1)
    begin(&job, &whole, FS_CROSS_ENTROPY, y_type, moved, -1)
    job.operand[FS_X].temperature = divisor(temperature, y_type)
    job.operand[FS_X].overflow = &job.overflow
    set_operand(&job, &whole, FS_X, moved, type_of(x))
    if mask is not None:
        mask = np.moveaxis(mask, place, -1)
        set_operand(&job, &whole, FS_MASK, mask, FS_BOOL)
    job.written = FS_NOTHING
    if return_grad:
        job.written = FS_GRADIENT
        y = like(x, y_type)
        moved = np.moveaxis(y, place, -1)
        set_operand(&job, &whole, FS_Y, moved, y_type)
    asked.by_row = reduction == "none"
    asked.is_mean = reduction == "mean"
    asked.is_pairs = False
    asked.ignores = ignore_index is not None
    job.p = 1
    job.largest = 0
    job.margin = 0
    job.scale = 1 / job.operand[FS_X].temperature
    job.smoothing = _arguments.as_smoothing(label_smoothing)
    if np.shape(labels) == np.shape(x):
        if asked.ignores:
            raise TypeError("ignore_index needs labels that are integers")
        targets = scores_of(labels, "labels")
        targets = np.moveaxis(targets, place, -1)
        set_operand(&job, &whole, FS_DY, targets, type_of(targets))
    else:
        places = indices(labels, ignore_index, &whole)
        set_reduced_operand(&job, &whole, FS_LABELS, places, FS_I64)
    weights = set_weights(&job, &whole, sample_weight)
    loss = run_hinge(&job, &whole, &asked)
    if job.overflow:
        return over_quotients(x, where, job.operand[FS_X].temperature, labels, place,
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
