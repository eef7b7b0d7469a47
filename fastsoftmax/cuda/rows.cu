/* The CUDA kernels: softmax, log_softmax, logsumexp, their gradients and the hinge
 * losses, for rows (the axis is the last one) and columns (it is not). No #include:
 * NVRTC compiles this text where no CUDA headers are installed.
 *
 * A. An operation (Softmax, HingeSum ...) says what an element and a row mean; a
 *    loop (rows, tile ...) says which threads hold which elements. Every kernel is
 *    one of each. choose.py chooses, and states for which shapes.
 * B. A thread reads all its elements before it uses the first, finds their peak and the
 *    sum that belongs to it: a state. States of pieces of a row join to the state of
 *    the row, in one reduction; then the thread makes results of what it holds.
 * C. A row's bits depend on the row, n, the type and what the card can do: elements go
 *    to threads by their index, chunks are cut by n, and joining is commutative to the
 *    bit. How elements are read (WHOLE ...) does not matter.
 * D. Terms of an exponential are relative to a power of two near their thread's peak:
 *    no difference is rounded, and states join exactly. Sums are pairs hi + lo of twice
 *    the precision: what small terms add to the largest is not lost. Sums of float that
 *    may cancel (gradients, losses, weights) are double.
 * E. Compiled with --fmad=false: a product and a sum are fused where fma says so,
 *    nowhere else. float32 flushes subnormal numbers to 0 (CuPy's own -ftz=true).
 */

/* How packs are read and written: as words, or one element after the other. */
enum { SINGLE = 0, WHOLE = 1 };

/* ---- states ---- */

template <class Op> struct State {
    typename Op::Peak peak;
    typename Op::Sum sum;
};

template <class Op> DEVICE State<Op> no_state()
{
    State<Op> state = {Op::no_peak(), Op::no_sum()};
    return state;
}

template <class Op> DEVICE State<Op> join_states(const Op &op, State<Op> a, State<Op> b)
{
    State<Op> state = a;
    if constexpr (Op::HAS_PEAK)
        state.peak = Op::join(a.peak, b.peak);
    if constexpr (Op::HAS_PEAK && Op::HAS_SUM) {
        a.sum = op.relative(a.sum, a.peak, state.peak);
        b.sum = op.relative(b.sum, b.peak, state.peak);
    }
    if constexpr (Op::HAS_SUM)
        state.sum = Op::join(a.sum, b.sum);
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

/* Of a thread's own items, of which at(i) is the index. */
template <class Op, int N, class At>
DEVICE State<Op> state_of(const Op &op, typename Op::Row &row,
                          typename Op::Item (&item)[N], At at)
{
    State<Op> state = no_state<Op>();
    if constexpr (Op::HAS_PEAK) {
#pragma unroll
        for (int i = 0; i < N; i++)
            state.peak = Op::join(state.peak, op.peak_of(row, item[i], at(i)));
        op.take_peak(row, state.peak);
    }
    op.to_quotients(row, item);
    if constexpr (Op::HAS_SUM) {
        typename Op::Adding adding = op.start(row);
#pragma unroll
        for (int i = 0; i < N; i++) op.add(row, &adding, &item[i], at(i), i);
        state.sum = Op::sum_of(adding);
    }
    return state;
}

/* ---- what threads find out together ---- */

template <class S> union Words {
    S s;
    u32 word[sizeof(S) / 4];
    DEVICE Words()
    {
    }
};

template <class S> DEVICE S from_lane(S s, int lane_mask)
{
    Words<S> words;
    words.s = s;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(S) / 4); i++)
        words.word[i] = __shfl_xor_sync(0xffffffffu, words.word[i], lane_mask);
    return words.s;
}

/* Of each LANES neighbours of a warp, in each of them. */
template <class Op, int LANES> DEVICE State<Op> warp_all(const Op &op, State<Op> state)
{
    if constexpr (Op::HAS_PEAK) {
        typename Op::Peak peak = state.peak;
#pragma unroll
        for (int mask = LANES / 2; mask > 0; mask /= 2)
            peak = Op::join(peak, from_lane(peak, mask));
        if constexpr (Op::HAS_SUM)
            state.sum = op.relative(state.sum, state.peak, peak);
        state.peak = peak;
    }
    if constexpr (Op::HAS_SUM)
#pragma unroll
        for (int mask = LANES / 2; mask > 0; mask /= 2)
            state.sum = Op::join(state.sum, from_lane(state.sum, mask));
    return state;
}

