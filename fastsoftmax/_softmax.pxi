"""The softmax family: docstrings, and one call each. Included by _cpu.pyx.

CuPy's arrays go on to cuda/call.py, Dask's to dask/call.py; _family.pxi decodes
everything else.
"""


def softmax(x, axis=None, *, temperature=1.0, where=None, out=None, dtype=None):
    """Softmax: exponentials divided by their sum, ``exp(x) / sum(exp(x))``.

    Parameters
    ----------
    x : array_like
        Logits, any shape, layout and numeric dtype; not changed.
    axis : int, tuple of int, or None, optional
        Axes that sum to 1. The default, None, is the whole array, as in SciPy; for a
        batch of rows pass ``axis=-1``.
    temperature : float or array_like of float, optional
        x is divided by it first, as ``x / temperature`` does; where that overflows,
        ``x - max(x)`` is. Finite and > 0. An array broadcasts against x and has one
        value for each set: length 1 along `axis`.
    where : array_like of bool, optional
        Broadcasts against x. False takes an entry out of the set: its result is 0.
    out : ndarray, optional
        Where to write the result: exactly its shape and dtype. May be x itself.
    dtype : dtype, optional
        Type computed in and returned.

    Returns
    -------
    ndarray or scalar
        Probabilities, dimensionless, shaped and laid out like x. Floating dtypes are
        kept; integers and bool give float64. A 0-d x gives a NumPy scalar.

    Raises
    ------
    TypeError
        If x does not hold numbers or is a masked array; if axis is not integers; if
        `out` has another dtype; if `where` is not boolean.
    ValueError
        If the temperature is not finite and positive; if `out` or `where` do not fit;
        if an axis repeats or (AxisError) does not exist.

    See Also
    --------
    log_softmax, logsumexp

    Notes
    -----
    With m the largest entry of a set and K the integer next to m / ln 2, the terms
    exp(x) 2^-K neither overflow nor need a rounded difference x - m. Every entry of a
    float32 or float64 result is within 2 ULP of the exact value, subnormal ones
    included; float16 and bfloat16 are computed in float32 and rounded once. A set's
    result does not depend on its neighbours, nor on the number of threads.

    ============================  =======
    the set holds                 result
    ============================  =======
    a NaN                         all NaN
    +inf                          all NaN
    nothing but -inf              all NaN
    -inf beside finite numbers    0 there
    no entry, all masked out      0
    no entry, length 0            empty
    ============================  =======

    No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are; docs/cupy.md says
    how exact they are, and what else differs.
    Dask arrays give lazy Dask arrays, cut along any axis; see docs/dask.md.

    References
    ----------
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA Journal of Numerical Analysis 41 (2021), doi:10.1093/imanum/draa038.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import softmax
    >>> x = np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, 1000.0]])
    >>> softmax(x, axis=-1).round(3)
    array([[0.09 , 0.245, 0.665],
           [0.333, 0.333, 0.333]])
    >>> softmax(x, axis=-1, where=[True, True, False]).round(3)
    array([[0.269, 0.731, 0.   ],
           [0.5  , 0.5  , 0.   ]])
    """
    if is_foreign(x) or is_foreign(where) or is_foreign(out):
        call = _arguments.backend_of(x, where, out)
        return call.softmax(x, where, out, axis, temperature, dtype)
    return softmax_like(FS_SOFTMAX, x, axis, temperature, where, out, dtype)


def log_softmax(x, axis=None, *, temperature=1.0, where=None, out=None, dtype=None):
    """Logarithm of softmax, ``x - log(sum(exp(x)))``.

    Parameters
    ----------
    x : array_like
        Logits, any shape, layout and numeric dtype; not changed.
    axis : int, tuple of int, or None, optional
        Axes of one set. The default, None, is the whole array, as in SciPy; for a batch
        of rows pass ``axis=-1``.
    temperature : float or array_like of float, optional
        x is divided by it first, as ``x / temperature`` does; where that overflows,
        ``x - max(x)`` is. Finite and > 0. An array broadcasts against x and has one
        value for each set: length 1 along `axis`.
    where : array_like of bool, optional
        Broadcasts against x. False takes an entry out of the set: its result is -inf.
    out : ndarray, optional
        Where to write the result: exactly its shape and dtype. May be x itself.
    dtype : dtype, optional
        Type computed in and returned.

    Returns
    -------
    ndarray or scalar
        Natural logarithms of probabilities, shaped and laid out like x, of the dtypes
        of `softmax`.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    See Also
    --------
    softmax, logsumexp

    Notes
    -----
    The largest term is kept out of the sum and met by a log1p, so that
    ``log_softmax([0, -40])[0]`` is -4.2e-18, not 0. Every entry is within 2 ULP.

    ============================  ==========================
    the set holds                 result
    ============================  ==========================
    a NaN                         all NaN
    +inf                          NaN at +inf, -inf elsewhere
    nothing but -inf              all NaN
    -inf beside finite numbers    -inf there
    no entry, all masked out      -inf
    no entry, length 0            empty
    ============================  ==========================

    No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are; docs/cupy.md says
    how exact they are, and what else differs.
    Dask arrays give lazy Dask arrays, cut along any axis; see docs/dask.md.

    References
    ----------
    Blanchard, Higham and Higham (2021), doi:10.1093/imanum/draa038.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import log_softmax
    >>> log_softmax(np.array([[0.0, 0.0], [0.0, -40.0]]), axis=-1)
    array([[-6.93147181e-01, -6.93147181e-01],
           [-4.24835426e-18, -4.00000000e+01]])
    """
    if is_foreign(x) or is_foreign(where) or is_foreign(out):
        call = _arguments.backend_of(x, where, out)
        return call.log_softmax(x, where, out, axis, temperature, dtype)
    return softmax_like(FS_LOG_SOFTMAX, x, axis, temperature, where, out, dtype)


