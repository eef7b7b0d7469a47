/* Columns: n rows of `inner` neighbouring elements, each column a line of its own, in
 * tiles of at most FS_TILE columns. Every lane is a column with its own maximum, shift and sums;
 * included by rows_body.h.
 */

/* What is known of the columns of one tile. */
typedef struct {
    REAL max[FS_TILE];
    REAL skip[FS_TILE];  /* what pass 2 leaves out once: the maximum, then NaN */
    REAL hi[FS_TILE], lo[FS_TILE]; /* the factor or the logarithm, for pass 3 */
    double sum[FS_TILE], error[FS_TILE];
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
        V(store)(tile->max + j, none);
    for (ptrdiff_t row = 0; row < job->n; row++) {
        if (row > 0 && row % FS_TILE == 0 && job->poll(job))
            return;
        REAL *to = F(keeps_terms)(job) ? F(y_row)(job, line, row) : buffer;
        const REAL *x = F(read_row)(&job->source, line, row, width, to);
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            VEC here = V(load_part)(x + j, fs_least(LANES, width - j), none);
            V(store)(tile->max + j, V(max)(here, V(load)(tile->max + j)));
        }
    }
}

/* `rows` (at most 4) rows' terms at columns [j, j + part), added to the sums. */
static inline void F(column_terms)(const REAL *x[4], REAL *e[4], int rows, ptrdiff_t j,
                                   ptrdiff_t part, int but_one, F(tile) *tile)
{
    VEC s[4], q[4], none = V(set)((REAL)-INFINITY);
    VEC skip = V(load)(tile->skip + j);
    F(shift) shift = F(shift_for)(V(load)(tile->max + j));
    WIDE sum = V(wide_load)(tile->sum + j, tile->error + j);
    for (int i = 0; i < rows; i++) {
        VEC from = V(load_part)(x[i] + j, part, none);
        if (but_one) {
            VEC left = V(if_equal)(from, skip, none, from);
            skip = V(if_equal)(from, skip, V(set)((REAL)NAN), skip);
            from = left;
        }
        q[i] = F(exp_terms)(from, &shift, &s[i]);
        if (e[i])
            V(store_part)(e[i] + j, part, F(term)(s[i], q[i]));
        if (rows < 4)
            F(add_term)(&sum, s[i], q[i]);
    }
    if (rows == 4)
        F(add_four_terms)(&sum, s, q);
    V(wide_store)(sum, tile->sum + j, tile->error + j);
    V(store)(tile->skip + j, skip);
}

static void F(tile_sum)(fs_job *job, fs_line line, ptrdiff_t width, F(tile) *tile)
{
    fs_source source = F(source_after_max)(job, &line);
    REAL buffer[4][FS_TILE];
    int but_one = job->op != FS_SOFTMAX;
    int store = job->op == FS_SOFTMAX && F(keeps_terms)(job);
    memcpy(tile->skip, tile->max, sizeof tile->skip);
    memset(tile->sum, 0, sizeof tile->sum);
    memset(tile->error, 0, sizeof tile->error);
    for (ptrdiff_t row = 0; row < job->n; row += 4) {
        if (row > 0 && row % FS_TILE == 0 && job->poll(job))
            return;
        const REAL *x[4];
        REAL *e[4] = {NULL, NULL, NULL, NULL};
        int rows = (int)fs_least(4, job->n - row);
        for (int i = 0; i < rows; i++) {
            x[i] = F(read_row)(&source, line, row + i, width, buffer[i]);
            e[i] = store ? F(y_row)(job, line, row + i) : NULL;
        }
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            ptrdiff_t part = fs_least(LANES, width - j);
            if (rows == 4) /* a constant lets the compiler unroll */
                F(column_terms)(x, e, 4, j, part, but_one, tile);
            else
                F(column_terms)(x, e, rows, j, part, but_one, tile);
        }
    }
}

/* The line of one column of the tile. */
static inline fs_line F(column)(const fs_job *job, fs_line line, ptrdiff_t j)
{
    const char *mask = line.mask ? line.mask + j * job->source.mask_inner : NULL;
    return (fs_line){line.x + j * job->source.inner, mask, line.y + j * job->y_inner};
}

static void F(tile_norms)(fs_job *job, fs_line line, ptrdiff_t width, F(tile) *tile)
{
    for (ptrdiff_t j = 0; j < width; j++) {
        fs_pair sum = {tile->sum[j], 0};
#if !T_IS_F32
        sum = fs_two_sum(tile->sum[j], tile->error[j]);
#endif
        fs_norm norm = F(row_norm)(job, F(column)(job, line, j), tile->max[j], sum);
        fs_pair pair = job->op == FS_SOFTMAX ? norm.factor : norm.log_sum;
        tile->hi[j] = (REAL)pair.hi;
        tile->lo[j] = (REAL)pair.lo;
    }
}

/* Pass 3 of one row of the tile. */
static inline void F(finish_row)(fs_op op, const REAL *x, REAL *y, ptrdiff_t width,
                                 const F(tile) *tile, int terms_are_kept)
{
    for (ptrdiff_t j = 0; j < width; j += LANES) {
        ptrdiff_t part = fs_least(LANES, width - j);
        VEC hi = V(load)(tile->hi + j), lo = V(load)(tile->lo + j);
        VEC a = V(load_part)(x + j, part, hi);
        if (op == FS_SOFTMAX && !terms_are_kept) {
            F(shift) shift = F(shift_for)(V(load)(tile->max + j));
            VEC s, q = F(exp_terms)(a, &shift, &s);
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
        if (row > 0 && row % FS_TILE == 0 && job->poll(job))
            return;
        if (F(keeps_terms)(job)) {
            REAL *y = F(y_row)(job, line, row);
            const REAL *x = y;
            if (job->op != FS_SOFTMAX)
                x = F(read_row)(&source, from, row, width, buffer);
            F(finish_row)(job->op, x, y, width, tile, 1);
        } else {
            const REAL *x = F(read_row)(&source, from, row, width, buffer);
            F(finish_row)(job->op, x, buffer, width, tile, 0);
            F(write)(buffer, width, line.y + row * job->y_n, job->y_type);
        }
    }
}

static void F(columns)(fs_job *job, ptrdiff_t index)
{
    ptrdiff_t tiles = (job->inner + job->tile - 1) / job->tile;
    ptrdiff_t first = index % tiles * job->tile;
    ptrdiff_t width = fs_least(job->tile, job->inner - first);
    fs_line line = F(column)(job, fs_locate(job, index / tiles), first);
    F(tile) tile;
    F(tile_max)(job, line, width, &tile);
    F(tile_sum)(job, line, width, &tile);
    F(tile_norms)(job, line, width, &tile);
    if (job->op == FS_LOGSUMEXP || job->stop)
        return;
    F(tile_finish)(job, line, width, &tile);
    for (ptrdiff_t j = 0; job->mask && j < width; j++)
        if (isnan(tile.hi[j]))
            F(rewrite_masked)(job, F(column)(job, line, j), 0, job->n);
}
