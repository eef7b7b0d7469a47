"""A drop-in for scipy.special: its own tests pass, and the documented differences."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
from oracle.arithmetic import assert_same_bits, silently

import fastsoftmax
from fastsoftmax import log_softmax, logsumexp, softmax

FUNCTIONS = [softmax, log_softmax, logsumexp]
INF, NAN = np.inf, np.nan

# A pytest plugin that sets our functions on SciPy's test module, and counts calls.
PLUGIN = """
import collections
import functools

import fastsoftmax
import scipy.special.tests.test_logsumexp as module

NAMES = ("softmax", "log_softmax", "logsumexp")
calls = collections.Counter()


def counted(function):
    @functools.wraps(function)
    def wrapper(*args, **options):
        calls[function.__name__] += 1
        return function(*args, **options)

    return wrapper


def pytest_collection_modifyitems(items):
    assert all(item.module is module for item in items)
    for name in NAMES:
        assert getattr(module, name).__module__.startswith("scipy.")
        setattr(module, name, counted(getattr(fastsoftmax, name)))


def pytest_terminal_summary(terminalreporter):
    counts = " ".join(f"{name}={calls[name]}" for name in NAMES)
    terminalreporter.write_line(f"calls of fastsoftmax: {counts}")
"""


@pytest.fixture(scope="module")
def scipys_tests(tmp_path_factory):
    """What pytest says of SciPy's test module, run on our functions."""
    folder = tmp_path_factory.mktemp("scipy")
    (folder / "swap.py").write_text(PLUGIN)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "-p", "swap", "-q"]
    command += ["-p", "no:cacheprovider", "--pyargs"]
    environment = {k: v for k, v in os.environ.items() if k != "SCIPY_ARRAY_API"}
    path = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    return subprocess.run(
        [*command, "scipy.special.tests.test_logsumexp"],
        cwd=folder,
        env={**environment, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_scipys_own_tests_pass(scipys_tests):
    assert scipys_tests.returncode == 0, scipys_tests.stdout[-5000:]
    passed = int(re.search(r"(\d+) passed", scipys_tests.stdout)[1])
    # 407 in SciPy 1.17; nothing may be left out in another version.
    assert passed >= 407
    assert not re.search(r"\d+ (failed|skipped|xfailed|error)", scipys_tests.stdout)


def test_scipys_own_tests_ran_on_our_functions(scipys_tests):
    counts = re.search(r"calls of fastsoftmax: (.*)", scipys_tests.stdout)[1]
    calls = {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", counts)}
    assert calls.keys() == {"softmax", "log_softmax", "logsumexp"}
    assert calls["logsumexp"] > 400
    assert min(calls["softmax"], calls["log_softmax"]) >= 5


@pytest.mark.parametrize("function", FUNCTIONS)
def test_positional_arguments_are_scipys(function):
    def positional(f):
        parameters = inspect.signature(f).parameters.values()
        return [
            (p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
        ]

    assert positional(function) == positional(getattr(scipy.special, function.__name__))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (2, 0), (0, 1, 2), ()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_agrees_with_scipy(function, axis, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (3, 4, 5)).astype(dtype)
    if np.iscomplexobj(x):
        x += (1j * rng.normal(0, 0.1, x.shape)).astype(dtype)
    y = function(x, axis=axis)
    expected = getattr(scipy.special, function.__name__)(x, axis=axis)
    assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
    tolerance = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 5), (5,), (1,), (4, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_weights_agree_with_scipy(keepdims, shape, dtype):
    rng = np.random.default_rng(1)
    a = rng.normal(0, 3, (3, 4, 5)).astype(dtype)
    b = rng.uniform(-1, 1, shape).astype(dtype)
    for axis in (None, 0, -1, (0, 2)):
        ours = logsumexp(a, axis, b, keepdims, True)
        theirs = scipy.special.logsumexp(a, axis, b, keepdims, True)
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)


NUMBERS = [np.bool_, np.int8, np.uint16, np.int64, np.float32, np.float64, np.complex64]


@pytest.mark.parametrize("a", NUMBERS)
@pytest.mark.parametrize("b", [*NUMBERS, int, float])
def test_dtype_of_weighted_logsumexp_is_scipys(a, b):
    x = np.array([1, 0], a)
    weights = b(2) if b in (int, float) else np.array([1, 1], b)
    ours, theirs = logsumexp(x, b=weights), scipy.special.logsumexp(x, b=weights)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("x", [3, 3.0, True, np.float32(3), np.array(3), [3], [[3.0]]])
def test_small_results_are_scipys(function, x):
    y = function(x)
    expected = getattr(scipy.special, function.__name__)(np.asarray(x, np.float64))
    assert type(y) is (np.float32 if isinstance(x, np.float32) else type(expected))
    assert np.shape(y) == np.shape(expected)
    assert (y == expected).all()


def test_keepdims_of_a_scalar_is_scipys():
    assert logsumexp(3.0, keepdims=True).shape == (1,)
    assert scipy.special.logsumexp(3.0, keepdims=True).shape == (1,)


class TestWhereWeDiffer:
    """SciPy's defects that we do not copy; docs/special-values.md lists them."""

    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize(
        "x",
        [
            np.array([1, 2, 3], np.uint8),
            np.array([-128, 127], np.int8),
            np.array([True, False]),
            np.array([0, 2**63], np.uint64),
        ],
    )
    def test_integers_are_computed_in_float64(self, function, x):
        y = silently(function, x)
        assert y.dtype == np.float64
        assert_same_bits(y, function(x.astype(np.float64)))

    def test_integers_are_in_order(self):
        assert (np.diff(softmax(np.array([1, 2, 3], np.uint8))) > 0).all()
        np.testing.assert_array_equal(softmax(np.array([-128, 127], np.int8))[1], 1)

    def test_float16_is_computed_in_float32(self):
        y = silently(softmax, np.zeros(100_000, np.float16))
        assert (y == np.float16(1e-5)).all()

    def test_float32_along_the_first_axis(self):
        x = np.zeros((1_000_000, 2), np.float32)
        y = softmax(x, axis=0)
        assert (abs(y * 1e6 - 1) <= 2e-7).all()

    def test_the_remainder_is_kept(self):
        assert scipy.special.log_softmax([0.0, -40.0])[0] == 0
        np.testing.assert_allclose(
            log_softmax([0.0, -40.0])[0], -np.exp(-40.0), rtol=4e-16
        )

    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize(
        "row", [[INF, 1.0], [-INF, -INF], [0.0, -800.0], [NAN, INF]]
    )
    def test_no_warnings(self, function, row):
        silently(function, row)
        silently(function, np.array(row, np.float32))

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
    @pytest.mark.parametrize("axis", [None, 0, -1])
    def test_empties(self, shape, axis):
        x = np.empty(shape)
        assert softmax(x, axis=axis).shape == shape
        assert log_softmax(x, axis=axis).shape == shape
        total, sign = logsumexp(x, axis=axis, return_sign=True)
        assert total.shape == x.sum(axis=axis).shape
        assert (total == -INF).all()
        assert (sign == 0).all()
        assert (logsumexp(x, axis=axis) == -INF).all()

    @pytest.mark.parametrize("level", [1, 1000])
    def test_full_cancellation(self, level):
        pair = logsumexp([level, level], b=[1, -1], return_sign=True)
        assert pair == (-INF, 0)

    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize(
        "x",
        [
            np.array(["1", "2"]),
            np.array([b"1"]),
            np.array(["2020-01-01"], "M8[D]"),
            np.array([1, 2], "m8[s]"),
            np.array([1, 2], object),
            np.zeros(2, [("a", float)]),
            np.ma.array([1.0, 2.0], mask=[True, False]),
            None,
        ],
    )
    def test_what_is_not_numbers_is_refused(self, function, x):
        with pytest.raises(TypeError):
            function(x)


def test_all_public_names_are_documented():
    for name in fastsoftmax.__all__:
        assert len(inspect.getdoc(getattr(fastsoftmax, name))) > 100
