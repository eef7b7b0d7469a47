/* The CUDA kernels: softmax, log_softmax, logsumexp, their gradients and the hinge
 * losses, for rows (the axis is the last one) and columns (it is not). No #include:
 * NVRTC compiles this text where no CUDA headers are installed.
 *
 * A. An operation (Softmax, Hinge ...) says what an element and a row mean; a skeleton
 * (tile, team, shared_row ...) says which threads hold which elements. Every kernel is
 * one of each. choose.py chooses, and states for which shapes. B. An operation finds a
 * row's peak, then a sum that needs the peak, then its results. Peak and sum make a
 * state; states of pieces of a row join to the state of the row. C. A row's bits depend
 * on the row, n and the type alone: within a chunk elements go to threads by their
 * index, chunks are cut by n, and joining is commutative to the bit. D. A difference x
 * - peak is rounded; what rounding lost goes into the exponential (two_sum). Sums are
 * pairs hi + lo of twice the precision. So the largest term is exactly 1, and what the
 * others add to it is not lost: hi - 1 + lo is log1p's argument. Sums of float that may
 *    cancel (gradients, losses, weights) are double.
 * E. Compiled with --fmad=false: a product and a sum are fused where fma says so,
 * nowhere else. float32 flushes subnormal numbers to 0 (CuPy's own -ftz=true).
 */

/* ---- what threads find out together ---- */

template <class S> DEVICE S from_lane(S s, int lane_mask)
{
    union Words {
        S s;
        u32 word[sizeof(S) / 4];
        DEVICE Words()
        {
        }
    } words;
    words.s = s;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(S) / 4); i++)
        words.word[i] = __shfl_xor_sync(0xffffffffu, words.word[i], lane_mask);
    return words.s;
}

/* Of all lanes of a warp, in each of them. */
template <class Op, class S> DEVICE S warp_all(S s)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) s = Op::join(s, from_lane(s, mask));
    return s;
}

/* Of a warp, or of a block of TEAM threads by way of `scratch`, one for each warp,
 * which must not have been in use since the last barrier but one. */
template <class Op, int TEAM, class S> DEVICE S team_all(S s, S nothing, S *scratch)
{
    s = warp_all<Op>(s);
    if (TEAM == 32)
        return s;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0)
        scratch[warp] = s;
    __syncthreads();
    return warp_all<Op>(lane < TEAM / 32 ? scratch[lane] : nothing);
}

template <class Op> struct State {
    typename Op::Peak peak;
    typename Op::Sum sum;
};

template <class Op> DEVICE State<Op> no_state()
{
    State<Op> state = {Op::no_peak(), Op::no_sum()};
    return state;
}

template <class Op> DEVICE State<Op> join_states(State<Op> a, State<Op> b)
{
    State<Op> state;
    state.peak = Op::join(a.peak, b.peak);
    state.sum = Op::join(Op::relative(a.sum, a.peak, state.peak),
                         Op::relative(b.sum, b.peak, state.peak));
    return state;
}

template <class Op> DEVICE State<Op> state_from_lane(State<Op> state, int lane_mask)
{
    if constexpr (Op::HAS_PEAK)
        state.peak = from_lane(state.peak, lane_mask);
    if constexpr (Op::HAS_SUM)
        state.sum = from_lane(state.sum, lane_mask);
    return state;
}

/* Empty peaks and sums take a byte, which is nothing to write. */
template <class Op> DEVICE void write_state(State<Op> *to, State<Op> state)
{
    if constexpr (Op::HAS_PEAK)
        to->peak = state.peak;
    if constexpr (Op::HAS_SUM)
        to->sum = state.sum;
}

/* The states of a row's chunks, in each lane of every warp. */
template <class Op> DEVICE State<Op> all_chunks(const State<Op> *states, i64 chunks)
{
    int lane = threadIdx.x % 32;
    State<Op> state = no_state<Op>();
    for (i64 i = lane; i < chunks; i += 32) state = join_states<Op>(state, states[i]);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
        state = join_states<Op>(state, state_from_lane<Op>(state, mask));
    return state;
}

