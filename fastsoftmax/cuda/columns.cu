/* The CUDA kernels for columns, [rows, n, inner] with n reduced: see rows.cu.
 */

/* A lane takes VEC neighbouring columns; WARPS warps in each of BLOCKS blocks share
 * them, one of them taking elements w, w + WARPS ... of what its block has. */

/* Where a thread stands: the number of its first column, and that in the arrays. */
struct Spot {
    i64 column, at;
    bool live;

    DEVICE Spot(i64 group, int vec, i64 rows, i64 n, i64 inner)
    {
        const i64 columns = rows * inner;
        column = (group * 32 + threadIdx.x % 32) * vec;
        live = column < columns;
        column = live ? column : 0;
        i64 row = columns >> 32 ? column / inner : (i64)((u32)column / (u32)inner);
        at = row * (n - 1) * inner + column;
    }
};

template <class Op, int VEC, int ITEMS, int WARPS> struct HeldColumns {
    typedef typename Op::Type T;
    typedef typename Op::Item Item;
    typedef Pack<T, VEC> P;
    enum { ELEMENTS = ITEMS * WARPS };

    P raw[ITEMS][Op::INPUTS];
    Spot spot;
    i64 first, inner; /* index of this warp's first element */
    int count;        /* elements of this warp, at most ITEMS, or below 1 */

    DEVICE HeldColumns(Spot spot, i64 first, i64 end, i64 inner)
        : spot(spot), first(first + threadIdx.x / 32 % WARPS), inner(inner)
    {
        i64 left = (end - this->first + WARPS - 1) / WARPS;
        count = spot.live ? (int)(left < ITEMS ? left : (i64)ITEMS) : 0;
    }
    DEVICE i64 index(int k) const
    {
        return first + k * WARPS;
    }
    DEVICE void read(const Op &op)
    {
        const i64 start = spot.at + first * inner, step = WARPS * inner;
#pragma unroll
        for (int input = 0; input < Op::INPUTS; input++) {
            const T *from = op.in[input] + start;
#pragma unroll
            for (int k = 0; k < ITEMS; k++) {
                raw[k][input] = neutral_pack<Op, VEC>(op, input);
                if (k < count)
                    raw[k][input] = load<true, VEC>(from);
                from += step;
            }
        }
        if (!op.mask)
            return;
#pragma unroll
        for (int k = 0; k < ITEMS; k++)
            if (k < count)
                take_out(&raw[k][0], load<true, VEC>(op.mask + start + k * step));
    }
    /* Of the j-th column. */
    DEVICE void items(const Op &op, int j, Item (&item)[ITEMS]) const
    {
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            Pack<T, 1> one[Op::INPUTS];
#pragma unroll
            for (int i = 0; i < Op::INPUTS; i++) one[i].v[0] = raw[k][i].v[j];
            op.template items<1>(one, &item[k]);
        }
    }
    DEVICE void states(const Op &op, typename Op::Row (&row)[VEC],
                       Item (&item)[VEC][ITEMS], State<Op> (&state)[VEC]) const
    {
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            items(op, j, item[j]);
            state[j] = state_of(op, row[j], item[j], [&](int k) { return index(k); });
        }
    }
    template <bool KEPT>
    DEVICE void prepare(const Op &op, typename Op::Row (&row)[VEC],
                        Item (&item)[VEC][ITEMS]) const
    {
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            if constexpr (!KEPT || !Op::KEEPS)
                items(op, j, item[j]);
            if constexpr (!KEPT && Op::KEEPS) {
                op.to_quotients(row[j], item[j]);
#pragma unroll
                for (int k = 0; k < ITEMS; k++) op.again(row[j], &item[j][k], index(k));
            }
        }
    }
    DEVICE void write(const Op &op, const typename Op::Row (&row)[VEC],
                      const Item (&item)[VEC][ITEMS], T *y) const
    {
        i64 step = WARPS * inner;
        hide(step); /* or its multiples take as many registers as the items */
        y += spot.at + first * inner;
        bool look_again = false;
#pragma unroll
        for (int j = 0; j < VEC; j++) look_again |= op.must_look_again(row[j]);
        const u8 *mask = look_again ? op.mask + spot.at + first * inner : nullptr;
#pragma unroll
        for (int k = 0; k < ITEMS; k++) {
            typename Op::Real real[VEC];
#pragma unroll
            for (int j = 0; j < VEC; j++)
                real[j] = op.result(row[j], item[j][k], index(k));
            if (k < count) {
                if (look_again)
#pragma unroll
                    for (int j = 0; j < VEC; j++)
                        if (op.must_look_again(row[j]) && !mask[k * step + j])
                            real[j] = Op::masked_result();
                store<true>(y, rounded<T, VEC>(real));
            }
            y += step;
        }
    }
};

