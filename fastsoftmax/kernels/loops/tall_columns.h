/* Tall columns: cut along n into chunks, by n alone. Included by
 * loops/rows.h.
 *
 * A block is one chunk of some columns. Blocks are independent, for any threads:
 *
 *   SUMS      each chunk's range, and its sum with a shift of its own; reads x
 *   JOIN      the states of all chunks of a column become its factor, in order
 *   PUT_RESULTS   reads x again, as its terms would take as long to be written and read
 *
 * Rows of few columns are folded: several of them, one behind the other, make one row
 * of the block, so that few lanes lie idle. Row r of a chunk is added to partial sum
 * r % LANES however rows are folded: no bit depends on how many columns there are.
 */

/* Columns of a block, at most: x stays in the second-level cache from its range to its
 * terms. Less than FS_TILE by a vector: see F(spread). */
enum { CHUNK_COLUMNS = 960 / (int)sizeof(REAL) };

/* Elements to a unit of PUT_RESULTS, some: no bit depends on it. */
enum { STRETCH = 32768, ROWS_AHEAD_OF_RESULTS = 8 };

enum { SUMS, JOIN_CHUNKS, PUT_RESULTS };

/* What is kept of a chunk of a column: its state. Doubles hold REALs exactly. */
enum { MAX_, MIN_, COUNT_, SHIFT_, SUM_, COMPENSATION_, FIELDS };

static inline ptrdiff_t F(chunks_of)(const fs_job *job)
{
    return job->n <= job->chunk ? 1 : (job->n + job->chunk - 1) / job->chunk;
}

/* Columns that the first tile lacks, so that the others begin where lines of y do. */
static inline ptrdiff_t F(columns_lacking)(const fs_job *job)
{
    return job->inner > CHUNK_COLUMNS ? F(columns_before)(job) : 0;
}

static inline ptrdiff_t F(tiles_of)(const fs_job *job)
{
    ptrdiff_t columns = job->inner + F(columns_lacking)(job);
    return (columns + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
}

static inline ptrdiff_t F(start_of_tile)(const fs_job *job, ptrdiff_t tile)
{
    return tile > 0 ? tile * CHUNK_COLUMNS - F(columns_lacking)(job) : 0;
}

static inline ptrdiff_t F(columns_of)(const fs_job *job, ptrdiff_t first)
{
    ptrdiff_t most =
        first > 0 ? CHUNK_COLUMNS : CHUNK_COLUMNS - F(columns_lacking)(job);
    return fs_least(most, job->inner - first);
}

static inline double *F(kept)(const fs_job *job, ptrdiff_t slab, ptrdiff_t chunk,
                              int field, ptrdiff_t column)
{
    ptrdiff_t index = (slab * F(chunks_of)(job) + chunk) * FIELDS + field;
    return (double *)job->partial + index * job->inner + column;
}

/* What is known of a tile's columns after JOIN; behind the chunks' states. */
typedef struct {
    F(sets) sets;
    int careful; /* whether results need all care */
} F(joined);

static inline F(joined) *F(joined_of)(const fs_job *job, ptrdiff_t slab, ptrdiff_t tile)
{
    F(joined) *joined = (F(joined) *)F(kept)(job, job->outer, 0, 0, 0);
    return joined + slab * F(tiles_of)(job) + tile;
}

typedef struct {
    ptrdiff_t slab, chunk, column;
    fs_line line; /* where it begins */
    F(shape) shape;
    F(rows_of) from;
    ptrdiff_t whole; /* rows of the full width */
    F(lanes) lanes;
} F(block);

/* What is read after SUMS has converted x into y, if it has. */
static inline fs_operand F(x_or_converted)(const fs_job *job, fs_line *line)
{
    if (job->operand[FS_X].direct || !F(keeps_terms)(job))
        return job->operand[FS_X];
    line->at[FS_X] = line->at[FS_Y];
    line->at[FS_MASK] = NULL;
    return F(plain)(NULL, job->operand[FS_Y].n);
}

/* As many rows side by side as leave the fewest lanes idle; of rows with gaps one. */
static inline ptrdiff_t F(fold_for)(const fs_job *job, ptrdiff_t columns)
{
    ptrdiff_t best = 1, lanes = (columns + LANES - 1) / LANES * LANES;
    const fs_operand *x = &job->operand[FS_X];
    const int gaps = x->n != columns * x->inner;
    ptrdiff_t most = gaps ? 1 : fs_least(LANES, FS_TILE / columns);
    for (ptrdiff_t fold = 2; fold <= most; fold *= 2) {
        ptrdiff_t here = (fold * columns + LANES - 1) / LANES * LANES;
        if (here * best <= lanes * fold) {
            best = fold;
            lanes = here;
        }
    }
    return best;
}

/* Whether y keeps the terms, each chunk's with its own shift: a power of two apart from
 * those made again, so that results are the same. float32 5000x100 takes 0.88 times as
 * long; from memory, terms are made again. */
static inline int F(keeps_in_y)(const fs_job *job)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    return F(writes_terms)(job->op) && x->direct && y->type == REAL_TYPE &&
           x->data != y->data && x->n == y->n && !job->past_caches;
}

