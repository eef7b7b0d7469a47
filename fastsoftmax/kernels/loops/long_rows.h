/* Long rows, in chunks: x is read once, and each chunk has a shift of its own, from its
 * own max, which is found with the terms of the chunk before. Shifts are powers of two:
 * sums join exactly, and results differ by a factor that is one. Some chunks are a
 * piece, which one thread takes; threads share a row, or do not, by the same steps.
 *
 * Where the max of some chunk is so large that it has to be taken off first, and not as
 * a power of two, the row is done once more, with one max for all chunks. In place,
 * where x would be gone by then, ranges are found first. */

/* A chunk is of CHUNK elements, a row's last one of up to twice as many. */
enum { F(CHUNK) = 1024, F(CHUNKS) = FS_PIECE / F(CHUNK) };

/* The shift of chunks without a number: below that of all others, and not so far that
 * numbers overflow. */
#define NO_SHIFT (T_IS_F32 ? (REAL) - 600 : (REAL) - 4500)

typedef struct {
    REAL max, min;
    REAL least;   /* the least element above -inf, */
    double count; /* and how many are */
    double k;     /* the largest of the chunks' shifts, for which this is the sum */
    fs_pair sum;
    REAL k_of[F(CHUNKS)];
} F(piece);

enum { F(FIND_RANGE), F(ADD_UP), F(FINISH), F(DONE) };

/* A row; `pass` is what is to be done to its pieces next. */
typedef struct {
    int pass;
    REAL off; /* what is to be taken off all elements first */
    F(piece) all;
    REAL hi, lo; /* the logarithm */
} F(long_row_state);

static inline ptrdiff_t F(pieces_of_row)(const fs_job *job)
{
    ptrdiff_t pieces = job->n / FS_PIECE; /* the last chunk is never a piece alone */
    return pieces + (job->n % FS_PIECE >= F(CHUNK) || pieces == 0);
}

/* The elements from i on that are one chunk, of a piece that ends at `last`. */
static inline ptrdiff_t F(chunk_at)(ptrdiff_t i, ptrdiff_t last)
{
    return last - i < 2 * F(CHUNK) ? last - i : F(CHUNK);
}

/* K of a chunk, from its max less `off`. Where that is too low for n of math/exp.h no
 * result of the chunk is not 0, whichever shift it has. */
static inline REAL F(chunk_shift)(REAL max, REAL off)
{
    const REAL lowest = (REAL)-1.75 * SUBTRACT_FROM;
    if (max == (REAL)-INFINITY)
        return NO_SHIFT;
    max = max - off > lowest ? max - off : lowest;
    return V(largest)(F(exponent_of)(V(set)(max)));
}

/* ---- a piece ---- */

static void F(add_range_of)(const REAL *x, ptrdiff_t count, REAL max, REAL min,
                            F(piece) *piece)
{
    piece->max = max > piece->max ? max : piece->max;
    piece->min = min < piece->min ? min : piece->min;
    piece->least = min < piece->least && !isinf(min) ? min : piece->least;
    piece->count +=
        (double)(isinf(min) && min < 0 ? F(finite_of)(x, count, &piece->least) : count);
}

static void F(find_range)(const fs_job *job, fs_line line, ptrdiff_t first,
                          ptrdiff_t last, F(piece) *piece)
{
    REAL buffer[2 * F(CHUNK)], max, min;
    for (ptrdiff_t i = first, count; i < last; i += count) {
        count = F(chunk_at)(i, last);
        const REAL *x = F(read_chunk)(job, line, i, count, buffer);
        F(lanes_of)(F(range_of)(x, count), &max, &min);
        F(add_range_of)(x, count, max, min, piece);
    }
}

/* 2^d, or 0 where that is below the normal numbers, for an integer d <= 0. */
static inline double F(two_to)(double d)
{
    return d < -1022 ? 0 : bits_to_double((uint64_t)(1023 + (int)d) << 52);
}

/* Adds a sum whose shift is k. */
static void F(join)(F(piece) *to, double k, fs_pair sum)
{
    double old = F(two_to)(fmin(to->k - k, 0)), new = F(two_to)(fmin(k - to->k, 0));
    to->sum = fs_pair_add((fs_pair){to->sum.hi * old, to->sum.lo * old},
                          (fs_pair){sum.hi * new, sum.lo *new});
    to->k = k > to->k ? k : to->k;
}

/* The terms of a chunk, less `off`: for softmax to e. With the range of as many
 * elements at `ahead`, if not NULL. */
