"""What the types promise is what comes: tests/typing/public.py, run.

That type checkers find the same in the stubs is checked by `make lint`.
"""

import runpy
import typing
from pathlib import Path

import numpy as np

PUBLIC = Path(__file__).with_name("typing") / "public.py"


def is_of(value: object, expected: typing.Any) -> bool:
    if expected is typing.Any:
        return True
    kind, arguments = typing.get_origin(expected), typing.get_args(expected)
    if kind is tuple:
        return isinstance(value, tuple) and all(map(is_of, value, arguments))
    if kind is np.ndarray:
        (number,) = typing.get_args(arguments[1])
        return type(value) is np.ndarray and (
            number is typing.Any or value.dtype == number
        )
    return isinstance(value, kind or expected)


def test_public(monkeypatch):
    seen = []

    def assert_type(value, expected):
        assert is_of(value, expected), (value, expected)
        seen.append(expected)

    monkeypatch.setattr(typing, "assert_type", assert_type)
    runpy.run_path(str(PUBLIC))
    assert len(seen) > 30
