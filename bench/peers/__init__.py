"""The libraries that are measured, by name; imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os

from .base import Call, Library, UnsupportedError

OURS = "fastsoftmax"
_PLACES = {
    "fastsoftmax": ("fastsoftmax", "Ours"),
    "numpy": ("numpy", "NumPy"),
    "scipy": ("scipy", "SciPy"),
    "sklearn": ("sklearn", "ScikitLearn"),
    "torch": ("torch", "Torch"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "jax": ("jax", "Jax"),
    "tensorflow": ("tensorflow", "TensorFlow"),
    "openvino": ("openvino", "OpenVino"),
    "numba": ("numba", "Numba"),
    "np.exp": ("limits", "Exp"),
    "np.max": ("limits", "Max"),
    "copy": ("limits", "Copy"),
    "stream copy": ("limits", "StreamCopy"),
    "three passes": ("limits", "ThreePasses"),
}
NAMES = tuple(_PLACES)
LIMITS = ("np.exp", "np.max", "copy", "stream copy", "three passes")
PEERS = tuple(name for name in NAMES if name != OURS and name not in LIMITS)

__all__ = [
    "LIMITS",
    "NAMES",
    "OURS",
    "PEERS",
    "Call",
    "Library",
    "UnsupportedError",
    "absence",
    "environment",
    "library_class",
    "version",
]


def library_class(name: str) -> type[Library]:
    """Return the class of a library, which is not yet imported by that."""
    module, cls = _PLACES[name]
    found: type[Library] = getattr(importlib.import_module(f"{__name__}.{module}"), cls)
    return found


def absence(name: str) -> str:
    """Return why a library cannot be measured here; nothing if it can."""
    cls = library_class(name)
    for module in (cls.module, *cls.also_needs):
        # A submodule would be looked for by importing what it is in.
        whole = module.partition(".")[0]
        if importlib.util.find_spec(whole) is None:
            return f"{whole} is not installed"
    return ""


def version(name: str) -> str:
    """Return the version of the package behind a name."""
    try:
        return importlib.metadata.version(library_class(name).package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed: compiled in place"


def environment(name: str, threads: int) -> dict[str, str]:
    """Return the variables of a library's process."""
    count = str(threads)
    common = {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "PYTHONHASHSEED": "0",
    }
    return dict(os.environ) | common | library_class(name).environment(threads)