def logsumexp(a, axis=None, b=None, keepdims=False, return_sign=False, *, where=None,
              out=None, dtype=None):
    """Logarithm of a sum of exponentials, ``log(sum(b * exp(a)))``.

    Parameters
    ----------
    a : array_like
        Exponents, any shape, layout and numeric dtype; not changed.
    axis : int, tuple of int, or None, optional
        Axes summed over. The default, None, is the whole array.
    b : array_like, optional
        Weights of the exponentials, broadcast against a; any sign. An entry with weight
        0 does not count, be it inf or NaN.
    keepdims : bool, optional
        Keep the summed axes with length 1.
    return_sign : bool, optional
        Return a pair: the logarithm of the sum's absolute value, and its sign.
    where : array_like of bool, optional
        Broadcasts against a (and b). False takes an entry out of the sum.
    out : ndarray, optional
        Where to write the logarithm: exactly its shape and dtype.
    dtype : dtype, optional
        Type computed in and returned.

    Returns
    -------
    ndarray or scalar
        Natural logarithms, shaped like a without `axis`. Floating dtypes are kept;
        integers and bool give float64. With b, NumPy's promotion of a and b.
    sign : ndarray or scalar
        Only with `return_sign`: 1, 0 or -1; for complex sums a number of modulus 1.

    Raises
    ------
    TypeError, ValueError
        As `softmax`; also if a and b do not broadcast.

    See Also
    --------
    softmax, log_softmax

    Notes
    -----
    Without b, float32 results are within 1 ULP, finished in double (where largest entry
    and logarithm cancel almost wholly: within 2^-52 of the largest entry); float64
    within 2 ULP of the larger of the largest entry and the logarithm added to it.

    With b, float32 and float64 alike are computed in double, whatever the weights: no
    finite ones overflow. Both promises hold then, the largest entry being that whose
    weight is not 0, but for what cancelling leaves: a sum is off by 2^-53 of its terms'
    absolute values below the largest entry, and by 2^-95 of all. Terms that cancel
    wholly, as ``b=[1, -1]`` on equal entries does, hide nothing that is smaller.

    ============================  ===================
    the set holds                 result (without b)
    ============================  ===================
    a NaN                         NaN
    +inf                          +inf
    nothing but -inf              -inf
    -inf beside finite numbers    that one is ignored
    no entry, all masked out      -inf
    no entry, length 0            -inf
    ============================  ===================

    A negative sum without `return_sign` is NaN. No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are; docs/cupy.md says
    how exact they are, and what else differs.
    Dask arrays give lazy Dask arrays, cut along any axis; see docs/dask.md.

    References
    ----------
    Blanchard, Higham and Higham (2021), doi:10.1093/imanum/draa038.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import logsumexp
    >>> logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]), axis=-1)
    array([1000.69314718,    0.        ])
    >>> logsumexp([1.0, 1.0], b=[1.0, -1.0], return_sign=True)
    (np.float64(-inf), np.float64(0.0))
    """
    if is_foreign(a) or is_foreign(b) or is_foreign(where) or is_foreign(out):
        call = _arguments.backend_of(a, b, where, out)
        return call.logsumexp(a, b, where, out, axis, keepdims, return_sign, dtype)
    return lse(a, axis, b, keepdims, return_sign, where, out, dtype)


