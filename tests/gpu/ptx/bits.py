"""Instructions on bits."""

from __future__ import annotations

import numpy as np

from gpu.ptx.forms import Build, Form, Opcode, plain
from gpu.ptx.types import Array, is_signed, size_of


def _shl(opcode: Opcode) -> Form:
    bits = 8 * size_of(opcode.type)

    def shift(a: Array, by: Array) -> Array:
        shifted = a << np.minimum(by, bits - 1).astype(a.dtype)
        return np.where(by >= bits, 0, shifted).astype(a.dtype)

    return Form(opcode.type, (opcode.type, "u32"), shift)


def _shr(opcode: Opcode) -> Form:
    bits, signed = 8 * size_of(opcode.type), is_signed(opcode.type)

    def shift(a: Array, by: Array) -> Array:
        shifted = a >> np.minimum(by, bits - 1).astype(a.dtype)
        return shifted if signed else np.where(by >= bits, 0, shifted).astype(a.dtype)

    return Form(opcode.type, (opcode.type, "u32"), shift)


def _prmt(opcode: Opcode) -> Form:
    def permute(a: Array, b: Array, selector: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros_like(both)
        for byte in range(4):
            pick = (selector >> np.uint32(4 * byte)).astype(np.uint64)
            value = both >> ((pick & 7) * 8) & 0xFF
            sign = np.where(value & 0x80, 0xFF, 0).astype(np.uint64)
            result = result | np.where(pick & 8, sign, value) << np.uint64(8 * byte)
        return result.astype(np.uint32)

    return Form("b32", ("b32", "b32", "b32"), permute)


def _bfi(opcode: Opcode) -> Form:
    def insert(field: Array, into: Array, position: Array, length: Array) -> Array:
        """Without the bits that lie beyond the 32."""
        at, count = (
            np.minimum(number & 0xFF, 32).astype(np.uint64)
            for number in (position, length)
        )
        mask = ((np.uint64(1) << count) - np.uint64(1)) << at
        return ((into & ~mask) | (field << at & mask)).astype(np.uint32)

    return Form("b32", ("b32", "b32", "u32", "u32"), insert)


FORMS: dict[str, Build] = {
    "and": plain(2, np.bitwise_and),
    "or": plain(2, np.bitwise_or),
    "xor": plain(2, np.bitwise_xor),
    "not": plain(1, np.invert),
    "shl": _shl,
    "shr": _shr,
    "prmt": _prmt,
    "bfi": _bfi,
}
