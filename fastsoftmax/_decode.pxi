"""Any arrays become operands of a job: the pieces of decoding that every function uses.
Included by _cpu.pyx.

A. An argument is decoded once, here: what is common by NumPy's C API, the rest, and
   every error, by _arguments.py.
B. Arrays are walked as they are: of any stride, order, alignment and byte order. Where
   they stand in memory is a `layout`; `factor` turns it into the loops of a job.
C. What the kernels cannot walk or compute goes through one door, _by_numpy.py.
"""

cdef enum:
    NO_KERNEL = -1  # an element type that NumPy's formulas alone know

# ml_dtypes' bfloat16, once it has been met.
cdef int bfloat16_num = -1
cdef cnp.dtype bfloat16 = None


# Where the elements of a call's arrays are, axis by axis of the array that is reduced.
cdef struct layout:
    int ndim
    uint64_t reduced  # bit d: axis d is
    ptrdiff_t shape[FS_MAX_OUTER]
    ptrdiff_t step[FS_MAX_OUTER][FS_OPERANDS]


# ---- element types ----

cdef int type_of_num(int num, int size) noexcept:
    if num == cnp.NPY_FLOAT:
        return FS_F32
    if num == cnp.NPY_DOUBLE:
        return FS_F64
    if num == cnp.NPY_FLOAT16:
        return FS_F16
    if num == bfloat16_num:
        return FS_BF16
    if num == cnp.NPY_BOOL:
        return FS_BOOL
    if cnp.PyTypeNum_ISUNSIGNED(num):
        return (FS_U8 if size == 1 else FS_U16 if size == 2 else
                FS_U32 if size == 4 else FS_U64)
    if cnp.PyTypeNum_ISSIGNED(num) and cnp.PyTypeNum_ISINTEGER(num):
        return (FS_I8 if size == 1 else FS_I16 if size == 2 else
                FS_I32 if size == 4 else FS_I64)
    return NO_KERNEL


cdef inline int type_of(cnp.ndarray a) noexcept:
    return type_of_num(cnp.PyArray_TYPE(a), <int>cnp.PyArray_ITEMSIZE(a))


cdef inline bint is_floating(int type) noexcept:
    return 0 <= type <= FS_BF16


cdef inline fs_type computed_in(int type) noexcept:
    return FS_F64 if type == FS_F64 else FS_F32


cdef cnp.dtype dtype_of(int type):
    if type == FS_BF16:
        return bfloat16
    return cnp.PyArray_DescrFromType(
        cnp.NPY_FLOAT if type == FS_F32 else
        cnp.NPY_DOUBLE if type == FS_F64 else cnp.NPY_FLOAT16
    )


cdef void learn(cnp.dtype dtype) except *:
    global bfloat16_num, bfloat16
    if bfloat16_num == -1 and cnp.PyTypeNum_ISUSERDEF(dtype.type_num) and (
        dtype.name == "bfloat16"
    ):
        bfloat16 = dtype.newbyteorder("=")
        bfloat16_num = dtype.type_num


cdef cnp.ndarray array_of_floats(list given):
    """What NumPy makes of lists of equally many floats, in a tenth of its time; None of
    anything else."""
    cdef cnp.npy_intp[2] shape = [len(given), 0]
    cdef cnp.ndarray a = None
    cdef double *place = NULL
    cdef double *end = NULL
    for row in given:
        if type(row) is not list or (a is not None and len(<list>row) != shape[1]):
            return None
        if a is None:
            shape[1] = len(<list>row)
            a = cnp.PyArray_EMPTY(2, shape, cnp.NPY_DOUBLE, 0)
            place = <double *>PyArray_DATA(a)
            end = place + shape[0] * shape[1]
        for number in <list>row:
            if type(number) is not float or place == end:
                return None
            place[0] = number
            place += 1
    return a if place == end else None


cdef cnp.ndarray numbers(x, str name, bint has_where=True):
    """x as an ndarray, its base class, of numbers."""
    cdef cnp.ndarray a = None
    if PyArray_CheckExact(x) and type_of(<cnp.ndarray>x) != NO_KERNEL:
        return <cnp.ndarray>x
    if type(x) is list:
        a = array_of_floats(x)
        if a is not None:
            return a
    a = _arguments.as_array(x, name, has_where)
    learn(a.dtype)
    return a