/* Row `first` of slab and column. */
static fs_line F(line_of_row)(const fs_job *job, ptrdiff_t slab, ptrdiff_t first,
                              ptrdiff_t column)
{
    fs_line line = fs_along_inner(job, fs_locate(job, slab), column);
    line.at[FS_X] += first * job->operand[FS_X].n;
    if (line.at[FS_MASK])
        line.at[FS_MASK] += first * job->operand[FS_MASK].n;
    if (F(writes_all)(job->op))
        line.at[FS_Y] += first * job->operand[FS_Y].n;
    return line;
}

/* Blocks are numbered in the order of memory. */
static fs_line F(line_of_block)(const fs_job *job, ptrdiff_t index)
{
    ptrdiff_t tiles = F(tiles_of)(job), chunks = F(chunks_of)(job);
    return F(line_of_row)(job, index / tiles / chunks,
                          index / tiles % chunks * job->chunk,
                          F(start_of_tile)(job, index % tiles));
}

static void F(begin_block)(const fs_job *job, ptrdiff_t index, F(block) *b)
{
    ptrdiff_t tiles = F(tiles_of)(job), chunks = F(chunks_of)(job);
    b->slab = index / tiles / chunks;
    b->chunk = index / tiles % chunks;
    b->column = F(start_of_tile)(job, index % tiles);
    b->line = F(line_of_block)(job, index);
    ptrdiff_t columns = F(columns_of)(job, b->column);
    ptrdiff_t rows = fs_least(job->chunk, job->n - b->chunk * job->chunk);
    b->shape = F(shape_of)(rows, columns, F(fold_for)(job, columns));
    b->whole = b->shape.rows - (b->shape.last < b->shape.width);
    b->from = F(rows_from)(&b->shape, &job->operand[FS_X], b->line.at[FS_X],
                           b->line.at[FS_MASK], &job->operand[FS_MASK], 0);
}

/* Elements of the rows from `row` on, `apart` rows apart. */
static inline void F(read_rows)(const F(block) *b, int abreast, ptrdiff_t row,
                                ptrdiff_t apart, const REAL **x,
                                REAL buffer[ABREAST][FS_TILE])
{
    for (int j = 0; j < abreast; j++)
        x[j] = F(row_at)(&b->shape, &b->from, row + j * apart, buffer[j]);
}

/* ---- SUMS: the range ---- */

/* x goes to y where that can hold it, for all that follows. */
static void F(convert_into_y)(const fs_job *job, F(block) *b)
{
    REAL buffer[FS_TILE];
    for (ptrdiff_t row = 0; row < b->shape.rows; row++) {
        REAL *to = F(y_row)(job, &b->shape, b->line.at[FS_Y], row, buffer);
        F(stage_row)(&b->shape, &b->from, row, to);
        F(put_row)(job, &b->shape, b->line.at[FS_Y], row, to);
    }
    fs_operand source = F(x_or_converted)(job, &b->line);
    b->from = F(rows_from)(&b->shape, &source, b->line.at[FS_X], NULL, NULL, 0);
}

