"""The subset of PTX that the interpreter knows: what NVRTC makes of the kernels.

One line for each form of an opcode: words in their order, `[word]` may be left out,
`a/b` is a choice, words in capitals are the choices below. Anything else is a Fault.
"""

from __future__ import annotations

import functools
import re

CHOICES = {
    "BITS": "b16/b32/b64",
    "INT": "u32/s32/u64/s64",
    "FLOAT": "f32/f64",
    "COMPARE": "eq/ne/lt/le/gt/ge",
    "UNORDERED": "equ/neu/ltu/leu/gtu/geu/num/nan",
}
_ACCESS = "[L1::no_allocate] [v2/v4] u8/u16/u32/u64/BITS/FLOAT"

SUBSET: dict[str, tuple[str, ...]] = {
    # integers and floats
    "add": ("INT", "[rn/rz] [ftz] f32", "[rn] f64"),
    "sub": ("INT", "[rn] [ftz] f32", "[rn] f64"),
    "mul": ("lo INT", "wide u32/s32", "[rn] [ftz] f32", "[rn] f64"),
    "mad": ("lo INT",),
    "fma": ("rn [ftz] f32", "rn f64"),
    "div": ("INT", "rn [ftz] f32", "rn f64"),
    "min": ("INT", "[ftz] f32", "f64"),
    "max": ("INT", "[ftz] [NaN] f32", "f64"),
    "neg": ("s32/s64", "[ftz] f32", "f64"),
    "abs": ("[ftz] f32", "f64"),
    "rcp": ("rn [ftz] f32", "rn f64", "approx ftz f64"),
    "ex2": ("approx ftz f32",),
    # bits
    "and": ("BITS/pred",),
    "or": ("BITS/pred",),
    "xor": ("BITS/pred",),
    "not": ("BITS/pred",),
    "shl": ("BITS",),
    "shr": ("INT",),
    "prmt": ("b32",),
    "bfi": ("b32",),
    # choosing, copying, converting
    "setp": (
        "COMPARE u16/s16/INT",
        "eq/ne BITS",
        "COMPARE/UNORDERED [ftz] f32",
        "COMPARE/UNORDERED f64",
    ),
    "selp": ("BITS/u16/s16/INT/FLOAT",),
    "mov": ("BITS/u16/s16/INT/FLOAT/pred",),
    "cvt": (
        "u16/s16/INT u16/s16/INT",
        "rn FLOAT INT",
        "rn f16 f32",
        "rn f16x2/bf16x2 f32",
        "rn [ftz] f32 f64",
        "f32 f16",
        "[ftz] f64 f32",
    ),
    "cvta": ("to global u64",),
    "mapa": ("shared::cluster u32",),
    # memory; a generic address is a global one: cvta makes none of shared memory
    "ld": ("param u32/u64/BITS/FLOAT", f"[global/shared/shared::cluster] {_ACCESS}"),
    "st": (f"[global/shared/shared::cluster] {_ACCESS}",),
    # control
    "bra": ("[uni]",),
    "ret": ("",),
    "bar": ("sync",),
    "barrier": (
        "cluster arrive release/relaxed aligned",
        "cluster wait acquire aligned",
    ),
    "shfl": ("sync bfly b32",),
}


def _word_pattern(word: str) -> str:
    optional = word.startswith("[")
    names = word.strip("[]").split("/")
    choices = "/".join(CHOICES.get(name, name) for name in names).split("/")
    pattern = rf"(?:\.(?:{'|'.join(map(re.escape, choices))}))"
    return pattern + "?" if optional else pattern


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    forms = ("".join(map(_word_pattern, form.split())) for form in SUBSET[name])
    return re.compile(re.escape(name) + f"(?:{'|'.join(forms)})")


def is_known(opcode: str) -> bool:
    """Say whether the subset has this opcode with these modifiers."""
    name = opcode.split(".")[0]
    return name in SUBSET and _pattern(name).fullmatch(opcode) is not None