cdef int result_type(cnp.ndarray x, dtype) except -2:
    """The element type of the result, or NO_KERNEL."""
    cdef cnp.dtype wanted
    cdef int type = type_of(x)
    if dtype is None:
        return type if type == NO_KERNEL or is_floating(type) else FS_F64
    wanted = np.dtype(dtype)
    learn(wanted)
    if type != NO_KERNEL and is_floating(type_of_num(wanted.type_num, wanted.itemsize)):
        return type_of_num(wanted.type_num, wanted.itemsize)
    wanted = _arguments.result_dtype(x.dtype, wanted)
    return type_of_num(wanted.type_num, wanted.itemsize)


cdef double real_number(value, str name, fs_type compute) except? -1:
    """A real number in the type computed in, infinite where it is beyond."""
    cdef double number
    if type(value) is float or isinstance(value, (np.float32, np.float64)):
        number = value
    elif type(value) is int and -1e9 < value < 1e9:
        number = value
    else:
        kind = np.float32 if compute == FS_F32 else np.float64
        number = _arguments.as_real(value, name, kind)
    return <float>number if compute == FS_F32 else number


cdef double divisor(temperature, int y_type) except? -1:
    cdef double number = real_number(temperature, "temperature", computed_in(y_type))
    if not 0 < number < INFINITY:
        _arguments.as_temperature(temperature, dtype_of(y_type))
    return number


cdef inline bint is_foreign(x) except -1:
    """Whether x is CuPy's or Dask's."""
    return x is not None and not PyArray_Check(x) and (
        _arguments.is_cupy(x) or _arguments.is_dask(x)
    )


# ---- layouts ----

cdef int begin(fs_job *job, layout *whole, fs_op op, int y_type, cnp.ndarray x,
               axis) except -1:
    """An empty job over x, which has at least one axis (a scalar: of length 1)."""
    cdef int a
    for a in range(FS_OPERANDS):
        job.operand[a].data = NULL
        job.operand[a].temperature = 1
        job.operand[a].via_float = 0
        job.operand[a].overflow = NULL
    job.op = op
    job.overflow = 0
    job.compute = computed_in(y_type)
    return set_axes(whole, x, axis)


cdef inline bint is_reduced(const layout *whole, int d) noexcept nogil:
    return whole.reduced >> d & 1


cdef bint add_axis(layout *whole, axis) except -1:
    """Reduces one more axis; False if it is not an integer, not there, or there twice.
    """
    cdef int overflow
    cdef long d
    if type(axis) is not int and not isinstance(axis, np.integer):
        return False
    d = PyLong_AsLongAndOverflow(axis, &overflow)
    if d < 0:
        d += whole.ndim
    if overflow or not 0 <= d < whole.ndim or is_reduced(whole, <int>d):
        return False
    whole.reduced |= <uint64_t>1 << d
    return True


cdef int set_axes(layout *whole, cnp.ndarray x, axis) except -1:
    """The axes of x, and which of them are reduced."""
    cdef int d
    cdef bint fits = True
    whole.ndim = cnp.PyArray_NDIM(x)
    whole.reduced = <uint64_t>-1 if axis is None else 0
    if type(axis) is tuple:
        for one in <tuple>axis:
            fits = fits and add_axis(whole, one)
    elif axis is not None:
        fits = add_axis(whole, axis)
    if not fits:
        for one in _arguments.as_axes(axis, whole.ndim):
            add_axis(whole, one)
    whole.ndim = cnp.PyArray_NDIM(x)  # an axis may be an object that has changed it
    for d in range(whole.ndim):
        whole.shape[d] = cnp.PyArray_DIM(x, d)
    return 0


cdef tuple axes_of(const layout *whole):
    return tuple([d for d in range(whole.ndim) if is_reduced(whole, d)])


