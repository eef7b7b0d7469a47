"""Tensors of PyTorch, JAX arrays, Numba: what docs/tensors.md says, run and checked."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import child
import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _cpu, cross_entropy, hinge_loss, logsumexp, softmax, softmax_vjp

PAGE = Path(__file__).parent.parent / "docs" / "tensors.md"
LIBRARIES = {"PyTorch": "torch", "JAX": "jax", "Numba": "numba"}


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


@pytest.mark.parametrize("title", LIBRARIES)
def test_page(title: str, tmp_path: Path) -> None:
    needs(LIBRARIES[title])
    if not PAGE.exists():
        pytest.skip("needs docs/, beside tests/")
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert blocks
    (tmp_path / "section.txt").write_text("\n".join(blocks))
    script = "import doctest, sys; sys.exit(doctest.testfile('section.txt', False)[0])"
    done = child.attempt(tmp_path, script)  # what these libraries start stays there
    assert done.returncode == 0, done.stdout + done.stderr


SCIPY = """
import scipy.special, torch, fastsoftmax
x = torch.ones(3)
print(*(type(m.softmax(x, axis=-1)).__name__ for m in (scipy.special, fastsoftmax)))
"""


def test_scipy_returns_tensors_where_it_is_told_to(tmp_path: Path) -> None:
    needs("torch")
    assert child.python(tmp_path, SCIPY, SCIPY_ARRAY_API="1") == "Tensor ndarray\n"


# ---- PyTorch ----


def test_what_numpy_does_not_read_says_what_to_pass() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.ones(2, 3)
    for tensor, words in (
        (x.clone().requires_grad_(), r"x\.detach\(\)"),
        (x.bfloat16(), r"x\.float\(\), as NumPy has no torch\.bfloat16"),
        (x.to(torch.float8_e5m2), r"x\.float\(\), as NumPy has no torch\.float8_e5m2"),
        (x.bfloat16().requires_grad_(), r"x\.detach\(\)"),
        (x.to_sparse(), r"to_dense"),
        (x.to("meta"), r"meta"),
    ):
        with pytest.raises(TypeError, match=words):
            softmax(tensor, axis=-1)
    needy = x.clone().requires_grad_()
    labels = torch.tensor([0, 2])
    for name, call in (
        ("a", lambda: logsumexp(needy)),
        ("b", lambda: logsumexp(x, b=needy)),
        ("dy", lambda: softmax_vjp(x, needy)),
        ("scores", lambda: hinge_loss(needy, labels)),
        ("scores", lambda: cross_entropy(needy, labels)),
        ("temperature", lambda: softmax(x, -1, temperature=needy[:, :1])),
        ("sample_weight", lambda: hinge_loss(x, labels, sample_weight=needy[:, 0])),
    ):
        with pytest.raises(TypeError, match=rf"pass {name}\.detach\(\)"):
            call()


def test_tensors_are_read_and_written_in_place() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.tensor(np.random.default_rng(0).normal(size=(5, 7)))
    y = torch.empty_like(x)
    assert softmax(x, -1, where=x > -1, out=y.numpy()).ctypes.data == y.data_ptr()
    np.testing.assert_array_equal(y, softmax(x.numpy(), -1, where=x.numpy() > -1))
    result = softmax(x.T, axis=0)
    assert torch.from_dlpack(result).data_ptr() == result.ctypes.data
    labels = torch.tensor([0, 1, 2, 3, 6], dtype=torch.int32)
    for function in (hinge_loss, cross_entropy):
        options = {"return_grad": True, "sample_weight": torch.rand(5)}
        loss, grad = function(x, labels, **options)
        expected = function(x.numpy(), labels.numpy(), **options)
        assert type(grad) is np.ndarray
        assert loss == expected[0]
        np.testing.assert_array_equal(grad, expected[1])


# ---- Numba ----


@pytest.mark.parametrize("real", [ctypes.c_float, ctypes.c_double])
def test_row_functions_have_the_names_that_are_said(real: type) -> None:
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = (
        ctypes.c_void_p,
        [ctypes.py_object, ctypes.c_char_p],
    )
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]

    def row(name: str, result: type | None, *arguments: type):
        number = int(real is ctypes.c_double)
        capsule = _cpu.__pyx_capi__[f"__pyx_fuse_{number}{name}"]
        return ctypes.CFUNCTYPE(result, *arguments)(address(capsule, name_of(capsule)))

    x = np.random.default_rng(0).normal(size=77).astype(real)
    y = np.empty_like(x)
    for function in (softmax, fastsoftmax.log_softmax):
        arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t)
        row(f"{function.__name__}_row", None, *arguments)(
            x.ctypes.data, y.ctypes.data, x.size
        )
        np.testing.assert_array_equal(y, function(x))
    total = row("logsumexp_row", real, ctypes.c_void_p, ctypes.c_ssize_t)
    assert total(x.ctypes.data, x.size) == logsumexp(x)