def softmax_vjp(y, dy, axis=None, *, temperature=1.0, where=None, out=None, dtype=None):
    """Gradient through softmax, ``y * (dy - sum(y * dy)) / temperature``.

    Parameters
    ----------
    y : array_like
        What ``softmax(x, axis, temperature=temperature)`` returned.
    dy : array_like
        Gradient of a loss with respect to y; broadcasts against y.
    axis : int, tuple of int, or None, optional
        Axes that sum to 1, as given to `softmax`. None is the whole array.
    temperature : float or array_like of float, optional
        As given to `softmax`. Finite and > 0.
    where : array_like of bool, optional
        As given to `softmax`. Entries that are False are absent, whatever y and dy hold
        there: their gradient is 0.
    out : ndarray, optional
        Where to write the result: exactly its shape and dtype. May be y or dy itself.
    dtype : dtype, optional
        Type computed in and returned.

    Returns
    -------
    ndarray or scalar
        Gradient of the loss with respect to x (a vector-Jacobian product), shaped like
        y; without `dtype` of NumPy's type for y and dy together; integers give float64.

    Raises
    ------
    TypeError, ValueError
        As `softmax`; also for complex numbers, and if dy does not broadcast to the
        shape of y.

    See Also
    --------
    log_softmax_vjp, softmax

    Notes
    -----
    The sum is a float64 one, and of float32 products, which are exact there: what
    cancels in ``dy - sum`` is not lost. Beside what the sum and subnormal steps lose,
    the relative error is at most 3 units of 2^-23 (float64: 2^-52). Where y is 0, by
    underflow or by softmax's `where`, so is the result, if ``dy - sum`` is finite. NaN
    and infinities follow IEEE 754, in their own set only. No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are; docs/cupy.md says
    how exact they are, and what else differs.
    Dask arrays give lazy Dask arrays, cut along any axis; see docs/dask.md.

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network
    outputs", Neurocomputing, NATO ASI F68 (1990), doi:10.1007/978-3-642-76153-9_28.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import softmax, softmax_vjp
    >>> y = softmax(np.array([[1.0, 2.0, 3.0]]), axis=-1)
    >>> softmax_vjp(y, [1.0, 0.0, 0.0], axis=-1).round(4)
    array([[ 0.0819, -0.022 , -0.0599]])
    """
    if is_foreign(y) or is_foreign(dy) or is_foreign(where) or is_foreign(out):
        call = _arguments.backend_of(y, dy, where, out)
        return call.softmax_vjp(y, dy, where, out, axis, temperature, dtype)
    return vjp(FS_SOFTMAX_VJP, y, dy, axis, temperature, where, out, dtype)


def log_softmax_vjp(y, dy, axis=None, *, temperature=1.0, where=None, out=None,
                    dtype=None):
    """Gradient through log_softmax, ``(dy - exp(y) * sum(dy)) / temperature``.

    Parameters
    ----------
    y : array_like
        What ``log_softmax(x, axis, temperature=temperature)`` returned.
    dy : array_like
        Gradient of a loss with respect to y; broadcasts against y.
    axis : int, tuple of int, or None, optional
        Axes of one set, as given to `log_softmax`. None is the whole array.
    temperature : float or array_like of float, optional
        As given to `log_softmax`. Finite and > 0.
    where : array_like of bool, optional
        As given to `log_softmax`. Entries that are False are absent, whatever y and dy
        hold there: their gradient is 0.
    out : ndarray, optional
        Where to write the result: exactly its shape and dtype. May be y or dy itself.
    dtype : dtype, optional
        Type computed in and returned.

    Returns
    -------
    ndarray or scalar
        Gradient of the loss with respect to x (a vector-Jacobian product), shaped like
        y; without `dtype` of NumPy's type for y and dy together; integers give float64.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    See Also
    --------
    softmax_vjp, log_softmax

    Notes
    -----
    The sum is a float64 one. Beside its rounding, and that of subnormal steps, the
    error is at most 3 units of 2^-23 (float64: 2^-52) of the larger of the two terms.
    Where y is -inf the result is dy / temperature. y is taken for the logarithm of a
    probability: ``exp(y)`` beyond 1e18 (float64: 1e153) counts as infinite, below 1e-57
    (float64: 1e-461) as 0. NaN and infinities follow IEEE 754, in their own set only.
    No input makes it warn.

    CuPy arrays give CuPy arrays, computed where they are; docs/cupy.md says
    how exact they are, and what else differs.
    Dask arrays give lazy Dask arrays, cut along any axis; see docs/dask.md.

    References
    ----------
    Bridle (1990), doi:10.1007/978-3-642-76153-9_28.

    Examples
    --------
    Cross-entropy of one row with label 0, and its gradient:

    >>> import numpy as np
    >>> from fastsoftmax import log_softmax, log_softmax_vjp
    >>> y = log_softmax(np.array([[1.0, 2.0, 3.0]]), axis=-1)
    >>> round(float(-y[0, 0]), 4)
    2.4076
    >>> log_softmax_vjp(y, [[-1.0, 0.0, 0.0]], axis=-1).round(4)
    array([[-0.91  ,  0.2447,  0.6652]])
    """
    if is_foreign(y) or is_foreign(dy) or is_foreign(where) or is_foreign(out):
        call = _arguments.backend_of(y, dy, where, out)
        return call.log_softmax_vjp(y, dy, where, out, axis, temperature, dtype)
    return vjp(FS_LOG_SOFTMAX_VJP, y, dy, axis, temperature, where, out, dtype)