cdef inline void set_type(fs_operand *operand, cnp.ndarray a) noexcept:
    operand.data = <char *>PyArray_DATA(a)
    operand.type = <fs_type>type_of(a)
    operand.swapped = cnp.PyArray_ISBYTESWAPPED(a)
    operand.direct = cnp.PyArray_ISALIGNED(a) and not operand.swapped


cdef void set_operand(fs_job *job, layout *whole, int which, cnp.ndarray a) noexcept:
    """An array that broadcasts to the whole; None is absent."""
    cdef int before, d
    if a is None:
        return
    set_type(&job.operand[which], a)
    before = whole.ndim - cnp.PyArray_NDIM(a)
    for d in range(whole.ndim):
        whole.step[d][which] = 0
        if d >= before and cnp.PyArray_DIM(a, d - before) == whole.shape[d]:
            whole.step[d][which] = cnp.PyArray_STRIDE(a, d - before)


cdef void set_reduced_operand(fs_job *job, layout *whole, int which,
                              cnp.ndarray a) noexcept:
    """An array with one element a set, of the axes that are kept, or of all, with
    length 1 where they are reduced; or with one element for every set."""
    cdef int d, at = 0, ndim = cnp.PyArray_NDIM(a)
    cdef bint has_all = ndim == whole.ndim
    set_type(&job.operand[which], a)
    for d in range(whole.ndim):
        whole.step[d][which] = 0
        if at < ndim and not is_reduced(whole, d) and (
            cnp.PyArray_DIM(a, at) == whole.shape[d]
        ):
            whole.step[d][which] = cnp.PyArray_STRIDE(a, at)
        if has_all or not is_reduced(whole, d):
            at += 1


cdef inline ptrdiff_t magnitude(ptrdiff_t step) noexcept nogil:
    return -step if step < 0 else step


cdef int by_steps(const layout *whole, int leader, int *order) noexcept nogil:
    """The axes that are longer than 1, the longest step of the leader first."""
    cdef int count = 0, d, at
    for d in range(whole.ndim):
        if whole.shape[d] == 1:
            continue
        at = count
        while at > 0 and magnitude(whole.step[order[at - 1]][leader]) < (
            magnitude(whole.step[d][leader])
        ):
            order[at] = order[at - 1]
            at -= 1
        order[at] = d
        count += 1
    return count


cdef inline bint join(const fs_job *job, const ptrdiff_t *outer, ptrdiff_t size,
                      const ptrdiff_t *step) noexcept nogil:
    """Whether every array walks two neighbouring dimensions as if they were one."""
    cdef int a
    for a in range(FS_OPERANDS):
        if job.operand[a].data != NULL and outer[a] != size * step[a]:
            return False
    return True


cdef bint factor(fs_job *job, const layout *whole, int leader) noexcept nogil:
    """Sets outer, n and inner; False if the reduced axes do not join into one, and it
    is not their runs that are walked.

    The leader's memory decides the order of the loops; inner is behind n where the
    leader takes shorter steps there.
    """
    cdef int order[FS_MAX_OUTER]
    cdef layout runs
    cdef int count = by_steps(whole, leader, order), i, d, a
    cdef ptrdiff_t n_step[FS_OPERANDS]
    cdef ptrdiff_t size
    job.n = job.run = job.inner = job.outer = 1
    job.n_outer = runs.ndim = 0
    memset(n_step, 0, sizeof(n_step))
    for i in range(count):
        d = order[i]
        size = whole.shape[d]
        if is_reduced(whole, d):
            if job.n > 1 and not join(job, n_step, size, whole.step[d]):
                if job.op != FS_WEIGHTED:
                    return False
                add_run(job, &runs, n_step)
            job.n *= size
            job.run *= size
            memcpy(n_step, whole.step[d], sizeof(n_step))
            continue
        if job.n_outer > 0 and join(job, job.outer_step[job.n_outer - 1], size,
                                    whole.step[d]):
            job.n_outer -= 1
            size *= job.outer_shape[job.n_outer]
        job.outer_shape[job.n_outer] = size
        memcpy(job.outer_step[job.n_outer], whole.step[d], sizeof(n_step))
        job.n_outer += 1
    if runs.ndim > 0:
        exchange_runs(job, &runs, n_step)
    for a in range(FS_OPERANDS):
        job.operand[a].n = n_step[a]
        job.operand[a].inner = 0
    if job.n_outer > 0 and (job.n == 1 or magnitude(
        job.outer_step[job.n_outer - 1][leader]) < magnitude(n_step[leader])
    ):
        take_inner(job)
    for i in range(job.n_outer):
        job.outer *= job.outer_shape[i]
    job.n_runs = runs.ndim
    for i in range(runs.ndim):
        job.outer_shape[job.n_outer + i] = runs.shape[i]
        memcpy(job.outer_step[job.n_outer + i], runs.step[i], sizeof(n_step))
    return True


