"""What a call costs before any work: ten float32 values, beside np.exp on the same.

Run `python bench/call_cost.py`. The ratio of the two is what counts: it should be at
most 1.5.
"""

import numpy as np
from timing import medians

from fastsoftmax import softmax


def main() -> None:
    x = np.linspace(-1, 1, 10, dtype=np.float32)
    found = medians(
        {"np.exp": lambda: np.exp(x), "softmax": lambda: softmax(x, axis=-1)}, rounds=51
    )
    for name, seconds in found.items():
        print(f"{name:8} {seconds * 1e9:7.0f} ns")
    print(f"ratio    {found['softmax'] / found['np.exp']:7.2f}")


if __name__ == "__main__":
    main()