/* Says that this block runs, and its memory is there. */
DEVICE void cluster_begin()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
DEVICE void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
DEVICE void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Into the shared memory of another block of the cluster. */
template <class S> DEVICE void store_far(S *mine, S s, u32 block)
{
    Words<S> words;
    words.s = s;
    u32 address = (u32)__cvta_generic_to_shared(mine), there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(there)
                 : "r"(address), "r"(block));
#pragma unroll
    for (int i = 0; i < (int)(sizeof(S) / 4); i++)
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there + 4 * i),
                     "r"(words.word[i])
                     : "memory");
}
template <class Op> DEVICE void store_state_far(State<Op> *mine, State<Op> s, u32 block)
{
    if constexpr (Op::HAS_PEAK)
        store_far(&mine->peak, s.peak, block);
    if constexpr (Op::HAS_SUM)
        store_far(&mine->sum, s.sum, block);
}

/* Of the warps of a block, or of the blocks of a cluster, in each of them; `parts` has
 * room for a state of each warp. The blocks of a cluster have begun, and wait here. */
template <class Op, int WARPS, int BLOCKS>
DEVICE State<Op> warps_all(const Op &op, State<Op> state, State<Op> *parts)
{
    constexpr int PARTS = WARPS * BLOCKS, LANES = PARTS < 32 ? PARTS : 32;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if constexpr (BLOCKS == 1) {
        if (lane == 0)
            write_state(parts + warp, state);
        __syncthreads();
    } else {
        cluster_wait();
        if (lane < BLOCKS)
            store_state_far(parts + blockIdx.x % BLOCKS * WARPS + warp, state, lane);
        cluster_arrive();
        cluster_wait();
    }
    state = parts[lane % LANES];
#pragma unroll
    for (int i = 32; i < PARTS; i += 32)
        state = join_states(op, state, parts[lane + i]);
    return warp_all<Op, LANES>(op, state);
}

/* Of TEAM threads in each of BLOCKS blocks. */
template <class Op, int TEAM, int BLOCKS>
DEVICE State<Op> team_all(const Op &op, State<Op> state, State<Op> *parts)
{
    if constexpr (TEAM <= 32)
        return warp_all<Op, TEAM>(op, state);
    else
        return warps_all<Op, TEAM / 32, BLOCKS>(op, warp_all<Op, 32>(op, state), parts);
}

/* Joins the states of `count` chunks, in every thread of whole warps. */
template <class Op>
DEVICE State<Op> all_chunks(const Op &op, const State<Op> *states, i64 count)
{
    State<Op> total = no_state<Op>();
    for (i64 i = threadIdx.x % 32; i < count; i += 32)
        total = join_states(op, total, states[i]);
    return warp_all<Op, 32>(op, total);
}

/* ---- what a team of threads holds of a row, in registers ---- */

template <class Op> DEVICE bool has_input(const Op &op, int input)
{
    return input == 0 || !Op::SECOND_MAY_LACK || op.in[input];
}

template <class Op, int N>
DEVICE Pack<typename Op::Type, N> neutral_pack(const Op &op, int input)
{
    Pack<typename Op::Type, N> pack;
#pragma unroll
    for (int j = 0; j < N; j++) from_real(op.neutral(input), &pack.v[j]);
    return pack;
}

/* Makes -inf of what a mask takes out. */
template <class T, int N> DEVICE void take_out(Pack<T, N> *pack, Pack<u8, N> kept)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        if (!kept.v[j])
            from_real(-infinity<typename Computed<T>::type>(), &pack->v[j]);
}

