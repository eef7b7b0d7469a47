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


BARRIER = "    __syncthreads();\n"

_TILE = [
    Mutant(
        "tile: rows are read before they are there",
        "tile",
        (_without("first, i, length);\n    }\n" + BARRIER, BARRIER),),
    ),
    Mutant(
        "tile: results are read before they are there",
        "tile",
        (_without("    if (!results)\n        return;\n" + BARRIER, BARRIER),),
    ),
    Mutant(
        "tile: an even stride",
        "tile",
        (
            (
                "items[row * (length | 1) + column] = ",
                "items[row * length + column] = ",
            ),
            ("items + row * (length | 1) + column;", "items + row * length + column;"),
            ("items + threadIdx.x * (length | 1)", "items + threadIdx.x * length"),
        ),
    ),
    Mutant(
        "tile: the last pack is read whole",
        "tile",
        (_with("if (place + VEC <= count)\n            to_t", "+ VEC <=", "<"),),
    ),
    Mutant(
        "tile: rows beyond the last one",
        "tile",
        (("(int)threadIdx.x * length < count", "(int)threadIdx.x < THREADS"),),
    ),
    Mutant(
        "tile: results are written twice",
        "tile",
        (
            _with(
                "place += THREADS * VEC) {\n        if (place + VEC <= count)\n"
                "            from_tile",
                "THREADS *",
                "THREADS / 2 *",
            ),
        ),
    ),
    Mutant(
        "tile: the next row begins late",
        "tile",
        (
            _with(
                "+ column] = item[j];\n        if (++column == ",
                "++column ==",
                "++column >",
            ),
        ),
    ),
]

_TEAM = [
    Mutant(
        "team: rows beyond the last one",
        "warp",
        (("if (row >= rows) /* whole warps */", "if (row > rows + 2)"),),
    ),
    Mutant(
        "team: half a warp's lanes meet",
        "warp",
        (_with("mask = 16; mask > 0; mask /= 2)\n        s = Op", "16;", "8;"),),
    ),
    Mutant(
        "team: half a warp is named in the shuffle",
        "warp",
        (("__shfl_xor_sync(0xffffffffu", "__shfl_xor_sync(0xffffu"),),
    ),
    Mutant(
        "team: lanes without elements leave",
        "short",
        (
            _with(
                "if (row >= rows) /* whole",
                "row >= rows",
                "row >= rows || threadIdx.x % 32 * VEC >= n",
            ),
        ),
    ),
    Mutant(
        "team: the largest of nothing is 0",
        "warp",
        (("Peak peak = {-infinity<Real>()};", "Peak peak = {(Real)0};"),),
    ),
    Mutant(
        "team: each lane reads its own neighbours",
        "warp",
        (
            (
                "(k * TEAM + (int)(threadIdx.x % TEAM)) * VEC",
                "((int)(threadIdx.x % TEAM) * PACKS + k) * VEC",
            ),
        ),
    ),
    Mutant(
        "team: two packs in one place",
        "warp",
        (_with("(k * TEAM + (int)(thr", "k * TEAM", "k / 2 * TEAM"),),
    ),
    Mutant(
        "team: one element beyond the end",
        "block",
        (("if (place < count)\n                f(", "if (place <= count)\n f("),),
    ),
    Mutant(
        "team: what the sum of float32 lost",
        "warp",
        (
            _without(
                "log1p_of((sum.terms.hi - (Real)1) + sum.terms.lo)", " + sum.terms.lo"
            ),
        ),
    ),
    Mutant(
        "team: what x - peak lost",
        "short",
        (_with("exp_of(d.hi, d.lo)", "d.lo", "(A)0"),),
    ),
    Mutant(
        "team: a mask of the wrong row",
        "masked",
        (
            _with(
                "Pack<u8, N> kept = load<N>(mask + at)",
                "(mask + at)",
                "(mask + at % 500)",
            ),
        ),
    ),
    Mutant(
        "team: masked results of a row with NaN",
        "masked",
        (_with("return special && mask;", "special && mask", "special && !mask"),),
    ),
    Mutant(
        "team: warps do not wait for each other",
        "block",
        (_without("scratch[warp] = s;\n" + BARRIER, BARRIER),),
    ),
    Mutant(
        "team: warps write in one place",
        "block",
        (_with("scratch[warp] = s;\n", "warp", "warp / 2"),),
    ),
    Mutant(
        "team: half of the warps are read",
        "block",
        (_with("lane < TEAM / 32 ? scratch", "32", "64"),),
    ),
    Mutant(
        "team: threads without elements leave before the barrier",
        "block",
        (
            _with(
                "if (row >= rows) /* whole",
                "row >= rows",
                "row >= rows || threadIdx.x * VEC * PACKS > n + 256",
            ),
        ),
    ),
    Mutant(
        "team: 16 bytes are written off their boundary",
        "block",
        (_with("store((T *)y + at + place, pack);", "at + place", "at + place + 1"),),
    ),
]