template <class Op, int VEC, int WARPS, int BLOCKS> struct ColumnScratch {
    enum { SHARED = WARPS * BLOCKS > 1 };
    /* An odd length: lanes that walk along warps do not meet in a bank. */
    State<Op> parts[SHARED ? WARPS : 1][SHARED ? 32 * VEC + 1 : 1];
    State<Op> totals[SHARED ? BLOCKS : 1][SHARED ? 32 * VEC : 1];
};

/* Of the threads of each column, in each of them: WARPS lanes join a column's. */
template <class Op, int VEC, int WARPS, int BLOCKS>
DEVICE void columns_all(const Op &op, State<Op> (&state)[VEC],
                        ColumnScratch<Op, VEC, WARPS, BLOCKS> &scratch)
{
    if constexpr (WARPS * BLOCKS == 1)
        return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 rank = blockIdx.x % BLOCKS;
#pragma unroll
    for (int j = 0; j < VEC; j++)
        write_state(&scratch.parts[warp][lane * VEC + j], state[j]);
    if constexpr (BLOCKS > 1)
        cluster_wait();
    __syncthreads();
#pragma unroll
    for (int turn = 0; turn < VEC; turn++) {
        const int part = lane % WARPS;
        const int column = turn * 32 + warp * (32 / WARPS) + lane / WARPS;
        State<Op> total = warp_all<Op, WARPS>(op, scratch.parts[part][column]);
        if constexpr (BLOCKS > 1) {
            if (part < BLOCKS)
                store_state_far(&scratch.totals[rank][column], total, part);
        } else if (part == 0)
            write_state(&scratch.totals[0][column], total);
    }
    if constexpr (BLOCKS > 1) {
        cluster_arrive();
        cluster_wait();
    } else
        __syncthreads();
#pragma unroll
    for (int j = 0; j < VEC; j++) {
        state[j] = scratch.totals[0][lane * VEC + j];
        for (int i = 1; i < BLOCKS; i++)
            state[j] = join_states(op, state[j], scratch.totals[i][lane * VEC + j]);
    }
}

template <class Op, int VEC>
DEVICE void finish_columns(const Op &op, typename Op::Row (&row)[VEC],
                           const State<Op> (&state)[VEC])
{
#pragma unroll
    for (int j = 0; j < VEC; j++) op.finish(row[j], state[j].peak, state[j].sum);
}

template <class Op, int VEC, int WARPS>
DEVICE void write_columns(const Op &op, const typename Op::Row (&row)[VEC], Spot spot)
{
    if (spot.live && (WARPS == 1 || threadIdx.x < 32))
#pragma unroll
        for (int j = 0; j < VEC; j++) op.write_row(row[j], spot.column + j);
}

/* ---- loops for columns ---- */

template <class Op, int VEC, int ITEMS, int WARPS, int BLOCKS, class... Extra>
DEVICE void columns_body(ARGUMENTS)
{
    typedef HeldColumns<Op, VEC, ITEMS, WARPS> Part;
    __shared__ ColumnScratch<Op, VEC, WARPS, BLOCKS> scratch;
    if constexpr (BLOCKS > 1)
        cluster_begin();
    Op op(x, second, y, temperature, extra...);
    i64 group = blockIdx.x / BLOCKS;
    if (WARPS * BLOCKS == 1)
        group = group * 4 + threadIdx.x / 32;
    Spot spot(group, VEC, rows, n, inner);
    Part held(spot, blockIdx.x % BLOCKS * Part::ELEMENTS, n, inner);
    held.read(op);
    typename Op::Row row[VEC] = {};
    typename Op::Item item[VEC][ITEMS];
    State<Op> state[VEC];
    held.states(op, row, item, state);
    columns_all<Op, VEC, WARPS, BLOCKS>(op, state, scratch);
    finish_columns(op, row, state);
    if constexpr (Op::HAS_RESULTS) {
        held.template prepare<true>(op, row, item);
        held.write(op, row, item, (typename Op::Type *)y);
    }
    if (blockIdx.x % BLOCKS == 0)
        write_columns<Op, VEC, WARPS>(op, row, spot);
}

