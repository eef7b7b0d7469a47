"""Changes to the CUDA source: bugs that must be caught, and others that must not."""

from __future__ import annotations

from dataclasses import dataclass

from gpu import execution


@dataclass(frozen=True)
class Mutant:
    """Texts and what replaces them, in the kernels that a case of `mutation` runs."""

    name: str
    case: str
    changes: tuple[tuple[str, str], ...]

    def text(self) -> str:
        text = execution.source()
        for old, new in self.changes:
            assert text.count(old) == 1, f"{self.name}: {text.count(old)} times {old!r}"
            text = text.replace(old, new)
        return text


def _without(text: str, what: str) -> tuple[str, str]:
    assert text.count(what) == 1, text
    return text, text.replace(what, "")


def _with(text: str, what: str, instead: str) -> tuple[str, str]:
    assert text.count(what) == 1, text
    return text, text.replace(what, instead)


BUGS = [
    Mutant(
        "tile: rows are read before they are there",
        "tile",
        (
            _without(
                "    __syncthreads();\n    const bool live", "    __syncthreads();\n"
            ),
        ),
    ),
    Mutant(
        "tile: results are written before they are there",
        "tile",
        (
            _without(
                "    __syncthreads();\n    T *to = (T *)y", "    __syncthreads();\n"
            ),
        ),
    ),
    Mutant(
        "tile: words that end beyond the last row",
        "tile",
        (
            (
                "HOW == WHOLE ? count / PER_WORD : 0;\n#pragma",
                "(count + PER_WORD - 1) / PER_WORD;\n#pragma",
            ),
        ),
    ),
    Mutant(
        "tile: rows beyond the last one",
        "tile",
        (("const bool live = thread * N < count;", "const bool live = true;"),),
    ),
    Mutant(
        "tile: the last elements are left out",
        "tile",
        (
            (
                "i < count; i += THREADS)\n        to[i]",
                "i < 0; i += THREADS)\n        to[i]",
            ),
        ),
    ),
    Mutant(
        "rows: lanes without elements leave",
        "short",
        (
            (
                "    number = live ? number : 0;\n    Part held",
                "    if (!live && TEAM <= 32)\n        return;\n    Part held",
            ),
        ),
    ),
    Mutant(
        "rows: each lane reads its own neighbours",
        "warp",
        (
            ("threadIdx.x % TEAM * VEC)", "threadIdx.x % TEAM * VEC * PACKS)"),
            ("return k * TEAM * VEC;", "return k * VEC;"),
        ),
    ),
    Mutant(
        "rows: one pack too many",
        "warp",
        (("place(k) < count && has_input", "place(k) <= count && has_input"),),
    ),
    Mutant(
        "rows: the largest of nothing is 0",
        "warp",
        (("Peak peak = {-infinity<Real>()};", "Peak peak = {(Real)0};"),),
    ),
    Mutant(
        "rows: sums of other frames are added as they are",
        "warp",
        (
            (
                "            state.sum = op.relative(state.sum, state.peak, peak);\n",
                ";",
            ),
        ),
    ),
    Mutant(
        "rows: results in the frame of the thread",
        "short",
        (("(Real)0 : move.power;", "(Real)0 : (Real)1;"),),
    ),
    Mutant(
        "rows: 1 / sum rounded",
        "short",
        (
            (
                "row.factor = times(pair(h, h * rest)",
                "row.factor = times(pair(h, 4 * h * rest)",
            ),
        ),
    ),
    Mutant(
        "rows: masked ones are left in",
        "masked",
        (("if (!kept.v[j])", "if (kept.v[j] > 1)"),),
    ),
    Mutant(
        "rows: the mask is not looked at again",
        "masked",
        (("return row.special && mask;", "return false;"),),
    ),
    Mutant(
        "logarithm: small terms are lost",
        "warp",
        (("lo = lost + ((sum - hi) - largest)", "lo = (sum - hi) - largest"),),
    ),
    Mutant(
        "block: parts are read before they are there",
        "block",
        (
            (
                "write_state(parts + warp, state);\n        __syncthreads();",
                "write_state(parts + warp, state);",
            ),
        ),
    ),
    Mutant(
        "block: warps write to one place",
        "block",
        (("write_state(parts + warp, state);", "write_state(parts, state);"),),
    ),
    Mutant(
        "cluster: blocks need not have begun",
        "cluster",
        (
            (
                "        cluster_wait();\n        if (lane < BLOCKS)",
                "        if (lane < BLOCKS)",
            ),
            (
                "    if constexpr (BLOCKS > 1)\n        cluster_begin();\n"
                "    Op op(x, second, y, temperature, extra...);\n    const i64 rank",
                "    Op op(x, second, y, temperature, extra...);\n    const i64 rank",
            ),
        ),
    ),
    Mutant(
        "cluster: states are read before they are there",
        "cluster",
        (
            (
                "state, lane);\n        cluster_arrive();\n        cluster_wait();\n",
                "state, lane);\n        __syncthreads();\n",
            ),
        ),
    ),
    Mutant(
        "cluster: every block writes to the same place",
        "cluster",
        (("parts + blockIdx.x % BLOCKS * WARPS + warp", "parts + warp"),),
    ),
    Mutant(
        "split: the last chunk is not joined",
        "split",
        (
            (
                "i < count; i += 32)\n        total = join",
                "i < count - 1; i += 32)\n        total = join",
            ),
        ),
    ),
    Mutant(
        "split: chunks overlap",
        "split",
        (
            (
                "const i64 begin = blockIdx.x % chunks * chunk;",
                "const i64 begin = blockIdx.x % chunks * (chunk - 4);",
            ),
        ),
    ),
    Mutant(
        "columns: one beyond the last column",
        "column",
        (("live = column < columns;", "live = column <= columns;"),),
    ),
    Mutant(
        "columns: one beyond the last element",
        "columns",
        (
            (
                "i64 left = (end - this->first + WARPS - 1)",
                "i64 left = (end - this->first + WARPS)",
            ),
        ),
    ),
    Mutant(
        "columns: totals are read before they are there",
        "columns",
        (
            (
                "    } else\n        __syncthreads();\n#pragma unroll\n"
                "    for (int j = 0; j < VEC; j++) {\n        state[j]",
                "    }\n#pragma unroll\n"
                "    for (int j = 0; j < VEC; j++) {\n        state[j]",
            ),
        ),
    ),
    Mutant(
        "columns: an even length",
        "columns",
        (("[SHARED ? 32 * VEC + 1 : 1]", "[SHARED ? 32 * VEC + 32 : 1]"),),
    ),
    Mutant(
        "column cluster: totals of one block",
        "column cluster",
        (("for (int i = 1; i < BLOCKS; i++)", "for (int i = 1; i < BLOCKS - 1; i++)"),),
    ),
    Mutant(
        "split columns: the first chunk alone",
        "split columns",
        (("i < chunks; i += WARPS)", "i < 1; i += WARPS)"),),
    ),
    Mutant(
        "gradient: the low part of the sum",
        "split vjp",
        (("(item.dy - row.total.hi) - row.total.lo)", "(item.dy - row.total.hi))"),),
    ),
    Mutant(
        "hinge: the positive counts",
        "hinge sum",
        (("return index != row.label && kept;", "return kept;"),),
    ),
    Mutant(
        "hinge: the last of equals",
        "hinge largest",
        (("(equal ? a_first : a_larger)", "(equal ? !a_first : a_larger)"),),
    ),
]

LEGAL = [
    Mutant(
        "a barrier more",
        "block",
        (
            (
                "    state = parts[lane % LANES];",
                "    __syncthreads();\n    state = parts[lane % LANES];",
            ),
        ),
    ),
    Mutant(
        "states joined the other way round",
        "warp",
        (
            (
                "state.sum = Op::join(state.sum, from_lane(state.sum, mask));",
                "state.sum = Op::join(from_lane(state.sum, mask), state.sum);",
            ),
        ),
    ),
]
