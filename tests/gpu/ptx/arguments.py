"""What a launch is given: arguments of the right types, within the limits of a card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu.ptx.faults import Fault
from gpu.ptx.parse import Kernel
from gpu.ptx.types import DTYPES, UNSIGNED, Array, is_float

MAX_THREADS = 1024
MAX_BLOCKS = 2**31 - 1
MAX_SHARED = 227 * 1024
MAX_CLUSTER = 8


def check_limits(
    kernel: Kernel, grid: int, block: int, shared_bytes: int, cluster: int
) -> int:
    """Return the size of a cluster; raise Fault for what no card would launch."""
    most = min(MAX_THREADS, kernel.max_threads or MAX_THREADS)
    if not 1 <= block <= most:
        raise Fault("limits", f"{block} threads a block, {kernel.name} has {most}")
    if not 1 <= grid <= MAX_BLOCKS:
        raise Fault("limits", f"{grid} blocks")
    shared = kernel.dynamic_offset + shared_bytes
    if shared_bytes < 0 or shared > MAX_SHARED:
        raise Fault("limits", f"{shared} bytes of shared memory")
    return _check_cluster(kernel, grid, cluster)


def _check_cluster(kernel: Kernel, grid: int, cluster: int) -> int:
    if kernel.cluster is not None and cluster not in (1, kernel.cluster):
        raise Fault("cluster", f"{kernel.name} has clusters of {kernel.cluster}")
    cluster = kernel.cluster or cluster
    if not 1 <= cluster <= MAX_CLUSTER:
        raise Fault("cluster", f"a cluster of {cluster} blocks")
    if grid % cluster:
        raise Fault("cluster", f"{grid} blocks do not fill clusters of {cluster}")
    return cluster


def bind_arguments(kernel: Kernel, arguments: Sequence[object]) -> list[Array]:
    """Return each argument as an array of one element of its parameter's type."""
    if len(arguments) != len(kernel.parameters):
        raise Fault(
            "arguments",
            f"{len(arguments)} for the {len(kernel.parameters)} of {kernel.name}",
        )
    return [
        _bind(name, type_, value)
        for (name, type_), value in zip(kernel.parameters, arguments, strict=True)
    ]


def _bind(name: str, type_: str, value: object) -> Array:
    dtype = DTYPES[type_]
    if isinstance(value, np.generic):
        if value.dtype.itemsize != dtype.itemsize or (
            (value.dtype.kind == "f") != is_float(type_)
        ):
            raise Fault("arguments", f"{value!r} for {name} of type {type_}")
        return np.array([value]).view(UNSIGNED[dtype.itemsize])
    if is_float(type_):
        if not isinstance(value, float):
            raise Fault("arguments", f"{value!r} for {name} of type {type_}")
        return np.array([value], dtype).view(UNSIGNED[dtype.itemsize])
    if not isinstance(value, int):
        raise Fault("arguments", f"{value!r} for {name} of type {type_}")
    bits = 8 * dtype.itemsize
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise Fault("arguments", f"{value} for {name} of type {type_}")
    return np.array([value & ((1 << bits) - 1)], UNSIGNED[dtype.itemsize])
