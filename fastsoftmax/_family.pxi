"""Decodes the softmax family and its gradients. Included by _cpu.pyx."""

cdef inline bint is_vjp(const fs_job *job) noexcept nogil:
    return job.op == FS_SOFTMAX_VJP or job.op == FS_LOG_SOFTMAX_VJP


cdef bint run_elementwise(fs_job *job, layout *whole, cnp.ndarray x,
                          cnp.ndarray second, cnp.ndarray y) except -1:
    """Runs a job whose result has the shape of x; False if its axes do not join.

    `second` is the mask, or dy. The result is dense, and leads.
    """
    cdef bint is_plain
    set_operand(job, whole, FS_X, x)
    set_operand(job, whole, FS_Y, y)
    set_operand(job, whole, FS_DY if is_vjp(job) else FS_MASK, second)
    if not factor(job, whole, FS_Y):
        return False
    is_plain = is_vjp(job) or (
        second is None and job.operand[FS_X].temperature == 1
    )
    settle_direct(job, FS_X, is_plain, job.inner > 1)
    if is_vjp(job):
        settle_direct(job, FS_DY, True, job.inner > 1)
    execute(job)
    return True


cdef object elementwise(fs_job *job, layout *whole, cnp.ndarray x, cnp.ndarray second,
                        cnp.ndarray out, int y_type):
    """The result, in `out` or a new array; `x` has at least one axis."""
    cdef cnp.ndarray y = out, target
    cdef uint64_t reduced = whole.reduced
    if out is None:
        y = like(x, y_type)
    x = apart(x, out, True)
    second = apart(second, out, is_vjp(job))
    target = y if out is None or is_dense(y) else np.empty_like(y)
    if cnp.PyArray_SIZE(x) == 0:
        return y
    job.overflow = not is_vjp(job) and is_overwritten(job, x, target)
    if not job.overflow:
        if not run_elementwise(job, whole, x, second, target):
            copy_and_run(job, whole, x, second, y, target)
        elif target is not y:
            np.copyto(y, target)
    if job.overflow:
        whole.reduced = reduced
        x = quotients(job, whole, x, second, job.operand[FS_X].temperature)
        return elementwise(job, whole, x, second, y, y_type)
    return y


cdef bint is_overwritten(const fs_job *job, cnp.ndarray x, cnp.ndarray y) noexcept:
    """Whether quotients may overflow that would replace their elements."""
    cdef double temperature = job.operand[FS_X].temperature
    cdef size_t first, last
    if temperature >= 1 or PyArray_DATA(x) != PyArray_DATA(y):
        return False
    if type_of(y) != <int>job.compute:
        return temperature < 1e-30  # beyond float32 for any of 16 bits
    extent(x, &first, &last)  # dense, as y is
    with nogil:
        if job.compute == FS_F32:
            return has_large(<const float *>first, <const float *>last,
                             <float>(temperature * FLT_MAX))
        return has_large(<const double *>first, <const double *>last,
                         temperature * DBL_MAX)


cdef bint has_large(const real *x, const real *end, real large) noexcept nogil:
    cdef bint some = False
    cdef real size
    for i in range(end - x):
        size = fabs(x[i])  # compared as floats where they are: four times as fast
        some |= size >= large
    return some


cdef cnp.ndarray quotients(fs_job *job, layout *whole, cnp.ndarray x, cnp.ndarray mask,
                           temperature):
    """x / temperature, or what has the same softmax, as the new x of an empty job."""
    x = _by_numpy.quotients(x, axes_of(whole), mask, temperature,
                            dtype_of(job.compute))
    begin(job, whole, job.op, type_of(x), x, axes_of(whole))
    return x


cdef inline bint is_number(temperature) except -1:
    return type(temperature) is float or type(temperature) is int or (
        _arguments.is_one_number(temperature)
    )


cdef bint joins_as(fs_job *job, layout *whole, cnp.ndarray a) noexcept:
    """Whether the reduced axes of this array alone join."""
    cdef int which
    for which in range(FS_OPERANDS):
        job.operand[which].data = NULL
    set_operand(job, whole, FS_Y, a)
    return factor(job, whole, FS_Y)