static void F(walk_range)(F(block) *b, int finite)
{
    REAL buffer[ABREAST][FS_TILE];
    for (ptrdiff_t row = 0; row < b->shape.rows;) {
        const REAL *x[ABREAST];
        int abreast = row + ABREAST <= b->whole ? ABREAST : 1;
        ptrdiff_t width = row < b->whole ? b->shape.width : b->shape.last;
        F(read_rows)(b, abreast, row, 1, x, buffer);
        if (finite)
            F(finite_of_rows)(abreast, x, width, &b->lanes.sets);
        else if (abreast == ABREAST) /* a constant lets the compiler unroll */
            F(range_of_rows)(ABREAST, x, width, &b->lanes.sets);
        else
            F(range_of_rows)(1, x, width, &b->lanes.sets);
        row += abreast;
    }
}

/* Ranges of the columns, in their first lanes: halves are joined, as the fold is a
 * power of two. */
static void F(join_ranges)(const F(shape) *shape, F(sets) *sets)
{
    for (ptrdiff_t half = shape->width / 2; half >= shape->columns; half /= 2)
#pragma omp simd
        for (ptrdiff_t i = 0; i < half; i++) {
            REAL max = sets->max[i + half], min = sets->min[i + half];
            sets->max[i] = max > sets->max[i] ? max : sets->max[i];
            sets->min[i] = min < sets->min[i] ? min : sets->min[i];
        }
}

static void F(find_range_of_block)(const fs_job *job, F(block) *b)
{
    F(sets) *sets = &b->lanes.sets;
    ptrdiff_t columns = b->shape.columns,
              rows = fs_least(job->chunk, job->n - b->chunk * job->chunk);
    F(no_ranges)(sets, 0, b->shape.padded);
    F(walk_range)(b, 0);
    F(join_ranges)(&b->shape, sets);
    F(no_ranges)(sets, columns, b->shape.padded);
    int depth = F(find_depth)(job->op, rows, columns, sets);
    b->lanes.clamps = depth & F(IS_DEEP);
    if (depth & F(HAS_HOLES)) {
        for (ptrdiff_t i = 0; i < b->shape.padded; i++) {
            sets->min[i] = (REAL)INFINITY;
            sets->count[i] = 0;
        }
        F(walk_range)(b, 1);
        F(join_ranges)(&b->shape, sets);
        for (ptrdiff_t i = columns; i < b->shape.width; i++)
            sets->count[i % columns] += sets->count[i];
    }
}

/* ---- SUMS: the terms ---- */

/* Adds the terms of `abreast` rows to their lanes' sums; asks for what is needed next.
 */
FS_INLINE void F(add_terms_of_rows)(int keep, int careful, int abreast,
                                    const REAL *const *x, REAL *y, ptrdiff_t y_step,
                                    ptrdiff_t width, const char *next,
                                    ptrdiff_t next_step, F(block) *b)
{
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        F(shift) shift = {V(load)(b->lanes.least + i), V(load)(b->lanes.magic + i)};
        F(sum) sum = F(sum_at)(&b->lanes.sets, i);
        VEC here[ABREAST], s[ABREAST], q[ABREAST];
        EACH here[j] = F(load_some)(x[j] + i, width - i, V(set)((REAL)-INFINITY));
        EACH fs_prefetch(next, j * next_step + i * (ptrdiff_t)sizeof(REAL));
        if (careful)
            EACH here[j] = V(sub)(here[j], V(load)(b->lanes.off + i));
        F(exp_terms)(careful, abreast, here, &shift, s, q);
        EACH
        {
            VEC e = F(term)(s[j], q[j]);
            if (keep)
                F(store_some)(y + j * y_step + i, width - i, e);
            F(add_term)(&sum, s[j], q[j], e);
        }
        V(store)(b->lanes.sets.total + i, sum.total);
        V(store)(b->lanes.sets.lost + i, sum.lost);
    }
}

