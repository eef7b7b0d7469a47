/* Columns: n rows of `inner` neighbouring elements, each column a line of its own, in
 * tiles of at most FS_TILE columns. Every lane is a column with its own maximum, shift and sums;
 * included by rows_body.h.
 */

/* What is known of the columns of one tile. */
typedef struct {
    F(norms) norms;
    REAL skip[FS_TILE];  /* what pass 2 leaves out once: the maximum, then NaN */
    REAL total[FS_TILE], lost[FS_TILE]; /* an F(sum) over the latest rows */
    int lowers;          /* whether something is to be taken off some column first */
} F(tile);

/* The next `count` elements of row `row` of the tile, or of the columns from `line`. */
static inline const REAL *F(read_row)(const fs_source *source, fs_line line,
                                      ptrdiff_t row, ptrdiff_t count, REAL *buffer)
{
    const char *mask = line.mask ? line.mask + row * source->mask_n : NULL;
    return F(read)(source, line.x + row * source->n, source->inner, mask,
                   source->mask_inner, count, buffer);
}

static inline REAL *F(y_row)(const fs_job *job, fs_line line, ptrdiff_t row)
{
    return (REAL *)(line.y + row * job->y_n);
}

static void F(tile_max)(fs_job *job, fs_line line, ptrdiff_t width, F(tile) *tile)
{
    REAL buffer[FS_TILE];
    VEC none = V(set)((REAL)-INFINITY);
    for (ptrdiff_t j = 0; j < width; j += LANES)
        V(store)(tile->norms.max + j, none);
    for (ptrdiff_t row = 0; row < job->n; row++) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(&job->watch))
            return;
        REAL *to = F(keeps_terms)(job) ? F(y_row)(job, line, row) : buffer;
        const REAL *x = F(read_row)(&job->source, line, row, width, to);
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            VEC here = V(load_part)(x + j, fs_least(LANES, width - j), none);
            V(store)(tile->norms.max + j, V(max)(here, V(load)(tile->norms.max + j)));
        }
    }
}

/* `rows` (at most 4) rows' terms at columns [j, j + part), added to the sums. */
FS_INLINE void F(column_terms)(const REAL *x[4], REAL *e[4], int rows, ptrdiff_t j,
                               ptrdiff_t part, int with_largest, F(tile) *tile)
{
    VEC none = V(set)((REAL)-INFINITY);
    VEC skip = V(load)(tile->skip + j);
    F(shift) shift = F(shift_for)(V(load)(tile->norms.max + j));
    F(sum) sum = {V(load)(tile->total + j), V(load)(tile->lost + j)};
    VEC from[ABREAST], s[ABREAST], q[ABREAST];
    for (int i = 0; i < rows; i++) {
        from[i] = V(load_part)(x[i] + j, part, none);
        if (!with_largest) {
            VEC left = V(if_equal)(from[i], skip, none, from[i]);
            skip = V(if_equal)(from[i], skip, V(set)((REAL)NAN), skip);
            from[i] = left;
        }
    }
    F(exp_terms)(rows, from, &shift, s, q);
    for (int i = 0; i < rows; i++) {
        VEC term = F(term)(s[i], q[i]);
        F(add_term)(&sum, s[i], q[i], term, with_largest);
        if (e[i])
            V(store_part)(e[i] + j, part, term);
    }
    V(store)(tile->total + j, sum.total);
    V(store)(tile->lost + j, sum.lost);
    V(store)(tile->skip + j, skip);
}

/* Moves the latest rows' sums to those of the rows before. */
/* A row less what is to be taken off its columns first: in place where that is nothing. */
static inline const REAL *F(lowered_row)(const REAL *x, ptrdiff_t width, const F(tile) *tile,
                                         REAL *buffer)
{
    for (ptrdiff_t j = 0; tile->lowers && j < width; j++) {
        REAL max = tile->norms.max[j];
        int lowers = !(-SUBTRACT_FROM < max && max < SUBTRACT_FROM);
        buffer[j] = lowers ? x[j] - max : x[j];
    }
    return tile->lowers ? buffer : x;
}

static void F(settle)(F(tile) *tile, ptrdiff_t width, REAL start)
{
    for (ptrdiff_t j = 0; j < width; j++) {
        fs_pair before = {tile->norms.sum[j], tile->norms.error[j]};
        fs_pair latest = {tile->total[j] - start, tile->lost[j]};
        fs_pair all = fs_pair_add(before, latest);
        tile->norms.sum[j] = all.hi;
        tile->norms.error[j] = all.lo;
        tile->total[j] = start;
        tile->lost[j] = 0;
    }
}