cdef int copy_and_run(fs_job *job, layout *whole, cnp.ndarray x, cnp.ndarray second,
                      cnp.ndarray y, cnp.ndarray target) except -1:
    """The same where axes join in copies alone: ordered as the result, or moved last.

    What goes with x is copied first: it is smaller, or may be the result itself.
    """
    cdef tuple axes = axes_of(whole)
    cdef cnp.ndarray copy, mate
    cdef bint is_done
    compute = dtype_of(job.compute)
    if not is_vjp(job) and job.compute == FS_F32 and type_of(x) == FS_F64:
        job.overflow = _by_numpy.overflows(x, compute)  # in the copies, unnoticed
    if joins_as(job, whole, target):
        mate = None if second is None else _by_numpy.ordered_as(target, second)
        is_done = second is not None and (
            run_elementwise(job, whole, x, mate, target)
        )
        if not is_done:
            copy = _by_numpy.computed_in(target, x, compute)
            run_elementwise(job, whole, copy, mate, target)
        if target is not y:
            np.copyto(y, target)
        return 0
    copy, mate = _by_numpy.axes_last(x, second, axes, compute)
    last = tuple(range(x.ndim - len(axes), x.ndim))
    target = copy if y.dtype == compute else np.empty(np.shape(copy), y.dtype)
    set_axes(whole, copy, last)
    run_elementwise(job, whole, copy, mate, target)
    np.copyto(y, np.moveaxis(target, last, axes))
    return 0


cdef object softmax_like(fs_op op, x, axis, temperature, where, out, dtype):
    """softmax and log_softmax."""
    cdef fs_job job
    cdef layout whole
    cdef cnp.ndarray a, mask, y = None
    cdef int y_type
    cdef bint is_scalar
    a = numbers(x, "x")
    y_type = result_type(a, dtype)
    if y_type == NO_KERNEL:
        return _by_numpy.softmax_like(op == FS_LOG_SOFTMAX, a, axis, temperature, where,
                                      out, dtype)
    is_scalar = cnp.PyArray_NDIM(a) == 0
    if is_scalar:
        axis = _arguments.as_axes(axis, 0)
    if out is not None:
        y = checked_out(out, cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), y_type)
    if is_scalar:
        a = a.reshape(1)
        y = None if out is None else y.reshape(1)
    begin(&job, &whole, op, y_type, a, axis)
    mask = mask_for(where, a, "x")
    job.operand[FS_X].overflow = &job.overflow
    if is_number(temperature):
        job.operand[FS_X].temperature = divisor(temperature, y_type)
        if type_of(a) == NO_KERNEL:
            a = quotients(&job, &whole, a, mask, job.operand[FS_X].temperature)
    else:
        temperature = _arguments.as_temperatures(
            temperature, dtype_of(y_type), () if is_scalar else np.shape(a),
            axes_of(&whole), "y"
        )
        a = quotients(&job, &whole, a, mask, temperature)
    y = elementwise(&job, &whole, a, mask, y, y_type)
    if out is not None:
        return out
    return scalar_of(y) if is_scalar else y


cdef int promoted_type(cnp.dtype promoted) except -2:
    """The element type of a result for which NumPy has found a common type."""
    if promoted.kind in b"biu":
        return FS_F64
    return type_of_num(promoted.type_num, promoted.itemsize)