/* Sums, and what double does not hold of them: of each partial sum of each column. */
typedef struct {
    double sum[LANES * CHUNK_COLUMNS], rest[LANES * CHUNK_COLUMNS];
} F(partial_sums);

/* The lanes' sums become partial sums from `first` on. */
static void F(keep_lanes)(const F(block) *b, ptrdiff_t first, F(partial_sums) *to)
{
    const REAL *total = b->lanes.sets.total, *lost = b->lanes.sets.lost;
#pragma omp simd
    for (ptrdiff_t i = 0; i < b->shape.width; i++) {
        fs_pair lane = fs_two_sum(total[i] - ABOVE, lost[i]);
        to->sum[first + i] = lane.hi;
        to->rest[first + i] = lane.lo;
    }
}

/* All partial sums of a column are joined in its first, half by half. */
static void F(join_partial_sums)(ptrdiff_t columns, F(partial_sums) *sums)
{
    for (ptrdiff_t half = LANES * columns / 2; half >= columns; half /= 2)
#pragma omp simd
        for (ptrdiff_t i = 0; i < half; i++) {
            fs_pair both = fs_two_sum(sums->sum[i], sums->sum[i + half]);
            sums->sum[i] = both.hi;
            sums->rest[i] += sums->rest[i + half] + both.lo;
        }
}

/* Partial sums of every LANES / fold-th row of the block. */
static void F(add_terms_of_block)(F(block) *b, int keep, const char *next,
                                  F(partial_sums) *sums)
{
    REAL buffer[ABREAST][FS_TILE];
    const ptrdiff_t apart = LANES / b->shape.fold;
    for (ptrdiff_t first = 0; first < apart; first++) {
        for (ptrdiff_t i = 0; i < b->shape.padded; i += LANES) {
            V(store)(b->lanes.sets.total + i, V(set)(ABOVE));
            V(store)(b->lanes.sets.lost + i, V(set)(0));
        }
        for (ptrdiff_t row = first; row < b->shape.rows;) {
            const REAL *x[ABREAST];
            ptrdiff_t width = row < b->whole ? b->shape.width : b->shape.last;
            int abreast = row + (ABREAST - 1) * apart < b->whole ? ABREAST : 1;
            F(read_rows)(b, abreast, row, apart, x, buffer);
            const char *then = next + row * b->from.step;
            ptrdiff_t step = apart * b->from.step;
            REAL *y = keep ? (REAL *)(b->line.at[FS_Y] + row * b->from.step) : NULL;
            ptrdiff_t y_step = step / (ptrdiff_t)sizeof *y; /* as x's: see keeps_in_y */
            int careful = b->lanes.clamps || b->lanes.lowers;
#define ADD(keep, careful, abreast)                                                    \
    F(add_terms_of_rows)(keep, careful, abreast, x, y, y_step, width, then, step, b)
            if (abreast == ABREAST && !careful && keep)
                ADD(1, 0, ABREAST);
            else if (abreast == ABREAST && !careful)
                ADD(0, 0, ABREAST);
            else if (abreast == ABREAST)
                ADD(0, 1, ABREAST);
            else
                ADD(keep, 1, 1);
#undef ADD
            row += abreast * apart;
        }
        F(keep_lanes)(b, first * b->shape.width, sums);
    }
    F(join_partial_sums)(b->shape.columns, sums);
}

/* Chunks of nothing but -inf have the shift -inf, and terms that are nothing. */
static void F(keep_ranges)(ptrdiff_t inner, ptrdiff_t columns, F(sets) *sets,
                           double *kept)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES)
        V(store)(sets->hi + c, F(exponent_of_max)(V(load)(sets->max + c)));
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) {
        int none = sets->max[c] == (REAL)-INFINITY;
        kept[MAX_ * inner + c] = sets->max[c];
        kept[MIN_ * inner + c] = sets->min[c];
        kept[COUNT_ * inner + c] = sets->count[c];
        kept[SHIFT_ * inner + c] = none ? -INFINITY : sets->hi[c];
        sets->max[c] = none ? 0 : sets->max[c];
    }
}