_SHARED_AND_SPLIT = [
    Mutant(
        "shared_row: states are read before they are there",
        "shared",
        (_without("        chunks++;\n    }\n" + BARRIER, BARRIER),),
    ),
    Mutant(
        "shared_row: scratch memory does not alternate",
        "shared vjp",
        (("Op::no_sum(), scratch.sums[turn % 2]", "Op::no_sum(), scratch.sums[0]"),),
    ),
    Mutant(
        "shared_row: every chunk is the first one",
        "shared",
        (_without("load<VEC>(raw_at[i] + first + place)", " + first"),),
    ),
    Mutant(
        "shared_row: exponentials are not computed again",
        "shared",
        (
            _without(
                "held.read_kept(op, raw_at);\n        held.again(op);",
                "held.again(op);",
            ),
        ),
    ),
    Mutant(
        "shared_row: a chunk's sum belongs to its own peak",
        "shared",
        (("Op::relative(b.sum, b.peak, state.peak)", "b.sum"),),
    ),
    Mutant(
        "shared_row: every thread writes the state",
        "shared",
        (
            _with(
                "if (threadIdx.x == 0)\n            write_state(chunk_states",
                "== 0",
                "< 64",
            ),
        ),
    ),
    Mutant(
        "split: the second chunk's peak does not count",
        "split",
        (("state.peak = Op::join(a.peak, b.peak);", "state.peak = a.peak;"),),
    ),
    Mutant(
        "split: a chunk ends too late",
        "split",
        (
            _with(
                "begin + chunk : n;\n    op.begin(row, n);\n    State<Op> total",
                "chunk :",
                "chunk + 1 :",
            ),
        ),
    ),
    Mutant(
        "split: the states of another row",
        "split",
        (_with("states + row * chunks, chunks", "row * chunks", "row"),),
    ),
    Mutant(
        "split: states of chunks in one place",
        "split",
        (_with("write_state((State<Op> *)states + blockIdx.x,", "blockIdx.x", "row"),),
    ),
    Mutant(
        "split: the first state is left out",
        "split",
        (_with("(i64 i = lane; i < chunks", "= lane", "= lane + 1"),),
    ),
    Mutant(
        "split: scratch memory does not alternate",
        "split vjp",
        (("Op::no_sum(), scratch.sums[turn % 2]", "Op::no_sum(), scratch.sums[0]"),),
    ),
    Mutant(
        "split: the low part of the gradient's sum",
        "split vjp",
        (_without("(item.dy - this->total.hi) - this->total.lo", " - this->total.lo"),),
    ),
]

_CLUSTER = [
    Mutant(
        "cluster: states are read before they are there",
        "cluster",
        (
            _without(
                "mine = state;\n    cluster_barrier();", "\n    cluster_barrier();"
            ),
        ),
    ),
    Mutant(
        "cluster: blocks leave while others read",
        "cluster",
        (("cluster_barrier(); /* none may leave", "/* none may leave"),),
    ),
    Mutant(
        "cluster: two blocks of one rank",
        "cluster",
        (_with("rank = blockIdx.x % BLOCKS", "BLOCKS", "(BLOCKS / 2)"),),
    ),
    Mutant(
        "cluster: the first block's state only",
        "cluster",
        (("from_block(&mine, i)", "from_block(&mine, 0)"),),
    ),
    Mutant(
        "cluster: items keep to their block's peak",
        "cluster",
        (("op.move(&item, state.peak, total.peak);", ""),),
    ),
]

_COLUMNS = [
    Mutant(
        "columns: warps do not wait for each other",
        "columns",
        (_without("scratch[y][threadIdx.x] = s;\n" + BARRIER, BARRIER),),
    ),
    Mutant(
        "columns: one beyond the last column",
        "column",
        (_with("live = column < rows", "<", "<="),),
    ),
    Mutant(
        "columns: one element beyond the end",
        "columns",
        (_with("spot.live && index < n", "<", "<="),),
    ),
    Mutant(
        "columns: columns of later rows",
        "column",
        (_without("column / inner * n * inner", " * n"),),
    ),
    Mutant(
        "columns: lanes take every fourth column",
        "column",
        (
            (
                "(block * (blockDim.y / YS) + threadIdx.y / YS) * 32 + threadIdx.x",
                "(block * 32 + threadIdx.x) * (blockDim.y / YS) + threadIdx.y / YS",
            ),
        ),
    ),
    Mutant(
        "columns: one warp's result is left out",
        "columns",
        (_with("(int i = 1; i < YS; i++)\n        s = join", "1;", "2;"),),
    ),
    Mutant(
        "split columns: states overlap",
        "split columns",
        (_without("states + number * (rows * inner) + spot", " * (rows * inner)"),),
    ),
    Mutant(
        "split columns: the first state is left out",
        "split columns",
        (_with("(i64 i = spot.y; spot.live", "spot.y;", "spot.y + 1;"),),
    ),
    Mutant(
        "split columns: exponentials are not computed again",
        "split columns",
        (
            _without(
                "        Part held(spot, end, inner, first);\n        held.read(op);\n"
                "        held.again(op);",
                "        held.again(op);",
            ),
        ),
    ),
    Mutant(
        "split columns: scratch memory does not alternate",
        "split columns vjp",
        (_with("spot.y, scratch.sums[turn % 2]", "turn % 2", "0"),),
    ),
]

