/* The CUDA kernels for columns, [rows, n, inner] with n reduced: see rows.cu.
 */

/* ---- skeletons for columns: [rows, n, inner], n reduced ---- */

/* A warp's lanes take neighbouring columns; YS warps share them, warp y of them taking
 * elements y, y + YS ... of each. Where a thread stands: */
template <int YS> struct Spot {
    i64 column, at; /* number of the column; its first element in the arrays */
    int y;
    bool live;

    DEVICE Spot(i64 block, i64 rows, i64 n, i64 inner)
    {
        y = threadIdx.y % YS;
        column = (block * (blockDim.y / YS) + threadIdx.y / YS) * 32 + threadIdx.x;
        live = column < rows * inner;
        at = live ? column / inner * n * inner + column % inner : 0;
    }
};

/* Of the YS threads of a column, in each of them. */
template <int YS, class S, class F>
DEVICE S column_all(S s, int y, S (*scratch)[32], F join)
{
    if (YS == 1)
        return s;
    scratch[y][threadIdx.x] = s;
    __syncthreads();
    s = scratch[0][threadIdx.x];
    for (int i = 1; i < YS; i++) s = join(s, scratch[i][threadIdx.x]);
    return s;
}

template <class Op, int YS> struct ColumnScratch {
    typename Op::Peak peaks[2][YS][32];
    typename Op::Sum sums[2][YS][32];
};

/* What the threads of a column hold of it. */
template <class Op, int HELD, int YS> struct HeldColumn {
    typedef typename Op::Type T;
    typedef typename Op::Item Item;
    enum { ELEMENTS = HELD * YS };

    Item item[HELD];
    Spot<YS> spot;
    i64 first, n, inner;

    DEVICE HeldColumn(Spot<YS> spot, i64 n, i64 inner, i64 first)
        : spot(spot), first(first), n(n), inner(inner)
    {
        blank(item);
        /* Or the compiler computes k YS inner for all k ahead of the loop over parts,
         * and keeps them in twice as many registers as the items. */
        asm volatile("" : "+l"(this->inner));
    }
    /* Calls f(item, its index) for this thread's elements. */
    template <class F> DEVICE void each(F f)
    {
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            i64 index = first + k * YS + spot.y;
            if (spot.live && index < n)
                f(item[k], index);
        }
    }
    DEVICE void read(const Op &op)
    {
        each([&](Item &item, i64 index) {
            Pack<T, 1> raw[Op::INPUTS];
            op.template fetch<1>(spot.at + index * inner, raw);
            op.template items<1>(raw, &item);
        });
    }
    DEVICE State<Op> state(Op &op, ColumnScratch<Op, YS> &scratch, int turn)
    {
        typedef typename Op::Peak Peak;
        typedef typename Op::Sum Sum;
        State<Op> state = no_state<Op>();
        if constexpr (Op::HAS_PEAK) {
            each([&](Item &item, i64 index) {
                state.peak = Op::join(state.peak, op.peak_of(item, index));
            });
            state.peak = column_all<YS>(state.peak, spot.y, scratch.peaks[turn % 2],
                                        [](Peak a, Peak b) { return Op::join(a, b); });
            op.set_peak(state.peak);
        }
        each([&](Item &item, i64 index) { op.add(&state.sum, &item, index); });
        state.sum = column_all<YS>(state.sum, spot.y, scratch.sums[turn % 2],
                                   [](Sum a, Sum b) { return Op::join(a, b); });
        return state;
    }
    DEVICE void again(const Op &op)
    {
        each([&](Item &item, i64 index) { op.again(&item, index); });
    }
    DEVICE void write(const Op &op, void *y)
    {
        each([&](Item &item, i64 index) {
            Pack<T, 1> pack;
            i64 at = spot.at + index * inner;
            from_real(op.result(item, index), &pack.v[0]);
            if (op.must_look_again())
                correct(op, at, &pack);
            store((T *)y + at, pack);
        });
    }
};

/* Columns that fit the registers of YS warps (of one: four times 32 columns to a
 * block). */
template <class Op, int HELD, int YS, class... Extra>
KERNEL(YS == 1 ? 128 : 32 * YS)
columns(ARGUMENTS)
{
    __shared__ ColumnScratch<Op, YS> scratch;
    Op op(x, second, y, temperature, extra...);
    Spot<YS> spot(blockIdx.x, rows, n, inner);
    HeldColumn<Op, HELD, YS> held(spot, n, inner, 0);
    held.read(op);
    op.finish(held.state(op, scratch, 0).sum);
    if constexpr (Op::HAS_RESULTS)
        held.write(op, y);
    if (spot.live && spot.y == 0)
        op.write_row(spot.column);
}

/* Long columns, first launch: states of chunks, [chunks, columns]. */
template <class Op, int HELD, int YS, class... Extra>
KERNEL(32 * YS)
column_states(ARGUMENTS)
{
    typedef HeldColumn<Op, HELD, YS> Part;
    __shared__ ColumnScratch<Op, YS> scratch;
    Op op(x, second, y, temperature, extra...);
    const i64 chunks = (n - 1) / chunk + 1, number = blockIdx.x % chunks;
    const i64 begin = number * chunk, end = begin + chunk < n ? begin + chunk : n;
    Spot<YS> spot(blockIdx.x / chunks, rows, n, inner);
    State<Op> total = no_state<Op>();
    int turn = 0;
    for (i64 first = begin; first < end; first += Part::ELEMENTS) {
        Part held(spot, end, inner, first);
        held.read(op);
        total = join_states<Op>(total, held.state(op, scratch, turn));
        turn++;
    }
    if (spot.live && spot.y == 0)
        write_state((State<Op> *)states + number * (rows * inner) + spot.column, total);
}

/* Second launch: every block joins the states of its columns, and writes the results of
 * its chunk. */
template <class Op, int HELD, int YS, class... Extra>
KERNEL(32 * YS)
column_results(ARGUMENTS)
{
    typedef HeldColumn<Op, HELD, YS> Part;
    __shared__ State<Op> scratch[YS][32];
    Op op(x, second, y, temperature, extra...);
    const i64 chunks = (n - 1) / chunk + 1, blocks = Op::HAS_RESULTS ? chunks : 1;
    const i64 begin = blockIdx.x % blocks * chunk;
    const i64 end = begin + chunk < n ? begin + chunk : n;
    Spot<YS> spot(blockIdx.x / blocks, rows, n, inner);
    State<Op> state = no_state<Op>();
    for (i64 i = spot.y; spot.live && i < chunks; i += YS)
        state = join_states<Op>(
            state, ((const State<Op> *)states)[i * (rows * inner) + spot.column]);
    state = column_all<YS>(state, spot.y, scratch, [](State<Op> a, State<Op> b) {
        return join_states<Op>(a, b);
    });
    op.set_peak(state.peak);
    op.finish(state.sum);
    if (spot.live && spot.y == 0 && begin == 0)
        op.write_row(spot.column);
    for (i64 first = begin; Op::HAS_RESULTS && first < end; first += Part::ELEMENTS) {
        Part held(spot, end, inner, first);
        held.read(op);
        held.again(op);
        held.write(op, y);
    }
}