static void F(sums_of_block)(const fs_job *job, ptrdiff_t index, ptrdiff_t next)
{
    F(block) b;
    F(partial_sums) sums;
    F(begin_block)(job, index, &b);
    ptrdiff_t columns = b.shape.columns;
    if (!job->operand[FS_X].direct && F(keeps_terms)(job))
        F(convert_into_y)(job, &b);
    F(find_range_of_block)(job, &b);
    double *kept = F(kept)(job, b.slab, b.chunk, 0, b.column);
    F(keep_ranges)(job->inner, columns, &b.lanes.sets, kept);
    F(begin_terms)(columns, b.shape.padded, b.lanes.sets.max, &b.lanes);
    const char *then = job->operand[FS_X].direct ? F(line_of_block)(job, next).at[FS_X]
                                                 : b.line.at[FS_X];
    F(add_terms_of_block)(&b, F(keeps_in_y)(job), then, &sums);
    for (ptrdiff_t c = 0; c < columns; c++) {
        kept[SUM_ * job->inner + c] = sums.sum[c];
        kept[COMPENSATION_ * job->inner + c] = sums.rest[c];
    }
}

/* ---- JOIN ---- */

/* exp(off - column_off) 2^down, at most some 1, for what is taken off max and
 * column_max; 0 below 2^-1000. */
static fs_pair F(weight_of_chunk)(double max, double column_max, double down)
{
    double x = (fabs(max) < SUBTRACT_FROM ? 0 : max) -
               (fabs(column_max) < SUBTRACT_FROM ? 0 : column_max);
    if (!(x * FS_LOG2_E + down > -1000))
        return (fs_pair){0, 0};
    double whole = rint(x * FS_LOG2_E);
    fs_pair weight = fs_exp_scaled(x, whole, 1);
    double power = ldexp(1, (int)(whole + down));
    return (fs_pair){weight.hi * power, weight.lo * power};
}

/* Adds a chunk's sums to those of the columns, whose shifts are k; its own NaN or -inf:
 * only a NaN shows. It `lowers` if some max is so large that it was taken off first. */
FS_INLINE void F(add_chunk)(int lowers, ptrdiff_t inner, ptrdiff_t columns,
                            const double *kept, const REAL *max, const double *k,
                            double *sum, double *compensation)
{
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) {
        double down = kept[SHIFT_ * inner + c] - k[c], more = kept[SUM_ * inner + c];
        double power = fs_power(down > -1022 ? down : -1022);
        fs_pair weight = {power, 0}, product = {more * power, 0};
        if (lowers) {
            weight = F(weight_of_chunk)(kept[MAX_ * inner + c], max[c], down);
            product = fs_two_product(more, weight.hi);
        }
        product.lo += more * weight.lo + kept[COMPENSATION_ * inner + c] * weight.hi;
        fs_pair all = fs_two_sum(sum[c], product.hi);
        sum[c] = all.hi;
        compensation[c] += all.lo + product.lo;
    }
}

/* The columns' range and count; whether some chunk's max is to be taken off. OUT
 * second: min of all elements, which where some are -inf is not that of the others. */