_OTHERS = [
    Mutant(
        "hinge: the label's own term counts",
        "hinge sum",
        (("return index != label && kept;", "return kept;"),),
    ),
    Mutant(
        "hinge: the mask of the first row",
        "hinge sum",
        (_without("kept = mask[first + index]", "first + "),),
    ),
    Mutant(
        "hinge: what margin - positive lost",
        "hinge sum",
        (_without("(s + base.hi) + base.lo", " + base.lo"),),
    ),
    Mutant(
        "hinge: a label of another row",
        "hinge sum",
        (_with("labels ? labels[row] : 0", "[row]", "[row ^ 1]"),),
    ),
    Mutant(
        "hinge: the last of equals",
        "hinge largest",
        (_with("(unsigned long long)a.index <= (u", "<=", ">"),),
    ),
    Mutant(
        "gradient: the other input's elements",
        "log vjp",
        (_with("raw[1] = load<N>(dy + at);", "dy", "in"),),
    ),
    Mutant(
        "gradient: each input read twice",
        "log vjp",
        (
            _with(
                "raw[1] = load<N>(dy + at);",
                "load<N>(dy + at);",
                "load<N>(dy + at); (void)*(volatile const T *)(in + at);",
            ),
        ),
    ),
    Mutant(
        "weighted: weights of 0 decide the peak",
        "weighted",
        (
            (
                "item[j].b == (Real)0 ? -infinity<Real>() : to_real(raw[0].v[j])",
                "to_real(raw[0].v[j])",
            ),
        ),
    ),
    Mutant(
        "weighted: the sign of the sum",
        "weighted",
        (_with("(negative ? -1.0 : 1.0)", "-1.0", "1.0"),),
    ),
]

BUGS = [*_TILE, *_TEAM, *_SHARED_AND_SPLIT, *_CLUSTER, *_COLUMNS, *_OTHERS]

LEGAL = [
    Mutant(
        "other names",
        "block",
        (
            (
                ", warp = threadIdx.x / 32;\n    if (",
                ", w = threadIdx.x / 32;\n    if (",
            ),
            ("scratch[warp] = s;", "scratch[w] = s;"),
        ),
    ),
    Mutant(
        "a join in the other order",
        "warp",
        (("Op::join(s, from_lane(s, mask))", "Op::join(from_lane(s, mask), s)"),),
    ),
    Mutant(
        "lanes meet in another order",
        "warp",
        (
            (
                "mask = 16; mask > 0; mask /= 2)\n        s = Op",
                "mask = 1; mask < 32; mask *= 2)\n        s = Op",
            ),
        ),
    ),
    Mutant(
        "one more barrier",
        "tile",
        (
            (
                "first, i, length);\n    }\n" + BARRIER,
                "first, i, length);\n    }\n" + BARRIER + BARRIER,
            ),
        ),
    ),
    Mutant(
        "a barrier of warps",
        "block",
        (("scratch[warp] = s;\n", "scratch[warp] = s;\n    __syncwarp();\n"),),
    ),
    Mutant(
        "whole warps leave where no barrier follows",
        "split",
        (
            (
                "(const State<Op> *)states + row * chunks, chunks);\n",
                "(const State<Op> *)states + row * chunks, chunks);\n"
                "    if (begin + threadIdx.x / 32 * 32 * VEC >= n)\n        return;\n",
            ),
        ),
    ),
    Mutant(
        "a loop that is not unrolled",
        "split",
        (
            (
                "    for (i64 i = lane; i < chunks",
                "#pragma unroll 1\n    for (i64 i = lane; i < chunks",
            ),
        ),
    ),
    Mutant(
        "scratch memory that does not alternate where two barriers protect it",
        "shared",
        (
            ("Op::no_sum(), scratch.sums[turn % 2]", "Op::no_sum(), scratch.sums[0]"),
            (
                "Op::no_peak(), scratch.peaks[turn % 2]",
                "Op::no_peak(), scratch.peaks[0]",
            ),
        ),
    ),
    Mutant(
        "blocks of a cluster are asked backwards",
        "cluster",
        (("from_block(&mine, i)", "from_block(&mine, BLOCKS - 1 - i)"),),
    ),
]