template <class Op, int VEC, int PACKS, int TEAM, int HOW> struct Held {
    typedef typename Op::Type T;
    typedef typename Op::Item Item;
    typedef Pack<T, VEC> P;
    enum { ITEMS = VEC * PACKS, ELEMENTS = ITEMS * TEAM };
    P raw[PACKS][Op::INPUTS];
    i64 first, at; /* index of this thread's first element in the row, in the arrays */
    int count; /* elements from there to the row's end, at most ELEMENTS, or below 0 */

    DEVICE Held(i64 row, i64 begin, i64 end, i64 n)
        : first(begin + threadIdx.x % TEAM * VEC), at(row * n + first)
    {
        count = end - first < ELEMENTS ? (int)(end - first) : ELEMENTS;
    }
    /* Place of the k-th pack, from this thread's first on. */
    static DEVICE int place(int k)
    {
        return k * TEAM * VEC;
    }
    /* Where packs begin; hidden where a generic address is as good as one that is
     * known to be global. */
    template <class P> static DEVICE P *start(P *array)
    {
        if constexpr (HOW == WHOLE && sizeof(P) * VEC == 16)
            hide(array);
        return array;
    }
    DEVICE i64 index(int i) const
    {
        return first + place(i / VEC) + i % VEC;
    }
    DEVICE void read(const Op &op)
    {
#pragma unroll
        for (int input = 0; input < Op::INPUTS; input++) {
            const T *from = start(op.in[input] + at);
#pragma unroll
            for (int k = 0; k < PACKS; k++) {
                raw[k][input] = neutral_pack<Op, VEC>(op, input);
                load_if<HOW == WHOLE>(place(k) < count && has_input(op, input),
                                      from + place(k), &raw[k][input]);
            }
        }
        if (!op.mask)
            return;
        const u8 *from = op.mask + at;
#pragma unroll
        for (int k = 0; k < PACKS; k++)
            if (place(k) < count)
                take_out(&raw[k][0], load<HOW == WHOLE, VEC>(from + place(k)));
    }
    DEVICE void items(const Op &op, Item (&item)[ITEMS]) const
    {
#pragma unroll
        for (int k = 0; k < PACKS; k++) op.template items<VEC>(raw[k], item + k * VEC);
    }
    DEVICE State<Op> state(const Op &op, typename Op::Row &row, Item (&item)[ITEMS])
    {
        items(op, item);
        return state_of(op, row, item, [&](int i) { return index(i); });
    }
    /* Makes of what was read what results are made of; kept: `state` has. */
    template <bool KEPT>
    DEVICE void prepare(const Op &op, typename Op::Row &row, Item (&item)[ITEMS]) const
    {
        if constexpr (!KEPT || !Op::KEEPS)
            items(op, item);
        if constexpr (!KEPT && Op::KEEPS) {
            op.to_quotients(row, item);
#pragma unroll
            for (int i = 0; i < ITEMS; i++) op.again(row, &item[i], index(i));
        }
    }
    DEVICE void write(const Op &op, const typename Op::Row &row,
                      const Item (&item)[ITEMS], T *y) const
    {
        y = start(y + at);
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            typename Op::Real real[VEC];
#pragma unroll
            for (int j = 0; j < VEC; j++)
                real[j] = op.result(row, item[k * VEC + j], index(k * VEC + j));
            if (place(k) < count)
                store<HOW == WHOLE>(y + place(k), rounded<T, VEC>(real));
        }
        if (op.must_look_again(row))
            correct(op, y);
    }
    /* Of a row that is not ordinary: the results of this thread's masked entries. */
    DEVICE void correct(const Op &op, T *y) const
    {
        for (int k = 0; k < PACKS; k++)
            for (int j = place(k); j < place(k) + VEC && j < count; j++)
                if (!op.mask[at + j])
                    from_real(Op::masked_result(), y + j);
    }
};

/* ---- loops for rows ---- */

/* What every kernel is given; Extra is the operation's own.
 *   x, second    IN: what operations read; contiguous, [rows, n] or [rows, n, inner]
 *   y            OUT: results, or what there is once a row; NULL: nothing
 *   states       INOUT: of the chunks of split rows or columns
 *   chunk        their length */
/* As many registers as leave a processor so many threads. */
#define BOUNDS(THREADS, MANY) __launch_bounds__(THREADS, (MANY) / (THREADS))
#define KERNEL(THREADS) __global__ void BOUNDS(THREADS, 1024)
#define ARGUMENTS                                                                      \
    const void *x, const void *second, void *y, void *states, i64 rows, i64 n,         \
        i64 inner, i64 chunk, typename Op::Real temperature, Extra... extra
#define GIVEN x, second, y, states, rows, n, inner, chunk, temperature, extra...

template <class Op, class Part>
DEVICE void results(const Op &op, const Part &held, typename Op::Row &row,
                    typename Op::Item (&item)[Part::ITEMS], void *y)
{
    if constexpr (Op::HAS_RESULTS)
        if (y) {
            held.template prepare<true>(op, row, item);
            held.write(op, row, item, (typename Op::Type *)y);
        }
}