static F(range) F(do_chunk)(int op, const REAL *x, ptrdiff_t count, REAL off, REAL k,
                            int clamp, REAL *e, const REAL *ahead, F(sum) *sum)
{
    const REAL top = k * (REAL)(FS_LN2_HI + FS_LN2_LO); /* the shift for which is k */
    if (!F(writes_terms)(op))
        return F(add_up_terms)(count, x, off, top, 0, ahead, x, sum);
    F(flying) chunk;
    chunk.x = x;
    chunk.off = off;
    chunk.top = top;
    chunk.clamp = clamp;
    F(range) next = F(do_row)(count, &chunk, e, ahead, NULL, NULL);
    *sum = chunk.sum;
    return next;
}

/* Sums, and softmax's terms in y if it can hold them. `off` is what has been found to
 * be taken off all elements first, or 0. */
static void F(add_up)(const fs_job *job, fs_line line, ptrdiff_t first, ptrdiff_t last,
                      REAL off, F(piece) *piece)
{
    int direct = job->operand[FS_X].direct, keeps = F(keeps_terms)(job);
    REAL buffer[2 * F(CHUNK)], e[2 * F(CHUNK)], max, min;
    F(range) next = F(no_range)();
    const REAL *ahead = NULL;
    piece->k = 2 * NO_SHIFT;
    piece->sum = (fs_pair){0, 0};
    for (ptrdiff_t i = first, count, c = 0; i < last; i += count, c++) {
        count = F(chunk_at)(i, last);
        const REAL *x = F(read_chunk)(job, line, i, count, buffer);
        F(lanes_of)(ahead ? next : F(range_of)(x, count), &max, &min);
        if (off == 0 && max >= SUBTRACT_FROM) { /* all is to be done again */
            F(find_range)(job, line, i, last, piece);
            return;
        }
        if (off == 0)
            F(add_range_of)(x, count, max, min, piece);
        REAL k = F(chunk_shift)(max, off);
        int clamp = !(max - DEEP < min), whole;
        whole = direct && off == 0 && F(chunk_at)(i + count, last) == F(CHUNK);
        ahead = whole ? x + count : NULL;
        F(sum) sum;
        next = F(do_chunk)(job->op, x, count, off, k, clamp,
                           keeps ? (REAL *)line.at[FS_Y] + i : e, ahead, &sum);
        F(join)(piece, k, F(all_lanes)(sum));
        piece->k_of[c] = k;
    }
}

/* The factor of a chunk whose shift is by d <= 0 below the row's. Far below, results
 * may be subnormal although the row's factor is not: they are scaled down at last. */
static int F(shift_factor)(REAL d, int care, F(factor) *factor)
{
    if (d == 0)
        return care;
    VEC scale = V(set)((REAL)ldexp(1, (int)d)), rest = factor->rest;
    const int deep = d < -20;
    factor->top = V(set)((REAL)NAN);
    if (deep) {
        factor->rest = scale;
        scale = rest;
    }
    factor->hi = V(mul)(factor->hi, scale);
    factor->lo = V(mul)(factor->lo, scale);
    return deep || V(any_less)(rest, V(set)(1)) ? F(DEEP_TOO) : F(PLAIN);
}

/* The results of a piece. */
static void F(finish_piece)(const fs_job *job, fs_line line, ptrdiff_t first,
                            ptrdiff_t last, const F(long_row_state) *row,
                            const F(piece) *piece)
{
    REAL buffer[2 * F(CHUNK)];
    int keeps = F(keeps_terms)(job), terms = F(writes_terms)(job->op), care = F(PLAIN);
    const F(piece) *all = &row->all;
    F(factor) of_row = {V(set)(row->hi), V(set)(row->lo)};
    if (terms)
        care =
            F(find_factor)(all->sum, all->max, all->least, all->least < all->max - FAR,
                           !(all->max - DEEP < all->min), all->count, &of_row);
    for (ptrdiff_t i = first, count, c = 0; i < last; i += count, c++) {
        count = F(chunk_at)(i, last);
        char *y = line.at[FS_Y] + i * job->operand[FS_Y].n;
        REAL *to = keeps ? (REAL *)y : buffer;
        const REAL *from = to;
        F(factor) factor = of_row;
        REAL k = piece->k_of[c];
        int needed = terms ? F(shift_factor)(k - (REAL)all->k, care, &factor) : care;
        if (!terms || !keeps)
            from = F(read_chunk)(job, line, i, count, buffer);
        if (terms && !keeps) { /* y could not hold the terms: once more */
            F(sum) sum;
            F(do_chunk)(FS_SOFTMAX, from, count, row->off, k, 1, buffer, NULL, &sum);
            from = buffer;
        }
        F(results)(job->op, needed, from, to, count, &factor);
        if (!keeps)
            F(write)(to, count, y, job->operand[FS_Y].type);
    }
    if (line.at[FS_MASK] && isnan(V(largest)(of_row.hi)))
        F(rewrite_masked)(job, line, first, last);
}