cdef object vjp(fs_op op, y, dy, axis, temperature, where, out, dtype):
    """softmax_vjp and log_softmax_vjp."""
    cdef fs_job job
    cdef layout whole
    cdef cnp.ndarray a, b, last, mask, dx = None
    cdef int y_type
    cdef bint is_scalar
    a = numbers(y, "y")
    b = numbers(dy, "dy")
    mask = mask_for(where, a, "y")
    if not broadcasts(b, a):
        _arguments.broadcast(b, np.shape(a), "dy", "y")  # says so
    y_type = type_of(a)
    if y_type != type_of(b) or not is_floating(y_type) or dtype is not None:
        promoted = _arguments.promote((y, a), (dy, b))
        if promoted.kind == "c":
            raise TypeError(
                f"y and dy must be real, got dtypes {a.dtype} and {b.dtype}"
            )
        promoted = _arguments.result_dtype(promoted, dtype)
        if promoted.kind == "c":
            raise TypeError(f"dtype must be real, got {promoted}")
        learn(promoted)
        y_type = promoted_type(promoted)
        if y_type == NO_KERNEL:
            return _by_numpy.vjp(op == FS_LOG_SOFTMAX_VJP, a, b, axis, temperature,
                                 mask, out, promoted)
        compute = dtype_of(computed_in(y_type))
        a = a if type_of(a) != NO_KERNEL else _arguments.cast(a, compute)
        b = b if type_of(b) != NO_KERNEL else _arguments.cast(b, compute)
    if mask is not None:
        absent, a, b = _by_numpy.masked(op == FS_LOG_SOFTMAX_VJP, a, b, mask,
                                        dtype_of(computed_in(y_type)))
    is_scalar = cnp.PyArray_NDIM(a) == 0
    if is_scalar:
        axis = _arguments.as_axes(axis, 0)
    if out is not None:
        dx = checked_out(out, cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), y_type)
    if is_scalar:
        a = a.reshape(1)
        dx = None if out is None else dx.reshape(1)
        b = b.reshape(1)
    begin(&job, &whole, op, y_type, a, axis)
    job.divisor = 1
    if is_number(temperature):
        job.divisor = divisor(temperature, y_type)
        dx = elementwise(&job, &whole, a, b, dx, y_type)
    else:
        temperature = _arguments.as_temperatures(
            temperature, dtype_of(y_type), () if is_scalar else np.shape(a),
            axes_of(&whole), "y"
        )
        last = elementwise(&job, &whole, a, b, None, job.compute)
        dx = _by_numpy.divided(last, temperature, dx, dtype_of(y_type))
    if mask is not None:
        np.copyto(dx, 0, "unsafe", absent.reshape(np.shape(dx)))
    if out is not None:
        return out
    return scalar_of(dx) if is_scalar else dx


cdef cnp.ndarray one_each(cnp.ndarray x, const layout *whole, bint keepdims,
                          int y_type):
    """A new array with one element a set, in the order of x's memory."""
    cdef cnp.npy_intp shape[FS_MAX_OUTER]
    cdef int d, ndim = shape_of_sets(whole, keepdims, shape)
    cdef ptrdiff_t size = 1
    for d in range(ndim):
        size *= shape[d]
    if cnp.PyArray_ISCARRAY_RO(x) or size == 0 or cnp.PyArray_SIZE(x) == 0:
        return empty(ndim, shape, dtype_of(y_type), size)
    kept = x[tuple([
        slice(0, 1) if keepdims and is_reduced(whole, d) else
        0 if is_reduced(whole, d) else slice(None) for d in range(whole.ndim)
    ] + [...])]  # an array, whatever is left
    return empty_like(kept, dtype_of(y_type))


cdef bint run_reduction(fs_job *job, layout *whole, cnp.ndarray x, cnp.ndarray mask,
                        cnp.ndarray y) except -1:
    set_operand(job, whole, FS_X, x)
    set_operand(job, whole, FS_MASK, mask)
    set_reduced_operand(job, whole, FS_Y, y)
    if not factor(job, whole, FS_X):
        return False
    settle_direct(job, FS_X, mask is None, job.inner > 1)
    execute(job)
    return True


cdef object lse(a, axis, b, bint keepdims, bint return_sign, where, out, dtype):
    """logsumexp, or a pair with the sign."""
    if b is not None:
        return weighted(a, axis, b, keepdims, return_sign, where, out, dtype)
    log = unweighted(a, axis, keepdims, return_sign, where, out, dtype)
    if not return_sign or type(log) is tuple:
        return log
    return log, _by_numpy.sign_of_positive(log)


cdef object unweighted(a, axis, bint keepdims, bint return_sign, where, out, dtype):
    """The logarithm; where formulas give the sign, too, a pair."""
    cdef fs_job job
    cdef layout whole
    cdef cnp.ndarray x, y, mask
    cdef cnp.npy_intp shape[FS_MAX_OUTER]
    cdef int y_type
    x = numbers(a, "a")
    y_type = result_type(x, dtype)
    if y_type == NO_KERNEL:
        return _by_numpy.logsumexp(x, axis, None, keepdims, return_sign, where, out,
                                   dtype)
    if type_of(x) == NO_KERNEL:
        x = _arguments.cast(x, dtype_of(computed_in(y_type)))
    if cnp.PyArray_NDIM(x) == 0:
        axis = _arguments.as_axes(axis, 0)
        x = x.reshape(1)
    begin(&job, &whole, FS_LOGSUMEXP, y_type, x, axis)
    if out is None:
        y = one_each(x, &whole, keepdims, y_type)
    else:
        y = checked_out(out, shape_of_sets(&whole, keepdims, shape), shape, y_type)
        x = apart(x, y, False)
    mask = mask_for(where, x, "a")
    mask = apart(mask, None if out is None else y, False)
    if cnp.PyArray_SIZE(x) == 0:
        y.fill(-np.inf)
    elif not run_reduction(&job, &whole, x, mask, y):
        reduce_copies(&job, &whole, x, mask, y)
    if out is not None:
        return out
    return scalar_of(y) if cnp.PyArray_NDIM(y) == 0 else y


