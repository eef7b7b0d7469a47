"""Unpacks LLVM's OpenMP runtime for wheels of macOS: `python tools/libomp.py FOLDER`.

Apple's compiler has none of its own, and Homebrew's needs the system of the machine
that builds, or a later one: a wheel for macOS 11 cannot hold it. conda-forge's of this
version runs from macOS 10.9 (x86_64) and 11.0 (arm64) on. Its licence goes into the
wheels that are built from here on.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import sys
import tarfile
import urllib.request
from pathlib import Path

PLACE = "https://conda.anaconda.org/conda-forge"
# By machine: the file, and its SHA-256.
PACKAGES = {
    "arm64": (
        "osx-arm64/llvm-openmp-11.1.0-hf3c4609_1.tar.bz2",
        "29763e493e46801c416f2e75f20e9183719bde3b727d8983b1917a480b4076fe",
    ),
    "x86_64": (
        "osx-64/llvm-openmp-11.1.0-hda6cdc1_1.tar.bz2",
        "1ebfeee2af90bcedf6b39c7290244e2aec0bda01ecf81b0d8d78ed405480c21c",
    ),
}


def main(folder: str) -> None:
    """Download, check, unpack; add the licence."""
    file, expected = PACKAGES[platform.machine()]
    with urllib.request.urlopen(f"{PLACE}/{file}") as response:
        packed = response.read()
    found = hashlib.sha256(packed).hexdigest()
    if found != expected:
        raise SystemExit(f"{file} has SHA-256 {found}, not {expected}")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    tools = Path(__file__).parent
    licence = tools.parent / "licenses" / "libomp.txt"
    shutil.copy(tools / "libomp_licence.txt", licence)


if __name__ == "__main__":
    main(sys.argv[1])