/* ---- a row ---- */

static void F(find_log)(fs_job *job, fs_line line, F(long_row_state) *row)
{
    ptrdiff_t longest = F(CHUNK) + job->n % F(CHUNK);
    F(log_of_one)(job->op, job, &job->operand[FS_X], line, row->all.max,
                  F(as_sum)(row->all.sum), F(doubt)(longest, longest / LANES), &row->hi,
                  &row->lo);
    if (!F(writes_all)(job->op))
        F(write)(&row->hi, 1, line.at[FS_Y], job->operand[FS_Y].type);
}

static void F(begin_row)(const fs_job *job, F(long_row_state) *row)
{
    int in_place = job->operand[FS_X].data == job->operand[FS_Y].data;
    row->pass = in_place && F(writes_terms)(job->op) ? F(FIND_RANGE) : F(ADD_UP);
    row->off = 0;
}

static void F(begin_piece)(F(piece) *piece)
{
    piece->max = (REAL)-INFINITY;
    piece->min = piece->least = (REAL)INFINITY;
    piece->count = 0;
    piece->k = 2 * NO_SHIFT;
    piece->sum = (fs_pair){0, 0};
}

/* What the pass that row->pass names makes of one piece. */
static void F(do_piece)(fs_job *job, fs_line line, ptrdiff_t index,
                        const F(long_row_state) *row, F(piece) *piece)
{
    ptrdiff_t first = index * FS_PIECE, last = first + FS_PIECE;
    if (index + 1 == F(pieces_of_row)(job))
        last = job->n;
    if (row->pass != F(FINISH) &&row->off == 0)
        F(begin_piece)(piece);
    if (F(is_vjp)(job)) {
        const fs_pair *sum = row->pass == F(FINISH) ? &row->all.sum : NULL;
        piece->sum = F(vjp_pass)(job, line, first, last, sum);
    } else if (row->pass == F(FIND_RANGE)) {
        F(find_range)(job, line, first, last, piece);
    } else if (row->pass == F(ADD_UP)) {
        F(add_up)(job, line, first, last, row->off, piece);
    } else if (row->pass == F(FINISH)) {
        F(finish_piece)(job, line, first, last, row, piece);
    }
}

/* What all pieces are together, and the pass after row->pass. */
static void F(join_pieces)(fs_job *job, fs_line line, const F(piece) *piece,
                           F(long_row_state) *row)
{
    F(piece) all;
    F(begin_piece)(&all);
    for (ptrdiff_t i = 0; i < F(pieces_of_row)(job); i++) {
        all.max = piece[i].max > all.max ? piece[i].max : all.max;
        all.min = piece[i].min < all.min ? piece[i].min : all.min;
        all.least = piece[i].least < all.least ? piece[i].least : all.least;
        all.count += piece[i].count;
        F(join)(&all, piece[i].k, piece[i].sum);
    }
    row->all = all;
    REAL old_off = row->off;
    row->off = isinf(all.max) && all.max < 0 ? 0 : F(off_of)(all.max);
    if (row->pass == F(FINISH) || fs_stopped(job->watch)) {
        row->pass = F(DONE);
    } else if (row->pass == F(FIND_RANGE) || row->off != old_off) {
        row->pass = F(ADD_UP);
    } else {
        if (F(writes_terms)(job->op) && all.max == (REAL)-INFINITY)
            row->all.sum.hi = NAN;
        if (!F(writes_terms)(job->op) && !F(is_vjp)(job))
            F(find_log)(job, line, row);
        row->pass = !F(writes_all)(job->op) ? F(DONE) : F(FINISH);
    }
}

/* Rows of more pieces are always cut into them: F(begin_pieces) finds the memory. */
enum { F(MOST_PIECES) = 64 };

static void F(long_row)(fs_job *job, ptrdiff_t index)
{
    F(long_row_state) row;
    F(piece) piece[F(MOST_PIECES)];
    fs_line line = fs_locate(job, index);
    F(begin_row)(job, &row);
    while (row.pass != F(DONE)) {
        for (ptrdiff_t i = 0; i < F(pieces_of_row)(job) && !F(stopped)(job, i); i++)
            F(do_piece)(job, line, i, &row, &piece[i]);
        if (fs_stopped(job->watch))
            return;
        F(join_pieces)(job, line, piece, &row);
    }
}