/* A row to TEAM threads in each of BLOCKS blocks, which hold it in registers. */
template <class Op, int VEC, int PACKS, int TEAM, int HOW, int BLOCKS, class... Extra>
DEVICE void rows_body(ARGUMENTS)
{
    typedef Held<Op, VEC, PACKS, TEAM, HOW> Part;
    __shared__ State<Op> parts[TEAM > 32 ? TEAM / 32 * BLOCKS : 1];
    if constexpr (BLOCKS > 1)
        cluster_begin();
    Op op(x, second, y, temperature, extra...);
    const i64 rank = blockIdx.x % BLOCKS;
    i64 number = blockIdx.x / BLOCKS;
    if constexpr (TEAM <= 32)
        number = number * (128 / TEAM) + threadIdx.x / TEAM;
    const bool live = number < rows;
    number = live ? number : 0;
    Part held(number, rank * Part::ELEMENTS, live ? n : 0, n);
    held.read(op);
    typename Op::Row row = op.begin(number, n);
    typename Op::Item item[Part::ITEMS];
    State<Op> state = team_all<Op, TEAM, BLOCKS>(op, held.state(op, row, item), parts);
    op.finish(row, state.peak, state.sum);
    results(op, held, row, item, y);
    if (live && rank == 0 && threadIdx.x % TEAM == 0)
        op.write_row(row, number);
}

template <class Op, int VEC, int PACKS, int TEAM, int HOW, class... Extra>
KERNEL(TEAM > 32 ? TEAM : 128)
rows(ARGUMENTS)
{
    rows_body<Op, VEC, PACKS, TEAM, HOW, 1, Extra...>(GIVEN);
}

#if __CUDA_ARCH__ >= 900
/* A fifth block of 16 bits where blocks are small: softmax of 40000 went from 71 to 79
 * percent of a copy on an H100, of 50257 from 80 to 85. */
template <class Op> constexpr int cluster_threads(int team)
{
    return team == 256 && Op::INPUTS == 1 && sizeof(typename Op::Type) == 2 ? 1280
                                                                            : 1024;
}
template <class Op, int VEC, int PACKS, int TEAM, int HOW, int BLOCKS, class... Extra>
__global__ void __cluster_dims__(BLOCKS, 1, 1) BOUNDS(TEAM, cluster_threads<Op>(TEAM))
    cluster(ARGUMENTS)
{
    rows_body<Op, VEC, PACKS, TEAM, HOW, BLOCKS, Extra...>(GIVEN);
}
#endif

/* Tiny rows: the elements of 128 rows, neighbours in memory, go to shared memory as
 * they are, from there each thread takes a row to registers, VEC elements at a time,
 * and back. */