cdef int reduce_copies(fs_job *job, layout *whole, cnp.ndarray x, cnp.ndarray mask,
                       cnp.ndarray y) except -1:
    """The same where the reduced axes join in copies alone: of the mask, or of both."""
    cdef tuple axes = axes_of(whole)
    cdef bint keepdims = cnp.PyArray_NDIM(y) == whole.ndim and len(axes) > 0
    cdef cnp.ndarray copy
    if mask is not None and run_reduction(job, whole, x, _by_numpy.ordered_as(x, mask),
                                          y):
        return 0
    copy, mate = _by_numpy.axes_last(x, mask, axes, dtype_of(job.compute))
    if keepdims:
        y = y.reshape([size for d, size in enumerate(np.shape(y)) if d not in axes])
    set_axes(whole, copy, tuple(range(x.ndim - len(axes), x.ndim)))
    run_reduction(job, whole, copy, mate, y)
    return 0


cdef int weighted_type(a, cnp.ndarray x, b, cnp.ndarray w, dtype) except -2:
    """The element type of a weighted result, or NO_KERNEL."""
    cdef int type = type_of(x)
    if dtype is not None:
        return NO_KERNEL if w.dtype.kind == "c" else result_type(x, dtype)
    if type == type_of(w) and is_floating(type):
        return type
    return promoted_type(_arguments.promote((a, x), (b, w)))


cdef object weighted(a, axis, b, bint keepdims, bint return_sign, where, out, dtype):
    """logsumexp with weights: in double, whatever is returned."""
    cdef fs_job job
    cdef layout whole
    cdef cnp.ndarray x = numbers(a, "a"), w = numbers(b, "b"), y, sign = None, mask
    cdef cnp.npy_intp shape[FS_MAX_OUTER]
    cdef int y_type = weighted_type(a, x, b, w, dtype), leader = FS_X
    if y_type == NO_KERNEL:
        return _by_numpy.logsumexp(a, axis, b, keepdims, return_sign, where, out, dtype)
    x = x if type_of(x) != NO_KERNEL else _arguments.cast(x, dtype_of(FS_F64))
    w = w if type_of(w) != NO_KERNEL else _arguments.cast(w, dtype_of(FS_F64))
    if cnp.PyArray_NDIM(w) > 0 and not cnp.PyArray_SAMESHAPE(x, w):
        enlarged = _arguments.broadcast_shape(np.shape(x), np.shape(w))
        if enlarged != np.shape(x):
            x = np.broadcast_to(x, enlarged)
            leader = FS_WEIGHTS
    if cnp.PyArray_NDIM(x) == 0:
        axis = _arguments.as_axes(axis, 0)
        x = x.reshape(1)
    begin(&job, &whole, FS_WEIGHTED, FS_F64, x, axis)
    y = one_each(x, &whole, keepdims, y_type) if out is None else checked_out(
        out, shape_of_sets(&whole, keepdims, shape), shape, y_type)
    x = apart(x, None if out is None else y, False)
    w = apart(w, None if out is None else y, False)
    mask = apart(mask_for(where, x, "a"), None if out is None else y, False)
    set_operand(&job, &whole, FS_X, x)
    set_operand(&job, &whole, FS_MASK, mask)
    set_operand(&job, &whole, FS_WEIGHTS, w)
    set_reduced_operand(&job, &whole, FS_Y, y)
    if return_sign:
        sign = np.empty_like(y)
        set_reduced_operand(&job, &whole, FS_SIGNS, sign)
    if cnp.PyArray_SIZE(x) == 0:
        y.fill(-np.inf)
        if return_sign:
            sign.fill(0)
    else:
        factor(&job, &whole, leader)
        execute(&job)
    log = out if out is not None else scalar_of(y) if cnp.PyArray_NDIM(y) == 0 else y
    if not return_sign:
        return log
    return log, scalar_of(sign) if cnp.PyArray_NDIM(sign) == 0 else sign