/* Puts in what masked elements give, in rows where the formula does not. */
template <class Op, class T, int N>
DEVICE void correct(const Op &op, i64 at, Pack<T, N> *pack)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        if (op.masked_out(at + j))
            from_real(Op::masked_result(), &pack->v[j]);
}

/* ---- what a team of threads holds of a row, in registers ---- */

/* Scratch memory of a block's reductions; `turn` alternates, so that no barrier need
 * protect what slower threads still read. */
template <class Op, int TEAM> struct Scratch {
    typename Op::Peak peaks[2][TEAM / 32];
    typename Op::Sum sums[2][TEAM / 32];
};

/* Items beyond the end are nowhere used, but the compiler compares them ahead of the
 * guard. */
template <class Item, int N> DEVICE void blank(Item (&item)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) item[i] = Item();
}

template <class Op, int VEC, int PACKS, int TEAM> struct Held {
    typedef typename Op::Type T;
    enum { ELEMENTS = VEC * PACKS * TEAM };

    typename Op::Item item[PACKS * VEC];
    i64 first, at; /* index of the first element in the row, and in the arrays */
    int count;     /* elements up to the row's end, at most ELEMENTS */

    DEVICE Held(i64 row, i64 n, i64 first) : first(first), at(row * n + first)
    {
        count = n - first < ELEMENTS ? (int)(n - first) : ELEMENTS;
        blank(item);
    }
    /* Calls f(pack, place of its first element) for this thread's packs. */
    template <class F> DEVICE void each_pack(F f) const
    {
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            int place = (k * TEAM + (int)(threadIdx.x % TEAM)) * VEC;
            if (place < count)
                f(k, place);
        }
    }
    template <class F> DEVICE void each(F f)
    {
        each_pack([&](int k, int place) {
#pragma unroll
            for (int j = 0; j < VEC; j++) f(item[k * VEC + j], first + place + j);
        });
    }
    DEVICE void read(const Op &op)
    {
        each_pack([&](int k, int place) {
            Pack<T, VEC> raw[Op::INPUTS];
            op.template fetch<VEC>(at + place, raw);
            op.template items<VEC>(raw, item + k * VEC);
        });
    }
    /* The same; if `keep`, what was read goes to shared memory, too: one array an
     * input. */
    DEVICE void read_and_keep(const Op &op, T *const *raw_at, bool keep)
    {
        each_pack([&](int k, int place) {
            Pack<T, VEC> raw[Op::INPUTS];
            op.template fetch<VEC>(at + place, raw);
#pragma unroll
            for (int i = 0; i < Op::INPUTS; i++)
                if (keep)
                    store_shared(raw_at[i] + first + place, raw[i]);
            op.template items<VEC>(raw, item + k * VEC);
        });
    }
    DEVICE void read_kept(const Op &op, T *const *raw_at)
    {
        each_pack([&](int k, int place) {
            Pack<T, VEC> raw[Op::INPUTS];
#pragma unroll
            for (int i = 0; i < Op::INPUTS; i++)
                raw[i] = load<VEC>(raw_at[i] + first + place);
            op.template items<VEC>(raw, item + k * VEC);
        });
    }
    DEVICE State<Op> state(Op &op, Scratch<Op, TEAM> &scratch, int turn)
    {
        typedef typename Op::Item Item;
        State<Op> state = no_state<Op>();
        if constexpr (Op::HAS_PEAK) {
            each([&](Item &item, i64 index) {
                state.peak = Op::join(state.peak, op.peak_of(item, index));
            });
            state.peak =
                team_all<Op, TEAM>(state.peak, Op::no_peak(), scratch.peaks[turn % 2]);
            op.set_peak(state.peak);
        }
        if constexpr (Op::HAS_SUM) {
            each([&](Item &item, i64 index) { op.add(&state.sum, &item, index); });
            state.sum =
                team_all<Op, TEAM>(state.sum, Op::no_sum(), scratch.sums[turn % 2]);
        }
        return state;
    }
    DEVICE void again(const Op &op)
    {
        each([&](typename Op::Item &item, i64 index) { op.again(&item, index); });
    }
    DEVICE void write(const Op &op, void *y) const
    {
        each_pack([&](int k, int place) {
            Pack<T, VEC> pack;
#pragma unroll
            for (int j = 0; j < VEC; j++)
                from_real(op.result(item[k * VEC + j], first + place + j), &pack.v[j]);
            if (op.must_look_again())
                correct(op, at + place, &pack);
            store((T *)y + at + place, pack);
        });
    }
};

