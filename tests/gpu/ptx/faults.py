"""What the interpreter raises when a program is wrong."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - the program's error, not ours
    """A program broke a rule of the machine: `kind` is a word, `text` says how."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text

    def at(self, place: str) -> Fault:
        """Return the same fault, with the place where it happened."""
        return Fault(self.kind, f"{self.text}; in {place}")
