"""What ptxas made of each kernel: registers, stack, barriers, widths of accesses.

Needs the wheels nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_RESOURCES = re.compile(r"Function (\S+):\s*\n\s*(.*)")
_USAGE = re.compile(r"(REG|STACK|SHARED|LOCAL):(\d+)")
_FUNCTION = re.compile(r"Function : (\S+)")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_BARRIERS = ("BAR.SYNC", "UCGABAR_WAIT")
_WIDTH = re.compile(r"\.(?:[US]?(8|16|32|64|128|256))(?:\.|$)")


@dataclass
class Usage:
    """One kernel. `loads` and `stores` count global accesses by their width in bits.

    `barriers` are the instructions in the code that wait for the block or the cluster.
    From sm_90 on, 1024 bytes of `shared` are the system's own.
    """

    registers: int = 0
    stack: int = 0
    local: int = 0
    shared: int = 0
    barriers: int = 0
    loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)
    opcodes: list[str] = field(default_factory=list)  # in order


@functools.cache
def _tools() -> Path | None:
    """Return the folder that has both tools."""
    for folder in sys.path:
        for tool in sorted(Path(folder).glob("nvidia/*/bin/cuobjdump*")):
            if any(tool.parent.glob("nvdisasm*")):
                return tool.parent
    return None


def available() -> bool:
    return _tools() is not None


def kernels(code: bytes) -> dict[str, Usage]:
    """Return the usage of each kernel of a cubin, by its lowered name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(code)
        found = _resources(_dump("--dump-resource-usage", path))
        _count_opcodes(_dump("-sass", path), found)
    return found


def _dump(option: str, path: Path) -> str:
    tools = _tools()
    if tools is None:
        raise RuntimeError("the wheels nvidia-cuda-cuobjdump and -nvdisasm are missing")
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join((str(tools), environment.get("PATH", "")))
    result = subprocess.run(
        [str(tools / "cuobjdump"), option, str(path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"cuobjdump {option}: {result.stdout}{result.stderr}")
    return result.stdout


def _resources(text: str) -> dict[str, Usage]:
    found = {}
    for name, line in _RESOURCES.findall(text):
        usage = {key: int(value) for key, value in _USAGE.findall(line)}
        found[name] = Usage(
            registers=usage["REG"],
            stack=usage["STACK"],
            local=usage["LOCAL"],
            shared=usage["SHARED"],
        )
    return found


def _count_opcodes(text: str, found: dict[str, Usage]) -> None:
    usage = None
    for line in text.splitlines():
        if match := _FUNCTION.search(line):
            usage = found[match[1]]
        elif usage is not None and (match := _INSTRUCTION.match(line)):
            _count(usage, match[1])


def _count(usage: Usage, opcode: str) -> None:
    usage.opcodes.append(opcode)
    usage.barriers += opcode.startswith(_BARRIERS)
    widths = {"LDG": usage.loads, "STG": usage.stores}.get(opcode.split(".")[0])
    if widths is not None:
        width = _WIDTH.search(opcode)
        widths[int(width[1]) if width else 32] += 1