cdef void add_run(fs_job *job, layout *runs, const ptrdiff_t *n_step) noexcept nogil:
    """What has joined so far becomes a dimension around runs, which begin anew."""
    runs.shape[runs.ndim] = job.run
    memcpy(runs.step[runs.ndim], n_step, FS_OPERANDS * sizeof(ptrdiff_t))
    runs.ndim += 1
    job.run = 1


cdef void exchange_runs(fs_job *job, layout *runs, ptrdiff_t *n_step) noexcept nogil:
    """Runs are cut from the longest dimension, where the innermost is short: each costs
    as much as some ten elements."""
    cdef ptrdiff_t step[FS_OPERANDS]
    cdef int i, longest = 0
    for i in range(runs.ndim):
        if runs.shape[i] > runs.shape[longest]:
            longest = i
    if job.run < 64 and runs.shape[longest] > job.run:
        job.run, runs.shape[longest] = runs.shape[longest], job.run
        memcpy(step, n_step, sizeof(step))
        memcpy(n_step, runs.step[longest], sizeof(step))
        memcpy(runs.step[longest], step, sizeof(step))


cdef void take_inner(fs_job *job) noexcept nogil:
    """The last outer dimension becomes inner."""
    cdef int a
    job.n_outer -= 1
    job.inner = job.outer_shape[job.n_outer]
    for a in range(FS_OPERANDS):
        job.operand[a].inner = job.outer_step[job.n_outer][a]


cdef void settle_direct(fs_job *job, int which, bint is_plain, bint is_inner) noexcept:
    """Says whether the kernels can read an operand in place: aligned native elements
    of the type computed in, side by side along the innermost dimension."""
    cdef fs_operand *operand = &job.operand[which]
    cdef ptrdiff_t size = job.inner if is_inner else job.n
    cdef ptrdiff_t step = operand.inner if is_inner else operand.n
    operand.direct = (
        is_plain and operand.direct and operand.type == job.compute
        and (size == 1 or step == fs_size_of(operand.type))
    )


# ---- results ----

cdef int shape_of_sets(const layout *whole, bint keepdims,
                       cnp.npy_intp *shape) noexcept:
    """The shape of what has one element a set; returns its number of axes."""
    cdef int d, ndim = 0
    for d in range(whole.ndim):
        if keepdims or not is_reduced(whole, d):
            shape[ndim] = 1 if is_reduced(whole, d) else whole.shape[d]
            ndim += 1
    return ndim


cdef void extent(cnp.ndarray a, size_t *first, size_t *last) noexcept:
    cdef int d
    first[0] = last[0] = <size_t>PyArray_DATA(a)
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_STRIDE(a, d) < 0:
            first[0] += <size_t>((cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d))
        else:
            last[0] += <size_t>((cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d))
    last[0] += <size_t>cnp.PyArray_ITEMSIZE(a)


cdef bint may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef size_t a_first, a_last, b_first, b_last
    if cnp.PyArray_SIZE(a) == 0 or cnp.PyArray_SIZE(b) == 0:
        return False
    extent(a, &a_first, &a_last)
    extent(b, &b_first, &b_last)
    return a_first < b_last and b_first < a_last