/* ---- skeletons for rows ---- */

/* What every kernel is given; Extra is the operation's own.
 *   x, second    IN: what operations read; contiguous, [rows, n] or [rows, n, inner]
 *   y            OUT: results, or what there is once a row; NULL: nothing
 *   states       INOUT: of the chunks of split rows or columns
 *   chunk        their length */
#define KERNEL(THREADS) __global__ void __launch_bounds__(THREADS)
#define ARGUMENTS                                                                      \
    const void *x, const void *second, void *y, void *states, i64 rows, i64 n,         \
        i64 inner, i64 chunk, typename Op::Real temperature, Extra... extra

/* Writes a row's results once it is finished. */
template <class Op, class H> DEVICE void write_all(const Op &op, const H &held, void *y)
{
    if constexpr (Op::HAS_RESULTS)
        if (y)
            held.write(op, y);
}

/* A warp (TEAM 32, four to a block) or a block to a row, which it holds in registers.
 */
template <class Op, int VEC, int PACKS, int TEAM, class... Extra>
KERNEL(TEAM == 32 ? 128 : TEAM)
team(ARGUMENTS)
{
    __shared__ Scratch<Op, TEAM> scratch;
    i64 row = (i64)blockIdx.x * (blockDim.x / TEAM) + threadIdx.x / TEAM;
    if (row >= rows) /* whole warps */
        return;
    Op op(x, second, y, temperature, extra...);
    op.begin(row, n);
    Held<Op, VEC, PACKS, TEAM> held(row, n, 0);
    held.read(op);
    op.finish(held.state(op, scratch, 0).sum);
    write_all(op, held, y);
    if (threadIdx.x % TEAM == 0)
        op.write_row(row);
}

/* N elements of a tile, from `place` on, between global and shared memory. There rows
 * are an odd length apart: lanes that walk along them never meet in a bank. */
template <class Op, int N>
DEVICE void to_tile(const Op &op, typename Op::Item *items, i64 first, int place,
                    int length)
{
    Pack<typename Op::Type, N> raw[Op::INPUTS];
    op.template fetch<N>(first + place, raw);
    typename Op::Item item[N];
    op.template items<N>(raw, item);
    int row = place / length, column = place % length;
#pragma unroll
    for (int j = 0; j < N; j++) {
        items[row * (length | 1) + column] = item[j];
        if (++column == length) {
            column = 0;
            row++;
        }
    }
}

template <class Op, int N>
DEVICE void from_tile(const typename Op::Item *items, typename Op::Type *y, int place,
                      int length)
{
    Pack<typename Op::Type, N> pack;
    int row = place / length, column = place % length;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const typename Op::Item *item = items + row * (length | 1) + column;
        from_real(*reinterpret_cast<const typename Op::Real *>(item), &pack.v[j]);
        if (++column == length) {
            column = 0;
            row++;
        }
    }
    store(y + place, pack);
}

/* One row, by one thread; results replace the first number of each item. */
template <class Op>
DEVICE void row_of_tile(Op &op, typename Op::Item *items, i64 row, int length,
                        bool results)
{
    op.begin(row, length);
    typename Op::Peak peak = Op::no_peak();
    for (int i = 0; i < length; i++) peak = Op::join(peak, op.peak_of(items[i], i));
    op.set_peak(peak);
    typename Op::Sum sum = Op::no_sum();
    for (int i = 0; i < length; i++) op.add(&sum, &items[i], i);
    op.finish(sum);
    op.write_row(row);
    for (int i = 0; results && i < length; i++)
        *reinterpret_cast<typename Op::Real *>(&items[i]) =
            op.must_look_again() && op.masked_out(row * length + i)
                ? Op::masked_result()
                : op.result(items[i], i);
}