template <class Op, int VEC, int ITEMS, int WARPS, class... Extra>
KERNEL(WARPS == 1 ? 128 : 32 * WARPS)
columns(ARGUMENTS)
{
    columns_body<Op, VEC, ITEMS, WARPS, 1, Extra...>(GIVEN);
}

#if __CUDA_ARCH__ >= 900
template <class Op, int VEC, int ITEMS, int WARPS, int BLOCKS, class... Extra>
__global__ void __cluster_dims__(BLOCKS, 1, 1) BOUNDS(32 * WARPS, 1024)
    column_cluster(ARGUMENTS)
{
    columns_body<Op, VEC, ITEMS, WARPS, BLOCKS, Extra...>(GIVEN);
}
#endif

/* Long columns, first launch: states of chunks, [chunks, columns]. */
template <class Op, int VEC, int ITEMS, int WARPS, class... Extra>
KERNEL(32 * WARPS)
column_states(ARGUMENTS)
{
    typedef HeldColumns<Op, VEC, ITEMS, WARPS> Part;
    __shared__ ColumnScratch<Op, VEC, WARPS, 1> scratch;
    Op op(x, second, y, temperature, extra...);
    const i64 chunks = (n - 1) / chunk + 1, number = blockIdx.x % chunks;
    const i64 begin = number * chunk, end = begin + chunk < n ? begin + chunk : n;
    Spot spot(blockIdx.x / chunks, VEC, rows, n, inner);
    State<Op> total[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++) total[j] = no_state<Op>();
    for (i64 first = begin; first < end; first += Part::ELEMENTS) {
        Part held(spot, first, end, inner);
        typename Op::Row row[VEC] = {};
        typename Op::Item item[VEC][ITEMS];
        State<Op> state[VEC];
        held.read(op);
        held.states(op, row, item, state);
#pragma unroll
        for (int j = 0; j < VEC; j++) total[j] = join_states(op, total[j], state[j]);
    }
    columns_all<Op, VEC, WARPS, 1>(op, total, scratch);
    if (spot.live && threadIdx.x < 32)
#pragma unroll
        for (int j = 0; j < VEC; j++)
            write_state((State<Op> *)states + number * (rows * inner) + spot.column + j,
                        total[j]);
}

/* Second launch: every block joins the states of its columns, and writes the results of
 * its chunk. */
template <class Op, int VEC, int ITEMS, int WARPS, class... Extra>
KERNEL(32 * WARPS)
column_results(ARGUMENTS)
{
    typedef HeldColumns<Op, VEC, ITEMS, WARPS> Part;
    __shared__ ColumnScratch<Op, VEC, WARPS, 1> scratch;
    Op op(x, second, y, temperature, extra...);
    const i64 chunks = (n - 1) / chunk + 1, blocks = Op::HAS_RESULTS ? chunks : 1;
    const i64 begin = blockIdx.x % blocks * chunk;
    const i64 end = begin + chunk < n ? begin + chunk : n;
    Spot spot(blockIdx.x / blocks, VEC, rows, n, inner);
    typename Op::Row row[VEC] = {};
    State<Op> total[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++) total[j] = no_state<Op>();
    for (i64 i = threadIdx.x / 32; i < chunks; i += WARPS)
#pragma unroll
        for (int j = 0; j < VEC; j++)
            total[j] = join_states(
                op, total[j],
                ((const State<Op> *)states)[i * (rows * inner) + spot.column + j]);
    columns_all<Op, VEC, WARPS, 1>(op, total, scratch);
#pragma unroll
    for (int j = 0; j < VEC; j++)
        if constexpr (Op::HAS_PEAK)
            op.take_peak(row[j], total[j].peak);
    finish_columns(op, row, total);
    if (begin == 0)
        write_columns<Op, VEC, WARPS>(op, row, spot);
    for (i64 first = begin; Op::HAS_RESULTS && first < end; first += Part::ELEMENTS) {
        Part held(spot, first, end, inner);
        typename Op::Item item[VEC][ITEMS];
        held.read(op);
        held.template prepare<false>(op, row, item);
        held.write(op, row, item, (typename Op::Type *)y);
    }
}
