"""How many times faster than SciPy and NumPy's three lines, worst cells first.

Run `python bench/against_scipy.py`; needs SciPy. Default calls, all
libraries in one process in turn, every library with its default number of threads.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special
from timing import medians

import fastsoftmax

Array = np.ndarray[Any, np.dtype[Any]]

SHAPES = [
    ((10,), -1),
    ((1000,), -1),
    ((128256,), -1),
    ((3, 4), 0),
    ((32, 1000), -1),
    ((4096, 10), -1),
    ((4096, 10), None),
    ((65536, 16), -1),
    ((4096, 128), -1),
    ((1024, 1000), -1),
    ((64, 32000), -1),
    ((128, 4096), 0),
    ((1000, 512), 0),
    ((100000, 3), 0),
    ((3, 100000), 0),
    ((64, 100, 50), 1),
    ((20, 30, 40), (0, 2)),
]
DTYPES = ["float32", "float64", "float16", "int64", "uint8"]


def numpy_softmax(x: Array, axis: Any) -> Array:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    result: Array = e / np.sum(e, axis=axis, keepdims=True)
    return result


def layouts(x: Array) -> Iterator[tuple[str, Array]]:
    yield "C", x
    if x.ndim > 1:
        yield "F", np.asfortranarray(x)
    yield "strided", np.repeat(x, 2, axis=-1)[..., ::2]


def cells() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        for shape, axis in SHAPES:
            plain = (rng.normal(size=shape) * 5).astype(dtype)
            for layout, x in layouts(plain):
                for name in ("softmax", "log_softmax", "logsumexp"):
                    ours = getattr(fastsoftmax, name)
                    peer = getattr(scipy.special, name)
                    functions = {
                        "ours": lambda f=ours, x=x, axis=axis: f(x, axis=axis),
                        "scipy": lambda f=peer, x=x, axis=axis: f(x, axis=axis),
                    }
                    if name == "softmax":
                        functions["numpy"] = lambda x=x, axis=axis: numpy_softmax(
                            x, axis
                        )
                    yield f"{name} {dtype} {layout} {shape} axis={axis}", functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="only cells whose name has this")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = []
    with np.errstate(all="ignore"):
        for name, functions in cells():
            if options.match in name:
                found = medians(functions, options.rounds)
                rows.append((found["scipy"] / found["ours"], name, found))
    for ratio, name, found in sorted(rows, key=lambda row: row[0]):
        line = f"{ratio:6.1f}x SciPy"
        if "numpy" in found:
            line += f" {found['numpy'] / found['ours']:6.1f}x NumPy"
        print(f"{line:28} {found['ours'] * 1e6:9.1f} us  {name}")
    ratios = np.array([row[0] for row in rows])
    print(
        f"geometric mean {np.exp(np.log(ratios).mean()):.1f}x SciPy, "
        f"{(ratios < 1).sum()} of {len(rows)} cells slower"
    )


if __name__ == "__main__":
    main()