static int F(join_ranges_of_chunks)(const fs_job *job, ptrdiff_t slab, ptrdiff_t first,
                                    ptrdiff_t columns, F(sets) *sets)
{
    double count[FS_TILE] = {0}, largest = 0;
    F(no_ranges)(sets, 0, FS_TILE);
    for (ptrdiff_t chunk = 0; chunk < F(chunks_of)(job); chunk++) {
        const double *max = F(kept)(job, slab, chunk, MAX_, first);
        const double *min = F(kept)(job, slab, chunk, MIN_, first);
        const double *here = F(kept)(job, slab, chunk, COUNT_, first);
#pragma omp simd
        for (ptrdiff_t c = 0; c < columns; c++) {
            sets->max[c] = max[c] > sets->max[c] ? (REAL)max[c] : sets->max[c];
            sets->min[c] = min[c] < sets->min[c] ? (REAL)min[c] : sets->min[c];
            count[c] += here[c];
            double size = isinf(max[c]) ? 0 : fabs(max[c]);
            largest = size > largest ? size : largest;
        }
    }
    memcpy(sets->second, sets->min, sizeof sets->min);
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) {
        sets->second[c] = count[c] < (double)job->n ? (REAL)-INFINITY : sets->min[c];
        sets->count[c] = (REAL)count[c];
    }
    return largest >= SUBTRACT_FROM;
}

/* The columns' sums, without their start. */
static void F(join_sums_of_chunks)(const fs_job *job, ptrdiff_t slab, ptrdiff_t first,
                                   ptrdiff_t columns, int lowers, F(sets) *sets)
{
    double sum[FS_TILE] = {0}, compensation[FS_TILE] = {0}, k[FS_TILE];
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        V(store)(sets->hi + c, F(exponent_of_max)(V(load)(sets->max + c)));
        V(store)(sets->total + c, V(set)(0));
        V(store)(sets->lost + c, V(set)(0));
    }
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) k[c] = sets->hi[c];
    for (ptrdiff_t chunk = 0; chunk < F(chunks_of)(job); chunk++) {
        const double *kept = F(kept)(job, slab, chunk, 0, first);
        if (lowers)
            F(add_chunk)(1, job->inner, columns, kept, sets->max, k, sum, compensation);
        else
            F(add_chunk)(0, job->inner, columns, kept, sets->max, k, sum, compensation);
    }
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) {
        fs_pair all = fs_two_sum(sum[c], compensation[c]);
        sets->total[c] = isinf(sets->max[c]) ? (REAL)NAN : (REAL)all.hi;
        sets->lost[c] = (REAL)((all.hi - sets->total[c]) + all.lo);
    }
}

/* What results are multiplied with at last; whether some column is deep. IN second. */
static int F(depth_of_columns)(ptrdiff_t columns, F(sets) *sets)
{
    int deep = 0;
    for (ptrdiff_t c = 0; c < columns; c += LANES) {
        F(range) range = F(range_at)(sets, c);
        VEC rest = F(rest_of)((F(range)){range.max, range.second, range.max});
        V(store)(sets->rest + c, rest);
        deep |= V(any_less)(rest, V(set)(1));
    }
    return deep;
}

static void F(join_columns)(fs_job *job, ptrdiff_t index)
{
    ptrdiff_t slab = index / F(tiles_of)(job), tile = index % F(tiles_of)(job);
    ptrdiff_t first = F(start_of_tile)(job, tile), columns = F(columns_of)(job, first);
    F(joined) *joined = F(joined_of)(job, slab, tile);
    F(sets) *sets = &joined->sets;
    int lowers = F(join_ranges_of_chunks)(job, slab, first, columns, sets);
    F(join_sums_of_chunks)(job, slab, first, columns, lowers, sets);
    joined->careful = F(depth_of_columns)(columns, sets) | lowers;
    memcpy(sets->second, sets->max, sizeof sets->max);
    joined->careful |= F(finish_sets)(job->op, columns, sets);
    fs_line line = fs_along_inner(job, fs_locate(job, slab), first);
    const double doubt = F(doubt)(job->chunk, job->chunk / LANES);
    for (ptrdiff_t c = 0; c < columns; c++)
        if (F(is_special)(job->op, doubt, sets, c)) {
            fs_line from = fs_along_inner(job, line, c);
            fs_operand source = F(x_or_converted)(job, &from);
            F(special_log_sum)(job->op, job, &source, from, sets, c);
        }
    if (!F(writes_all)(job->op))
        F(write_sets)(job, line.at[FS_Y], columns, sets->hi);
}
