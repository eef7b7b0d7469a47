"""The subset of PTX that the interpreter knows. Anything else is a Fault.

One line for each form of an opcode: words in their order, `[word]` may be left out,
`a/b` is a choice, words in capitals are the choices below.
"""

from __future__ import annotations

import functools
import re

CHOICES = {
    "INT": "u16/s16/u32/s32/u64/s64",
    "BITS": "b16/b32/b64",
    "FLOAT": "f32/f64",
    "NUMBER": "u8/s8/u16/s16/u32/s32/u64/s64",
    "ANY": "b8/u8/s8/b16/u16/s16/b32/u32/s32/b64/u64/s64/f32/f64",
    "ROUND": "rn/rz/rm/rp",
    "INTEGRAL": "rni/rzi/rmi/rpi",
    "COMPARE": "eq/ne/lt/le/gt/ge",
    "UNORDERED": "equ/neu/ltu/leu/gtu/geu/num/nan",
    "SPACE": "global/shared/shared::cta/shared::cluster",
    "CACHED": "ca/cg/cs/lu/cv",
    "WRITTEN": "wb/cg/cs/wt",
    "EVICT": "L1::evict_normal/L1::evict_first/L1::evict_last/L1::no_allocate",
    "PREFETCH": "L2::64B/L2::128B/L2::256B",
    "SCOPE": "cta/cluster/gpu/sys",
}

SUBSET: dict[str, tuple[str, ...]] = {
    # integers and floats
    "add": ("INT", "[ROUND] [ftz] f32", "[rn] f64"),
    "sub": ("INT", "[ROUND] [ftz] f32", "[rn] f64"),
    "mul": ("lo/hi INT", "wide u16/s16/u32/s32", "[ROUND] [ftz] f32", "[rn] f64"),
    "mad": ("lo/hi INT", "wide u16/s16/u32/s32"),
    "fma": ("ROUND [ftz] f32", "rn f64"),
    "div": ("INT", "rn/approx/full [ftz] f32", "rn f64"),
    "rem": ("INT",),
    "min": ("INT", "[ftz] [NaN] f32", "f64"),
    "max": ("INT", "[ftz] [NaN] f32", "f64"),
    "neg": ("s16/s32/s64", "[ftz] f32", "f64"),
    "abs": ("s16/s32/s64", "[ftz] f32", "f64"),
    "copysign": ("FLOAT",),
    "rcp": ("rn/approx [ftz] f32", "rn f64", "approx ftz f64"),
    "sqrt": ("rn/approx [ftz] f32", "rn f64"),
    "rsqrt": ("approx [ftz] f32",),
    "ex2": ("approx [ftz] f32",),
    "lg2": ("approx [ftz] f32",),
    # bits
    "and": ("BITS", "pred"),
    "or": ("BITS", "pred"),
    "xor": ("BITS", "pred"),
    "not": ("BITS", "pred"),
    "shl": ("BITS",),
    "shr": ("BITS", "INT"),
    "shf": ("l/r wrap/clamp b32",),
    "lop3": ("b32",),
    "prmt": ("b32",),
    "bfe": ("u32/s32/u64/s64",),
    "bfi": ("b32/b64",),
    "popc": ("b32/b64",),
    "clz": ("b32/b64",),
    "bfind": ("[shiftamt] u32/s32/u64/s64",),
    "brev": ("b32/b64",),
    # choosing, copying, converting
    "setp": (
        "COMPARE [and/or/xor] INT",
        "lo/ls/hi/hs [and/or/xor] u16/u32/u64",
        "eq/ne [and/or/xor] BITS",
        "COMPARE/UNORDERED [and/or/xor] [ftz] f32",
        "COMPARE/UNORDERED [and/or/xor] f64",
    ),
    "selp": ("BITS", "INT", "FLOAT"),
    "mov": ("BITS", "INT", "FLOAT", "pred"),
    "cvt": (
        "[sat] NUMBER NUMBER",
        "INTEGRAL [ftz] [sat] NUMBER f16/f32/f64",
        "rn [sat] f16/f32/f64 NUMBER",
        "rz/rm/rp [sat] f16/f32/f64 u8/s8/u16/s16/u32/s32",
        "ROUND [ftz] [sat] f16 f32",
        "rn f16x2/bf16x2 f32",
        "ROUND [ftz] [sat] f32 f64",
        "ROUND [sat] f16 f64",
        "[ftz] [sat] f32 f16/f32",
        "[ftz] [sat] f64 f32",
        "[sat] f64 f16/f64",
        "INTEGRAL [ftz] [sat] f32 f32",
        "INTEGRAL [sat] f64 f64",
    ),
    "cvta": ("[to] global/shared/shared::cta u32/u64",),
    "mapa": ("[shared::cluster] u32/u64",),
    # memory
    "ld": (
        "param ANY",
        "[weak/volatile] [SPACE] [CACHED] [EVICT] [PREFETCH] [v2/v4/v8] ANY",
        "global [CACHED] nc [EVICT] [PREFETCH] [v2/v4/v8] ANY",
    ),
    "st": ("[weak/volatile] [SPACE] [WRITTEN] [EVICT] [v2/v4/v8] ANY",),
    # control
    "bra": ("[uni]",),
    "ret": ("[uni]",),
    "exit": ("",),
    "bar": ("sync", "warp sync"),
    "barrier": (
        "sync [aligned]",
        "cluster arrive [release/relaxed] [aligned]",
        "cluster wait [acquire] [aligned]",
    ),
    "membar": ("cta/gl/sys",),
    "fence": ("[sc/acq_rel] SCOPE",),
    "shfl": ("sync up/down/bfly/idx b32",),
    "vote": ("sync ballot b32", "sync all/any/uni pred"),
    "activemask": ("b32",),
}

IGNORED_DIRECTIVES = (".pragma", ".loc", ".file")


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
