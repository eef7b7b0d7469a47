"""Where results live (kernels/process/outputs.h). Included by _cpu.pyx."""

# Bytes from which results get memory of ours. What malloc does is as fast while one
# result at a time is freed; where two are, it hands them back to the kernel (softmax
# and its gradient in one function: 3.6 times slower at 1 MiB, 2 times at 8).
cdef enum:
    OURS_FROM = 1048576
# MiB: softmax of 512 tokens over a vocabulary of 128256, in float32, just fits.
cdef int KEEP_MIB = 256
cdef int MOST_MIB = 65536

cdef object our_handler = PyCapsule_New(&fs_handler, "mem_handler", NULL)
cdef int keep_mib = 0


cdef void choose_memory() except *:
    global keep_mib
    wanted = os.environ.get("FASTSOFTMAX_KEEP_MIB") or str(KEEP_MIB)
    if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 5 or (
        int(wanted) > MOST_MIB
    ):
        raise ImportError(
            f"FASTSOFTMAX_KEEP_MIB={wanted!r} is not a whole number from 0 to "
            f"{MOST_MIB}"
        )
    if FS_CAN_KEEP:
        keep_mib = int(wanted)
        fs_keep_at_most(<size_t>keep_mib << 20)


choose_memory()


def keeps_mib():
    """MiB of freed results kept at most; 0 where NumPy's allocator serves them."""
    return keep_mib


def kept_bytes():
    """Bytes of freed results that are kept now."""
    return fs_kept_bytes()


cdef object in_our_memory(make, tuple arguments):
    """make(*arguments), an array in our memory; in NumPy's where ours fails.

    It does beyond some thousand arrays (FS_MOST_BLOCKS). A user's own handler stays.
    """
    cdef object before = PyDataMem_GetHandler()
    if keep_mib > 0 and fs_is_default(before):
        PyDataMem_SetHandler(our_handler)
        try:
            return make(*arguments)
        except MemoryError:
            pass
        finally:
            PyDataMem_SetHandler(before)
    return make(*arguments)


cdef inline cnp.ndarray empty(int ndim, cnp.npy_intp *shape, int type_num,
                              ptrdiff_t size):
    """A C-contiguous array of `size` floats, at most as many as another one has."""
    cdef int d
    if size * (4 if type_num == cnp.NPY_FLOAT else 8) < OURS_FROM:
        return cnp.PyArray_EMPTY(ndim, shape, type_num, 0)
    lengths = tuple([shape[d] for d in range(ndim)])
    return in_our_memory(np.empty, (lengths, cnp.PyArray_DescrFromType(type_num)))


def empty_like(x, dtype):
    """An array shaped and laid out like x."""
    if x.size * dtype.itemsize < OURS_FROM:
        return np.empty_like(x, dtype, "K", False)
    return in_our_memory(np.empty_like, (x, dtype, "K", False))
