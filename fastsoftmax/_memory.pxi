"""Where results live (kernels/process/outputs.h). Included by _cpu.pyx."""

# Bytes from which results get memory of ours. What malloc does is as fast while one
# result at a time is freed; where two are, it hands them back to the kernel (softmax
# and its gradient in one function: 3.6 times slower at 1 MiB, 2 times at 8).
cdef enum:
    OURS_FROM = 1048576
# MiB kept: softmax of 512 tokens over a vocabulary of 128256, in float32, just fits.
# MiB of them hot: what malloc leaves untrimmed.
cdef int KEEP_MIB = 256
cdef int HOT_MIB = 64
cdef int MOST_MIB = 65536

cdef object our_handler = PyCapsule_New(&fs_handler, "mem_handler", NULL)
cdef int keep_mib = 0, hot_mib = 0


cdef int mib(text) except -1:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MOST_MIB:
        return int(text)
    raise ImportError(
        f"FASTSOFTMAX_KEEP_MIB={os.environ['FASTSOFTMAX_KEEP_MIB']!r} is not a whole "
        f"number from 0 to {MOST_MIB}, nor two of them with a comma between"
    )


cdef void choose_memory() except *:
    """FASTSOFTMAX_KEEP_MIB is how much is kept; behind a comma, how much of it hot."""
    global keep_mib, hot_mib
    keep, comma, hot = os.environ.get("FASTSOFTMAX_KEEP_MIB", "").partition(",")
    cdef int most = mib(keep) if keep or comma else KEEP_MIB
    cdef int most_hot = mib(hot) if comma else HOT_MIB
    if FS_CAN_KEEP:
        keep_mib = most
        hot_mib = min(most, most_hot)
        fs_keep_at_most(<size_t>keep_mib << 20, <size_t>hot_mib << 20)


choose_memory()


def keeps_mib():
    """MiB of freed results kept at most, 0 where NumPy has them all; and of it hot."""
    return keep_mib, hot_mib


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


cdef cnp.ndarray empty(int ndim, cnp.npy_intp *shape, cnp.dtype dtype, ptrdiff_t size):
    """A C-contiguous array of `size` elements."""
    cdef int d
    if size * dtype.itemsize < OURS_FROM:
        return cnp.PyArray_EMPTY(ndim, shape, dtype.type_num, 0)
    lengths = tuple([shape[d] for d in range(ndim)])
    return in_our_memory(np.empty, (lengths, dtype))


cpdef cnp.ndarray empty_like(cnp.ndarray x, cnp.dtype dtype):
    """An array shaped and laid out like x."""
    if cnp.PyArray_SIZE(x) * dtype.itemsize < OURS_FROM:
        return np.empty_like(x, dtype, "K", False)
    return in_our_memory(np.empty_like, (x, dtype, "K", False))


def replace_lost_pages(from_now_on):
    """Let pages that a mapped file has lost read as zeros, rather than end the process.

    For the command line, whose process is its own (kernels/process/mapped.h).
    """
    fs_replace_lost_pages(from_now_on)


def lost_pages():
    """Return how many pages of mapped files were found lost."""
    return fs_lost_pages()