static void F(tile_sum)(fs_job *job, fs_line line, ptrdiff_t width, F(tile) *tile)
{
    fs_source source = F(source_after_max)(job, &line);
    REAL buffer[4][FS_TILE];
    int with_largest = job->op == FS_SOFTMAX;
    REAL start = F(start)(with_largest);
    int store = job->op == FS_SOFTMAX && F(keeps_terms)(job);
    for (ptrdiff_t j = 0; j < width; j++)
        tile->norms.sum[j] = tile->norms.error[j] = 0;
    tile->lowers = 0;
    for (ptrdiff_t j = 0; j < width; j += LANES) {
        VEC max = V(load)(tile->norms.max + j);
        V(store)(tile->skip + j, V(sub)(max, F(subtrahend)(max)));
        V(store)(tile->total + j, V(set)(start));
        V(store)(tile->lost + j, V(set)(0));
    }
    for (ptrdiff_t j = 0; j < width; j++)
        if (!(-SUBTRACT_FROM < tile->norms.max[j] && tile->norms.max[j] < SUBTRACT_FROM))
            tile->lowers = 1;
    for (ptrdiff_t row = 0; row < job->n; row += 4) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(&job->watch))
            return;
        const REAL *x[4];
        REAL *e[4] = {NULL, NULL, NULL, NULL};
        int rows = (int)fs_least(4, job->n - row);
        for (int i = 0; i < rows; i++) {
            x[i] = F(read_row)(&source, line, row + i, width, buffer[i]);
            x[i] = F(lowered_row)(x[i], width, tile, buffer[i]);
            e[i] = store ? F(y_row)(job, line, row + i) : NULL;
        }
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            ptrdiff_t part = fs_least(LANES, width - j);
            /* Constants let the compiler unroll and leave out what is not needed. */
            if (rows == 4 && with_largest)
                F(column_terms)(x, e, 4, j, part, 1, tile);
            else if (rows == 4)
                F(column_terms)(x, e, 4, j, part, 0, tile);
            else
                F(column_terms)(x, e, rows, j, part, with_largest, tile);
        }
        if (row % BLOCK == BLOCK - 4)
            F(settle)(tile, width, start);
    }
    F(settle)(tile, width, start);
}

/* The line of one column of the tile. */
static inline fs_line F(column)(const fs_source *source, const fs_job *job, fs_line line,
                                ptrdiff_t j)
{
    const char *mask = line.mask ? line.mask + j * source->mask_inner : NULL;
    return (fs_line){line.x + j * source->inner, {mask}, line.y + j * job->y_inner};
}

/* What pass 3 multiplies with or subtracts. */
static void F(tile_norms)(const fs_job *job, fs_line line, ptrdiff_t width, F(tile) *tile)
{
    fs_line from = line;
    fs_source source = F(source_after_max)(job, &from);
    F(finish_norms)(job->op, width, &tile->norms);
    for (ptrdiff_t j = 0; j < width; j++)
        if (F(is_special)(job->op, &tile->norms, j))
            F(special_log_sum)(job, &source, F(column)(&source, job, from, j), &tile->norms,
                               j);
}

static void F(write_log_sums)(const fs_job *job, fs_line line, ptrdiff_t width,
                              const F(tile) *tile)
{
    ptrdiff_t size = job->y_type == FS_F64 ? 8 : job->y_type == FS_F32 ? 4 : 2;
    if (job->y_inner == size) {
        F(write)(tile->norms.hi, width, line.y, job->y_type);
        return;
    }
    for (ptrdiff_t j = 0; j < width; j++)
        F(write)(tile->norms.hi + j, 1, line.y + j * job->y_inner, job->y_type);
}

/* Pass 3 of one row of the tile. */
static inline void F(finish_row)(fs_op op, const REAL *x, REAL *y, ptrdiff_t width,
                                 const F(tile) *tile, int terms_are_kept)
{
    for (ptrdiff_t j = 0; j < width; j += LANES) {
        ptrdiff_t part = fs_least(LANES, width - j);
        VEC hi = V(load)(tile->norms.hi + j), lo = V(load)(tile->norms.lo + j);
        VEC a = V(load_part)(x + j, part, hi);
        if (op == FS_SOFTMAX && !terms_are_kept) {
            F(shift) shift = F(shift_for)(V(load)(tile->norms.max + j));
            VEC s, q;
            F(exp_terms)(1, &a, &shift, &s, &q);
            a = F(term)(s, q);
        }
        VEC result = op == FS_SOFTMAX ? V(times_pair)(a, hi, lo)
                                      : V(sub)(V(sub)(a, hi), lo);
        V(store_part)(y + j, part, result);
    }
}