cdef bint is_same(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two arrays are the same elements at the same places."""
    cdef int d
    if PyArray_DATA(a) != PyArray_DATA(b) or not cnp.PyArray_SAMESHAPE(a, b):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return type_of(a) == type_of(b) and (
        cnp.PyArray_ISBYTESWAPPED(a) == cnp.PyArray_ISBYTESWAPPED(b)
    )


cdef cnp.ndarray apart(cnp.ndarray a, cnp.ndarray out, bint may_be_same):
    """a, or a copy of it where writing to `out` would change what is still needed."""
    if a is None or out is None or not may_overlap(a, out):
        return a
    if may_be_same and is_same(a, out):
        return a
    return cnp.PyArray_NewCopy(a, cnp.NPY_KEEPORDER)


cdef bint is_dense(cnp.ndarray y) noexcept:
    """Whether y fills its memory without gaps, in any order of its axes."""
    cdef layout whole
    cdef int order[FS_MAX_OUTER]
    cdef int d, count
    cdef ptrdiff_t step = cnp.PyArray_ITEMSIZE(y)
    if not cnp.PyArray_ISBEHAVED(y):
        return False
    if cnp.PyArray_ISCARRAY(y):
        return True
    whole.ndim = cnp.PyArray_NDIM(y)
    for d in range(whole.ndim):
        whole.shape[d] = cnp.PyArray_DIM(y, d)
        whole.step[d][FS_Y] = cnp.PyArray_STRIDE(y, d)
    count = by_steps(&whole, FS_Y, order)
    while count > 0:
        count -= 1
        if whole.step[order[count]][FS_Y] != step:
            return False
        step *= whole.shape[order[count]]
    return True


cdef cnp.ndarray checked_out(out, int ndim, const cnp.npy_intp *shape, int y_type):
    """The caller's `out`, which is to have this shape and type."""
    cdef int d
    cdef bint fits = (
        PyArray_CheckExact(out) and cnp.PyArray_NDIM(<cnp.ndarray>out) == ndim
        and type_of(<cnp.ndarray>out) == y_type
        and not cnp.PyArray_ISBYTESWAPPED(<cnp.ndarray>out)
        and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
    )
    for d in range(ndim if fits else 0):
        fits = fits and cnp.PyArray_DIM(<cnp.ndarray>out, d) == shape[d]
    if not fits:
        lengths = tuple([shape[d] for d in range(ndim)])
        _arguments.check_out(out, lengths, dtype_of(y_type))
    return <cnp.ndarray>out if PyArray_CheckExact(out) else np.asarray(out)


cdef cnp.ndarray like(cnp.ndarray x, int type):
    """A new array shaped and laid out like x."""
    if cnp.PyArray_ISCARRAY_RO(x):
        return empty(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), dtype_of(type),
                     cnp.PyArray_SIZE(x))
    return empty_like(x, dtype_of(type))


cdef int check_shape(const layout *whole, cnp.ndarray y) except -1:
    """A result has its array's shape, unless user code in an argument changed that."""
    cdef int d
    cdef bint fits = cnp.PyArray_NDIM(y) == whole.ndim
    for d in range(whole.ndim):
        fits = fits and cnp.PyArray_DIM(y, d) == whole.shape[d]
    if not fits:
        raise ValueError("an argument has changed another one's shape during the call")
    return 0


cdef inline object scalar_of(cnp.ndarray y):
    return cnp.PyArray_ToScalar(PyArray_DATA(y), y)


cdef bint broadcasts(cnp.ndarray a, cnp.ndarray x) noexcept:
    """Whether a broadcasts to the shape of x."""
    cdef int ndim = cnp.PyArray_NDIM(a), before = cnp.PyArray_NDIM(x) - ndim, d
    if before < 0:
        return False
    for d in range(ndim):
        if cnp.PyArray_DIM(a, d) != 1 and (
            cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(x, before + d)
        ):
            return False
    return True


cdef cnp.ndarray mask_for(where, cnp.ndarray x, str name):
    """`where` as booleans that broadcast to x, or None if it masks nothing."""
    if where is None or where is True:
        return None
    if PyArray_CheckExact(where) and (
        cnp.PyArray_TYPE(<cnp.ndarray>where) == cnp.NPY_BOOL
    ) and broadcasts(where, x):
        return <cnp.ndarray>where
    return _arguments.as_mask(where, np.shape(x), name)