/* Short rows: the elements of THREADS rows, neighbours in memory, go to shared memory,
 * and from there each thread takes a row. */
template <class Op, int VEC, int THREADS, class... Extra>
KERNEL(THREADS)
tile(ARGUMENTS)
{
    extern __shared__ __align__(16) u8 arena[];
    typename Op::Item *items = reinterpret_cast<typename Op::Item *>(arena);
    Op op(x, second, y, temperature, extra...);
    const bool results = Op::HAS_RESULTS && y;
    const int length = (int)n;
    const i64 row = (i64)blockIdx.x * THREADS, first = row * n;
    const int count = (int)(rows - row < THREADS ? rows - row : THREADS) * length;

    for (int place = threadIdx.x * VEC; place < count; place += THREADS * VEC) {
        if (place + VEC <= count)
            to_tile<Op, VEC>(op, items, first, place, length);
        else
            for (int i = place; i < count; i++)
                to_tile<Op, 1>(op, items, first, i, length);
    }
    __syncthreads();
    if ((int)threadIdx.x * length < count)
        row_of_tile(op, items + threadIdx.x * (length | 1), row + threadIdx.x, length,
                    results);
    if (!results)
        return;
    __syncthreads();
    typename Op::Type *to = (typename Op::Type *)y + first;
    for (int place = threadIdx.x * VEC; place < count; place += THREADS * VEC) {
        if (place + VEC <= count)
            from_tile<Op, VEC>(items, to, place, length);
        else
            for (int i = place; i < count; i++) from_tile<Op, 1>(items, to, i, length);
    }
}

/* A block to a row that is kept in shared memory as it was read, if there are results
 * to write. Chunk by chunk, as split_states does it: the bits are the same. */
template <class Op, int VEC, int PACKS, int TEAM, class... Extra>
KERNEL(TEAM)
shared_row(ARGUMENTS)
{
    typedef typename Op::Type T;
    typedef Held<Op, VEC, PACKS, TEAM> Chunk;
    extern __shared__ __align__(16) u8 arena[];
    __shared__ Scratch<Op, TEAM> scratch;
    __shared__ State<Op> chunk_states[16]; /* SHARED_CHUNKS in choose.py */
    Op op(x, second, y, temperature, extra...);
    const i64 row = blockIdx.x;
    T *raw_at[Op::INPUTS];
    for (int i = 0; i < Op::INPUTS; i++)
        raw_at[i] = reinterpret_cast<T *>(arena) + i * ((n + 15) / 16 * 16);
    op.begin(row, n);
    const bool keep = Op::HAS_RESULTS && y;
    int chunks = 0;
    for (i64 first = 0; first < n; first += Chunk::ELEMENTS) {
        Chunk held(row, n, first);
        held.read_and_keep(op, raw_at, keep);
        State<Op> state = held.state(op, scratch, chunks);
        if (threadIdx.x == 0)
            write_state(chunk_states + chunks, state);
        chunks++;
    }
    __syncthreads();
    State<Op> state = all_chunks<Op>(chunk_states, chunks);
    op.set_peak(state.peak);
    op.finish(state.sum);
    if (threadIdx.x == 0)
        op.write_row(row);
    for (i64 first = 0; keep && first < n; first += Chunk::ELEMENTS) {
        Chunk held(row, n, first);
        held.read_kept(op, raw_at);
        held.again(op);
        held.write(op, y);
    }
}