static void F(tile_finish)(fs_job *job, fs_line line, ptrdiff_t width,
                           const F(tile) *tile)
{
    fs_line from = line;
    fs_source source = F(source_after_max)(job, &from);
    REAL buffer[FS_TILE];
    for (ptrdiff_t row = 0; row < job->n; row++) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(&job->watch))
            return;
        if (F(keeps_terms)(job)) {
            REAL *y = F(y_row)(job, line, row);
            const REAL *x = y;
            if (job->op != FS_SOFTMAX)
                x = F(read_row)(&source, from, row, width, buffer);
            F(finish_row)(job->op, x, y, width, tile, 1);
        } else {
            const REAL *x = F(read_row)(&source, from, row, width, buffer);
            if (job->op == FS_SOFTMAX)
                x = F(lowered_row)(x, width, tile, buffer);
            F(finish_row)(job->op, x, buffer, width, tile, 0);
            F(write)(buffer, width, line.y + row * job->y_n, job->y_type);
        }
    }
}

/* All passes of one tile; `tile` holds the norms then. */
static void F(work_tile)(fs_job *job, fs_line line, ptrdiff_t width, F(tile) *tile)
{
    F(tile_max)(job, line, width, tile);
    F(tile_sum)(job, line, width, tile);
    F(tile_norms)(job, line, width, tile);
    if (job->op == FS_LOGSUMEXP)
        F(write_log_sums)(job, line, width, tile);
    else if (!job->watch.stop)
        F(tile_finish)(job, line, width, tile);
}

static void F(columns)(fs_job *job, ptrdiff_t index)
{
    ptrdiff_t tiles = (job->inner + job->tile - 1) / job->tile;
    ptrdiff_t first = index % tiles * job->tile;
    ptrdiff_t width = fs_least(job->tile, job->inner - first);
    fs_line line = F(column)(&job->source, job, fs_locate(job, index / tiles), first);
    if (F(is_vjp)(job)) {
        F(vjp_columns)(job, line, width);
        return;
    }
    F(tile) tile;
    F(work_tile)(job, line, width, &tile);
    for (ptrdiff_t j = 0; job->mask && j < width; j++)
        if (job->op != FS_LOGSUMEXP && isnan(tile.norms.hi[j]))
            F(rewrite_masked)(job, F(column)(&job->source, job, line, j), 0, job->n);
}

/* Short rows are worked on as columns of a transposed copy: no sum or maximum across
 * lanes, and one norm a lane. Lanes do not see each other, so a row's result is the same
 * bits whatever rows are beside it. */
#define SHORT (2 * LANES) /* n from which a row of its own is faster */
#define SHORT_ROWS 64 /* at once: with SHORT elements each, they fit the L1 cache */

/* `count` rows from row `first` on, each at most SHORT long. */
static void F(some_short_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t count)
{
    REAL cells[2 * LANES * SHORT_ROWS], row[2 * LANES], results[SHORT_ROWS];
    ptrdiff_t width = count > LANES ? SHORT_ROWS : LANES;
    fs_job columns; /* only what work_tile looks at is set */
    columns.op = job->op;
    columns.n_outer = 0;
    columns.y_type = REAL_TYPE;
    columns.n = job->n;
    columns.source = (fs_source){1, REAL_TYPE, 0, width * sizeof *cells, sizeof *cells,
                                 0, 0, 1.0, 0};
    columns.y_n = columns.source.n;
    columns.y_inner = sizeof *cells;
    columns.watch = job->watch;
    for (ptrdiff_t j = 0; j < count; j++) {
        fs_line line = fs_locate(job, first + j);
        const REAL *x = F(read)(&job->source, line.x, job->source.n, line.mask,
                                job->source.mask_n, job->n, row);
        for (ptrdiff_t i = 0; i < job->n; i++)
            cells[i * width + j] = x[i];
    }
    REAL *y = job->op == FS_LOGSUMEXP ? results : cells;
    fs_line all = {(const char *)cells, {NULL}, (char *)y};
    F(tile) tile;
    F(work_tile)(&columns, all, count, &tile);
    for (ptrdiff_t j = 0; j < count; j++) {
        fs_line line = fs_locate(job, first + j);
        if (job->op == FS_LOGSUMEXP) {
            F(write)(results + j, 1, line.y, job->y_type);
            continue;
        }
        REAL *to = job->y_type == REAL_TYPE ? (REAL *)line.y : row;
        for (ptrdiff_t i = 0; i < job->n; i++)
            to[i] = cells[i * width + j];
        if (job->y_type != REAL_TYPE)
            F(write)(row, job->n, line.y, job->y_type);
        if (job->mask && isnan(tile.norms.hi[j]))
            F(rewrite_masked)(job, line, 0, job->n);
    }
}

static void F(short_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    for (ptrdiff_t row = first; row < last; row += SHORT_ROWS)
        F(some_short_rows)(job, row, fs_least(SHORT_ROWS, last - row));
}
