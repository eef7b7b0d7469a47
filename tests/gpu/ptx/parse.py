"""From the text of PTX to kernels: declarations, labels and statements."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpu.ptx.faults import Fault
from gpu.ptx.types import DTYPES, size_of

if TYPE_CHECKING:
    from gpu.ptx.instructions import Instruction

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{;]*)\{")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(?:\.ptr\s+.*?)?([\w$]+)")
_SHARED = re.compile(
    r"(\.extern\s+)?(?:\.visible\s+|\.weak\s+)*\.shared\s+(?:\.align\s+(\d+)\s+)?"
    r"\.(\w+)\s+([\w$]+)((?:\[\d*\])*)"
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
_LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")
_GUARD = re.compile(r"@(!?)\s*([%\w$]+)\s+(.*)", re.DOTALL)
DYNAMIC_ALIGNMENT = 16


@dataclass(frozen=True)
class Statement:
    """One instruction as written: its opcode, its operands and its guard."""

    opcode: str
    operands: tuple[str, ...]
    guard: str
    text: str


@dataclass
class Kernel:
    """One entry of a module; `code` is decoded when it is first asked for."""

    name: str
    parameters: list[tuple[str, str]]
    max_threads: int | None
    cluster: int | None
    registers: dict[str, str] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)

    @property
    def dynamic_offset(self) -> int:
        """Return where dynamic shared memory begins."""
        return -(-self.shared_bytes // DYNAMIC_ALIGNMENT) * DYNAMIC_ALIGNMENT

    @functools.cached_property
    def code(self) -> list[Instruction]:
        from gpu.ptx.instructions import decode

        return decode(self)


@dataclass
class Module:
    kernels: dict[str, Kernel]


def parse(text: str | bytes) -> Module:
    """Read a module; its kernels are checked against the subset when decoded."""
    if isinstance(text, bytes):
        text = text.rstrip(b"\0").decode()
    text = _COMMENT.sub(" ", text)
    kernels: dict[str, Kernel] = {}
    outside, position = "", 0
    entries = []
    for entry in _ENTRY.finditer(text):
        end = _closing_brace(text, entry.end())
        entries.append((entry, text[entry.end() : end]))
        outside += text[position : entry.start()]
        position = end + 1
    for entry, body in entries:
        kernel = _kernel(entry)
        for declaration in outside.split(";"):
            if shared := _SHARED.search(declaration):
                _declare_shared(kernel, shared)
        _Body(kernel).read(body)
        kernels[kernel.name] = kernel
    return Module(kernels)


def split_operands(text: str) -> tuple[str, ...]:
    """Split at commas outside of braces and brackets."""
    parts = re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", text)
    return tuple(part.strip() for part in parts if part.strip())


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise Fault("unknown instruction", "a body without its closing brace")


def _kernel(entry: re.Match[str]) -> Kernel:
    name, parameters, attributes = entry.groups()
    found = []
    for declaration in filter(str.strip, parameters.split(",")):
        parameter = _PARAMETER.fullmatch(" ".join(declaration.split()))
        if parameter is None or parameter[1] not in DTYPES:
            raise Fault("unknown instruction", f"parameter {declaration.strip()!r}")
        found.append((parameter[2], parameter[1]))
    threads = _product(attributes, r"\.(?:maxntid|reqntid)")
    return Kernel(name, found, threads, _product(attributes, r"\.reqnctapercluster"))


def _product(attributes: str, directive: str) -> int | None:
    match = re.search(directive + r"\s+(\d+(?:\s*,\s*\d+)*)", attributes)
    if match is None:
        return None
    product = 1
    for factor in match[1].split(","):
        product *= int(factor)
    return product


def _declare_shared(kernel: Kernel, match: re.Match[str]) -> None:
    external, alignment, type_, name, extent = match.groups()
    if external or extent.endswith("[]"):
        kernel.symbols[name] = -1
        return
    step = int(alignment) if alignment else size_of(type_)
    offset = -(-kernel.shared_bytes // step) * step
    count = 1
    for size in re.findall(r"\d+", extent):
        count *= int(size)
    kernel.symbols[name] = offset
    kernel.shared_bytes = offset + count * size_of(type_)


class _Body:
    """Reads the statements of a kernel; registers of inner blocks get new names."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, str]] = [{}]
        self.blocks = 0

    def read(self, body: str) -> None:
        position = 0
        while position < len(body):
            character = body[position]
            if character.isspace() or character == ";":
                position += 1
            elif character == "{":
                self.scopes.append({})
                self.blocks += 1
                position += 1
            elif character == "}":
                self.scopes.pop()
                position += 1
            elif label := _LABEL.match(body, position):
                self._label(label[1])
                position = label.end()
            else:
                end = body.find(";", position)
                if end < 0:
                    raise Fault("unknown instruction", body[position:].strip())
                self._statement(" ".join(body[position:end].split()))
                position = end + 1

    def _label(self, name: str) -> None:
        if name in self.kernel.labels:
            raise Fault("unknown instruction", f"label {name} is declared twice")
        self.kernel.labels[name] = len(self.kernel.statements)

    def _statement(self, text: str) -> None:
        if text.startswith("."):
            self._directive(text)
            return
        guard, rest = "", text
        if match := _GUARD.fullmatch(text):
            guard, rest = match[1] + self._rename(match[2]), match[3]
        opcode, _, operands = rest.partition(" ")
        names = split_operands(self._rename(operands))
        self.kernel.statements.append(Statement(opcode, names, guard, text))

    def _directive(self, text: str) -> None:
        if match := _REGISTERS.fullmatch(text):
            self._registers(match[1], match[2])
        elif match := _SHARED.fullmatch(text):
            _declare_shared(self.kernel, match)
        elif not text.startswith(".pragma"):
            raise Fault("unknown instruction", f"{text} in {self.kernel.name}")

    def _registers(self, type_: str, names: str) -> None:
        if type_ not in DTYPES:
            raise Fault("unknown instruction", f"registers of type {type_}")
        for name in (part.strip() for part in names.split(",")):
            family = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
            if family is None:
                self._register(name, type_)
                continue
            for index in range(int(family[2])):
                self._register(f"{family[1]}{index}", type_)

    def _register(self, name: str, type_: str) -> None:
        unique = name if len(self.scopes) == 1 else f"{name}_in_{self.blocks}"
        self.scopes[-1][name] = unique
        self.kernel.registers[unique] = type_

    def _rename(self, text: str) -> str:
        if len(self.scopes) == 1:
            return text

        def unique(match: re.Match[str]) -> str:
            for scope in reversed(self.scopes):
                if match[0] in scope:
                    return scope[match[0]]
            return match[0]

        return re.sub(r"[%\w$]+", unique, text)