/* Long rows, first launch: a block to a chunk, whose state it writes. */
template <class Op, int VEC, int PACKS, int TEAM, class... Extra>
KERNEL(TEAM)
split_states(ARGUMENTS)
{
    typedef Held<Op, VEC, PACKS, TEAM> Part;
    __shared__ Scratch<Op, TEAM> scratch;
    Op op(x, second, y, temperature, extra...);
    const i64 chunks = (n - 1) / chunk + 1, row = blockIdx.x / chunks;
    const i64 begin = blockIdx.x % chunks * chunk;
    const i64 end = begin + chunk < n ? begin + chunk : n;
    op.begin(row, n);
    State<Op> total = no_state<Op>();
    int turn = 0;
    for (i64 first = begin; first < end; first += Part::ELEMENTS) {
        Part held(row, n, first);
        held.read(op);
        total = join_states<Op>(total, held.state(op, scratch, turn));
        turn++;
    }
    if (threadIdx.x == 0)
        write_state((State<Op> *)states + blockIdx.x, total);
}

/* Second launch: every block joins its row's states, and writes the results of its
 * chunk. */
template <class Op, int VEC, int PACKS, int TEAM, class... Extra>
KERNEL(TEAM)
split_results(ARGUMENTS)
{
    typedef Held<Op, VEC, PACKS, TEAM> Part;
    Op op(x, second, y, temperature, extra...);
    const bool results = Op::HAS_RESULTS && y;
    const i64 chunks = (n - 1) / chunk + 1, blocks = results ? chunks : 1;
    const i64 row = blockIdx.x / blocks, begin = blockIdx.x % blocks * chunk;
    const i64 end = begin + chunk < n ? begin + chunk : n;
    op.begin(row, n);
    State<Op> state = all_chunks<Op>((const State<Op> *)states + row * chunks, chunks);
    op.set_peak(state.peak);
    op.finish(state.sum);
    if (begin == 0 && threadIdx.x == 0)
        op.write_row(row);
    for (i64 first = begin; results && first < end; first += Part::ELEMENTS) {
        Part held(row, n, first);
        held.read(op);
        held.again(op);
        held.write(op, y);
    }
}

#if __CUDA_ARCH__ >= 900

DEVICE void cluster_barrier()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* A state in the shared memory of another block of the cluster. */
template <class S> DEVICE S from_block(const S *mine, u32 rank)
{
    union Words {
        S s;
        u32 word[sizeof(S) / 4];
        DEVICE Words()
        {
        }
    } words;
    u32 address = (u32)__cvta_generic_to_shared(mine), there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(there)
                 : "r"(address), "r"(rank));
#pragma unroll
    for (int i = 0; i < (int)(sizeof(S) / 4); i++)
        asm volatile("ld.shared::cluster.u32 %0, [%1];"
                     : "=r"(words.word[i])
                     : "r"(there + 4 * i)
                     : "memory");
    return words.s;
}

/* A cluster of blocks to a row, which they hold in their registers. */
template <class Op, int VEC, int PACKS, int TEAM, int BLOCKS, class... Extra>
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(TEAM)
    cluster(ARGUMENTS)
{
    typedef Held<Op, VEC, PACKS, TEAM> Part;
    __shared__ Scratch<Op, TEAM> scratch;
    __shared__ State<Op> mine;
    Op op(x, second, y, temperature, extra...);
    const u32 rank = blockIdx.x % BLOCKS;
    const i64 row = blockIdx.x / BLOCKS;
    op.begin(row, n);
    Part held(row, n, (i64)rank * Part::ELEMENTS);
    held.read(op);
    State<Op> state = held.state(op, scratch, 0);
    if (threadIdx.x == 0)
        mine = state;
    cluster_barrier();
    State<Op> total = no_state<Op>();
    for (u32 i = 0; i < BLOCKS; i++)
        total = join_states<Op>(total, from_block(&mine, i));
    cluster_barrier(); /* none may leave while others read from it */
    held.each([&](typename Op::Item &item, i64 index) {
        op.move(&item, state.peak, total.peak);
    });
    op.set_peak(total.peak);
    op.finish(total.sum);
    write_all(op, held, y);
    if (rank == 0 && threadIdx.x == 0)
        op.write_row(row);
}

#endif