template <class Op, int N, int VEC, int HOW, class... Extra>
__global__ void __launch_bounds__(128) tile(ARGUMENTS)
{
    typedef typename Op::Type T;
    typedef typename Op::Item Item;
    enum { THREADS = 128, PER_WORD = 16 / sizeof(T), PACKS = N / VEC };
    enum { WORDS = N * THREADS / PER_WORD, TURNS = (WORDS + THREADS - 1) / THREADS };
    extern __shared__ uint4 stage[];
    Op op(x, second, y, temperature, extra...);
    const i64 first = (i64)blockIdx.x * THREADS, left = rows - first;
    const int count = (left < THREADS ? (int)left : THREADS) * N;
    const int thread = threadIdx.x;
    for (int input = 0; input < Op::INPUTS; input++) {
        if (!has_input(op, input))
            break;
        const T *from = op.in[input] + first * N;
        T *to = (T *)(stage + input * WORDS);
        uint4 word[TURNS];
        int whole = HOW == WHOLE ? count / PER_WORD : 0;
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++)
            if (turn * THREADS + thread < whole)
                word[turn] = load_word((const uint4 *)from + turn * THREADS + thread);
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++)
            if (turn * THREADS + thread < whole)
                stage[input * WORDS + turn * THREADS + thread] = word[turn];
        for (int i = whole * PER_WORD + thread; i < count; i += THREADS)
            to[i] = from[i];
    }
    __syncthreads();
    const bool live = thread * N < count;
    const i64 number = first + thread;
    T *own = (T *)stage + thread * N;
    typename Op::Row row;
    Item item[N];
    if (live) {
        Pack<T, VEC> raw[PACKS][Op::INPUTS];
#pragma unroll
        for (int k = 0; k < PACKS; k++)
#pragma unroll
            for (int input = 0; input < Op::INPUTS; input++) {
                raw[k][input] = neutral_pack<Op, VEC>(op, input);
                if (has_input(op, input))
                    raw[k][input] =
                        load_near<VEC>(own + input * (N * THREADS) + k * VEC);
            }
        if (op.mask)
#pragma unroll
            for (int k = 0; k < PACKS; k++)
                take_out(&raw[k][0], load<false, VEC>(op.mask + number * N + k * VEC));
        row = op.begin(number, N);
        auto read = [&] {
#pragma unroll
            for (int k = 0; k < PACKS; k++)
                op.template items<VEC>(raw[k], item + k * VEC);
        };
        read();
        State<Op> state = state_of(op, row, item, [](int i) { return (i64)i; });
        op.finish(row, state.peak, state.sum);
        op.write_row(row, number);
        if constexpr (Op::HAS_RESULTS && !Op::KEEPS)
            read();
    }
    if constexpr (!Op::HAS_RESULTS)
        return;
    if (!y)
        return;
    if (live)
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            typename Op::Real real[VEC];
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                int i = k * VEC + j;
                real[j] = op.must_look_again(row) && !op.mask[number * N + i]
                              ? Op::masked_result()
                              : op.result(row, item[i], i);
            }
            store_near(own + k * VEC, rounded<T, VEC>(real));
        }
    __syncthreads();
    T *to = (T *)y + first * N;
    const int whole = HOW == WHOLE ? count / PER_WORD : 0;
    for (int i = thread; i < whole; i += THREADS) store_word((uint4 *)to + i, stage[i]);
    for (int i = whole * PER_WORD + thread; i < count; i += THREADS)
        to[i] = ((T *)stage)[i];
}

/* Long rows, first launch: a block to a chunk, whose state it writes. */
template <class Op, int VEC, int PACKS, int TEAM, int HOW, class... Extra>
KERNEL(TEAM)
split_states(ARGUMENTS)
{
    typedef Held<Op, VEC, PACKS, TEAM, HOW> Part;
    __shared__ State<Op> parts[TEAM / 32];
    Op op(x, second, y, temperature, extra...);
    const i64 chunks = (n - 1) / chunk + 1, number = blockIdx.x / chunks;
    const i64 begin = blockIdx.x % chunks * chunk;
    const i64 end = begin + chunk < n ? begin + chunk : n;
    typename Op::Row row = op.begin(number, n);
    State<Op> state = no_state<Op>();
    for (i64 first = begin; first < end; first += Part::ELEMENTS) {
        Part held(number, first, end, n);
        typename Op::Item item[Part::ITEMS];
        held.read(op);
        state = join_states(op, state, held.state(op, row, item));
    }
    state = team_all<Op, TEAM, 1>(op, state, parts);
    if (threadIdx.x == 0)
        write_state((State<Op> *)states + blockIdx.x, state);
}

/* Second launch: every block joins its row's states, and writes the results of its
 * chunk. */
template <class Op, int VEC, int PACKS, int TEAM, int HOW, class... Extra>
KERNEL(TEAM)
split_results(ARGUMENTS)
{
    typedef Held<Op, VEC, PACKS, TEAM, HOW> Part;
    Op op(x, second, y, temperature, extra...);
    const bool results = Op::HAS_RESULTS && y;
    const i64 chunks = (n - 1) / chunk + 1, blocks = results ? chunks : 1;
    const i64 number = blockIdx.x / blocks, begin = blockIdx.x % blocks * chunk;
    const i64 end = begin + chunk < n ? begin + chunk : n;
    typename Op::Row row = op.begin(number, n);
    State<Op> state =
        all_chunks(op, (const State<Op> *)states + number * chunks, chunks);
    if constexpr (Op::HAS_PEAK)
        op.take_peak(row, state.peak);
    op.finish(row, state.peak, state.sum);
    if (begin == 0 && threadIdx.x == 0)
        op.write_row(row, number);
    for (i64 first = begin; results && first < end; first += Part::ELEMENTS) {
        Part held(number, first, end, n);
        typename Op::Item item[Part::ITEMS];
        if constexpr (Op::READS_AGAIN) {
            held.read(op);
            held.template prepare<false>(op, row, item);
        }
        held.write(op, row, item, (typename Op::Type *)y);
    }
}
