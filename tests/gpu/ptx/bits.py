"""Instructions on bits."""

from __future__ import annotations

import numpy as np

from gpu.ptx.forms import Build, Form, Opcode, same
from gpu.ptx.types import DTYPES, UNSIGNED, Array, is_signed, size_of


def _and(opcode: Opcode) -> Form:
    return same(opcode, 2, np.bitwise_and)


def _or(opcode: Opcode) -> Form:
    return same(opcode, 2, np.bitwise_or)


def _xor(opcode: Opcode) -> Form:
    return same(opcode, 2, np.bitwise_xor)


def _not(opcode: Opcode) -> Form:
    return same(opcode, 1, np.invert)


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


def _shf(opcode: Opcode) -> Form:
    left, wrap = opcode.has("l"), opcode.has("wrap")

    def shift(low: Array, high: Array, by: Array) -> Array:
        by = (by & 31 if wrap else np.minimum(by, 32)).astype(np.uint64)
        both = high.astype(np.uint64) << np.uint64(32) | low
        shifted = (both << by) >> np.uint64(32) if left else both >> by
        return shifted.astype(np.uint32)

    return Form("b32", ("b32", "b32", "u32"), shift)


def _lop3(opcode: Opcode) -> Form:
    def combine(a: Array, b: Array, c: Array, table: Array) -> Array:
        result = np.zeros_like(a | b | c)
        for row in range(8):
            chosen = np.where(table >> np.uint32(row) & 1, ~result.dtype.type(0), 0)
            term = a if row & 4 else ~a
            term = term & (b if row & 2 else ~b) & (c if row & 1 else ~c)
            result = result | (term & chosen.astype(np.uint32))
        return result

    return Form("b32", ("b32",) * 4, combine)


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


def _bfe(opcode: Opcode) -> Form:
    type_ = opcode.type
    bits, signed = 8 * size_of(type_), is_signed(type_)
    dtype, plain = DTYPES[type_], UNSIGNED[size_of(type_)]

    def extract(a: Array, position: Array, length: Array) -> Array:
        """A signed field that reaches past the end is filled with the sign of a."""
        position, length = position & 0xFF, length & 0xFF
        top = np.minimum(position + length, bits)
        taken = np.where(top > position, top - position, 0)
        raised = a.view(plain) << (np.where(taken == 0, 0, bits - top)).astype(plain)
        down = np.where(taken == 0, 0, bits - taken).astype(plain)
        field = raised.view(dtype) >> down.view(dtype)
        beyond = np.where((a < 0) & (length > 0), -1, 0) if signed else 0
        return np.where(taken == 0, beyond, field).astype(dtype)

    return Form(type_, (type_, "u32", "u32"), extract)


def _bfi(opcode: Opcode) -> Form:
    bits, dtype = 8 * size_of(opcode.type), DTYPES[opcode.type]

    def insert(field: Array, into: Array, position: Array, length: Array) -> Array:
        position, length = position & 0xFF, length & 0xFF
        ones = ~dtype.type(0)
        kept = np.where(length == 0, bits, bits - np.minimum(length, bits))
        low = np.where(kept == bits, 0, ones >> (kept % bits).astype(dtype))
        shift = (position % bits).astype(dtype)
        outside = (position >= bits) | (length == 0)
        mask = np.where(outside, 0, low.astype(dtype) << shift).astype(dtype)
        return (into & ~mask) | ((field << shift) & mask)

    return Form(opcode.type, (opcode.type, opcode.type, "u32", "u32"), insert)


def _popc(opcode: Opcode) -> Form:
    return Form("u32", (opcode.type,), lambda a: np.bitwise_count(a).astype(np.uint32))


def _highest_bit(a: Array) -> Array:
    """Return the position of the highest one, -1 where there is none."""
    position = np.full(a.shape, -1, np.int64)
    for shift in range(8 * a.dtype.itemsize):
        position = np.where(a >> a.dtype.type(shift) & 1, shift, position)
    return position


def _clz(opcode: Opcode) -> Form:
    bits = 8 * size_of(opcode.type)
    return Form(
        "u32", (opcode.type,), lambda a: (bits - 1 - _highest_bit(a)).astype(np.uint32)
    )


def _bfind(opcode: Opcode) -> Form:
    plain, signed = UNSIGNED[size_of(opcode.type)], is_signed(opcode.type)
    bits, shift = 8 * size_of(opcode.type), opcode.has("shiftamt")

    def find(a: Array) -> Array:
        """Look for the highest bit that is not a copy of the sign."""
        a = np.where(a < 0, ~a, a) if signed else a
        highest = _highest_bit(a.view(plain))
        amount = np.where(highest < 0, -1, bits - 1 - highest)
        return (amount if shift else highest).astype(np.int32).view(np.uint32)

    return Form("u32", (opcode.type,), find)


def _brev(opcode: Opcode) -> Form:
    dtype = DTYPES[opcode.type]

    def reverse(a: Array) -> Array:
        bytes_ = np.ascontiguousarray(a).view(np.uint8).reshape(len(a), -1)
        bits = np.unpackbits(bytes_, axis=1, bitorder="little")[:, ::-1]
        return np.packbits(bits, axis=1, bitorder="little").view(dtype).ravel()

    return Form(opcode.type, (opcode.type,), reverse)


FORMS: dict[str, Build] = {
    "and": _and,
    "or": _or,
    "xor": _xor,
    "not": _not,
    "shl": _shl,
    "shr": _shr,
    "shf": _shf,
    "lop3": _lop3,
    "prmt": _prmt,
    "bfe": _bfe,
    "bfi": _bfi,
    "popc": _popc,
    "clz": _clz,
    "bfind": _bfind,
    "brev": _brev,
}
