/* Tall columns: the last of their steps, and units. Included by loops/rows.h. */

/* What brings a chunk's terms to the columns' shift. */
static void F(find_powers)(const fs_job *job, ptrdiff_t slab, ptrdiff_t chunk,
                           ptrdiff_t column, ptrdiff_t columns, F(run) *r)
{
    const double *kept = F(kept)(job, slab, F(chunks_of)(job), MAX_, column);
    const double *k = F(kept)(job, slab, chunk, SHIFT_, column);
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) r->lanes.sets.max[c] = (REAL)kept[c];
    for (ptrdiff_t c = 0; c < columns; c += LANES)
        V(store)(r->power + c, F(exponent_of_max)(V(load)(r->lanes.sets.max + c)));
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++) {
        double bits = k[c] - (double)r->power[c] + (0x1.8p52 + 1023);
        r->power[c] = (REAL)bits_to_double(double_to_bits(bits) << 52);
    }
    F(spread)(columns, r->period + LANES, r->power);
}

static void F(begin_results)(const fs_job *job, ptrdiff_t slab, ptrdiff_t chunk,
                             ptrdiff_t column, ptrdiff_t columns, F(run) *r)
{
    F(sets) *sets = &r->lanes.sets;
    const double *kept = F(kept)(job, slab, F(chunks_of)(job), 0, column);
    const double *care = kept + CARE_ * job->inner;
    REAL *to[] = {sets->max, sets->hi, sets->lo, sets->rest, sets->top, sets->share};
    r->period = (FS_TILE - LANES) / columns * columns;
    r->careful = 0;
    for (ptrdiff_t c = 0; c < columns; c++) r->careful |= care[c] != F(PLAIN);
    r->made = F(keeps_in_y)(job) && !r->careful ? RESCALED : NOT_MADE;
    const int first = r->made ? HI_ : MAX_, last = r->careful ? SHARE_ : LO_;
    for (int field = first; field <= last; field++) {
        const double *from = kept + field * job->inner;
#pragma omp simd
        for (ptrdiff_t c = 0; c < columns; c++) to[field][c] = (REAL)from[c];
        F(spread)(columns, r->period + LANES, to[field]);
    }
    if (r->made)
        F(find_powers)(job, slab, chunk, column, columns, r);
    else
        F(begin_terms)(columns, r->period + LANES, r->lanes.sets.max, &r->lanes);
}

static inline ptrdiff_t F(rows_of_stretch)(const fs_job *job)
{
    ptrdiff_t rows = STRETCH / fs_least(job->inner, CHUNK_COLUMNS);
    return fs_least(F(keeps_in_y)(job) ? F(chunk_of)(job) : rows, job->n);
}

/* Stretch `index`, in the order of memory. */
static void F(results_of_stretch)(const fs_job *job, ptrdiff_t index)
{
    ptrdiff_t tiles = F(tiles_of)(job), most = F(rows_of_stretch)(job);
    ptrdiff_t stretches = (job->n + most - 1) / most;
    ptrdiff_t slab = index / tiles / stretches,
              column = F(start_of_tile)(job, index % tiles);
    ptrdiff_t first = index / tiles % stretches * most;
    ptrdiff_t rows = fs_least(most, job->n - first);
    ptrdiff_t columns = F(columns_of)(job, column);
    REAL buffer[FS_TILE];
    F(run) r;
    F(begin_results)(job, slab, first / most, column, columns, &r);
    fs_line line = F(line_of_row)(job, slab, first, column), from = line;
    fs_operand source = F(x_or_converted)(job, &from);
    ptrdiff_t whole = columns * (ptrdiff_t)sizeof(REAL); /* where rows have no gaps */
    int is_run = source.direct && source.n == whole && job->operand[FS_Y].n == whole &&
                 job->operand[FS_Y].type == REAL_TYPE;
    F(shape) shape = is_run ? F(shape_of)(1, rows * columns, 1)
                            : F(shape_of)(rows, columns, F(fold_for)(job, columns));
    F(rows_of) x = F(rows_from)(&shape, &source, from.at[FS_X], from.at[FS_MASK],
                                &job->operand[FS_MASK], 0);
    r.past_caches = is_run ? job->past_caches : F(goes_past_caches)(job);
    r.ahead =
        is_run ? AHEAD : ROWS_AHEAD_OF_RESULTS * source.n / (ptrdiff_t)sizeof(REAL);
    for (ptrdiff_t row = 0; row < shape.rows; row++) {
        REAL *to = F(y_at)(job, &shape, line.at[FS_Y], row, buffer);
        const REAL *of = r.made ? to : F(row_at)(&shape, &x, row, buffer);
        F(put_runs)(job->op, 1, of, 0, to, 0, F(elements_of_row)(&shape, row), &r);
        F(put_row)(job, &shape, line.at[FS_Y], row, to);
    }
    if (r.past_caches)
        stream_fence();
    for (ptrdiff_t c = 0; job->operand[FS_MASK].data && c < columns; c++)
        if (isnan(r.lanes.sets.hi[c]))
            F(rewrite_masked)(job, fs_along_inner(job, line, c), 0, rows);
}

/* ---- units ---- */

static inline ptrdiff_t F(stretches_of)(const fs_job *job)
{
    ptrdiff_t rows = F(rows_of_stretch)(job);
    return (job->n + rows - 1) / rows;
}

/* Whether a unit takes all of a tile, step after step, as a cache holds it meanwhile:
 * float32 2100x5000 takes 0.7 times as long. */
static inline int F(takes_tiles)(const fs_job *job)
{
    ptrdiff_t columns = fs_least(job->inner, CHUNK_COLUMNS);
    ptrdiff_t bytes = job->n * columns * (ptrdiff_t)sizeof(REAL);
    return bytes <= F(cache_of)(job) / 8 &&
           (job->threads == 1 || job->outer * F(tiles_of)(job) >= 4 * job->threads);
}

static ptrdiff_t F(units_of_chunks)(const fs_job *job, int step)
{
    ptrdiff_t tiles = job->outer * F(tiles_of)(job);
    if (step == SUMS)
        return (tiles * F(chunks_of)(job) + job->step - 1) / job->step;
    return step == JOIN_CHUNKS ? tiles : tiles * F(stretches_of)(job);
}

/* Blocks of some 64 thousand elements to a unit, if there are enough of them. */
static ptrdiff_t F(begin_chunks)(fs_job *job, int step)
{
    ptrdiff_t chunks = F(chunks_of)(job), tiles = job->outer * F(tiles_of)(job);
    int last = F(writes_all)(job->op) ? PUT_RESULTS : JOIN_CHUNKS;
    if (step == 0) {
        job->step = FS_PIECE / (F(chunk_of)(job) * fs_least(job->inner, CHUNK_COLUMNS));
        if (job->threads > 1)
            job->step = fs_least(job->step, tiles * chunks / (4 * job->threads));
        job->step = job->step < 1 ? 1 : job->step;
        ptrdiff_t kept = job->outer * (chunks + 1) * FIELDS * job->inner;
        job->partial = malloc((size_t)kept * sizeof(double));
        if (!job->partial)
            return -1;
    }
    if (F(takes_tiles)(job) && step == 0)
        return tiles;
    if (!F(takes_tiles)(job) && step <= last && !fs_stopped(job->watch))
        return F(units_of_chunks)(job, step);
    free(job->partial);
    return 0;
}

static void F(all_of_tall_tile)(fs_job *job, ptrdiff_t index)
{
    const ptrdiff_t tiles = F(tiles_of)(job), chunks = F(chunks_of)(job);
    const ptrdiff_t stretches = F(stretches_of)(job);
    ptrdiff_t slab = index / tiles, tile = index % tiles;
    for (ptrdiff_t i = 0; i < chunks && !F(stopped)(job, i); i++)
        F(sums_of_block)(job, (slab * chunks + i) * tiles + tile,
                         (slab * chunks + fs_least(i + 1, chunks - 1)) * tiles + tile);
    if (!fs_stopped(job->watch))
        F(join_columns)(job, index);
    for (ptrdiff_t i = 0;
         i < stretches && F(writes_all)(job->op) && !fs_poll(job->watch); i++)
        F(results_of_stretch)(job, (slab * stretches + i) * tiles + tile);
}

static void F(unit_of_chunks)(fs_job *job, int step, ptrdiff_t unit)
{
    ptrdiff_t all = job->outer * F(tiles_of)(job) * F(chunks_of)(job);
    ptrdiff_t last = fs_least(all, (unit + 1) * job->step);
    if (F(takes_tiles)(job))
        F(all_of_tall_tile)(job, unit);
    else if (step == JOIN_CHUNKS)
        F(join_columns)(job, unit);
    else if (step == PUT_RESULTS)
        F(results_of_stretch)(job, unit);
    else
        for (ptrdiff_t i = unit * job->step; i < last && !fs_stopped(job->watch); i++)
            F(sums_of_block)(job, i, fs_least(i + 1, all - 1));
}

/* ---- in parts ---- */

/* The states of all chunks take some hundredth to tenth of x: where that is more than
 * so many bytes, each unit does so many columns, or fewer than twice as many at the
 * end, all by itself. No bit depends on it. */
enum { MOST_KEPT_BYTES = 256 << 20, PART = 4096 };

static inline ptrdiff_t F(parts_of)(const fs_job *job)
{
    return job->inner < PART ? 1 : job->inner / PART;
}

static inline int F(takes_parts)(const fs_job *job)
{
    ptrdiff_t of_column = (F(chunks_of)(job) + 1) * FIELDS * (ptrdiff_t)sizeof(double);
    return job->outer * F(parts_of)(job) >= 2 * job->threads &&
           job->outer * job->inner > MOST_KEPT_BYTES / of_column;
}

static ptrdiff_t F(begin_parts)(fs_job *job, int step)
{
    if (step == 0) {
        job->lacks_memory = 0;
        return job->outer * F(parts_of)(job);
    }
    return FS_RAISED(&job->lacks_memory) ? -1 : 0;
}

static void F(unit_of_parts)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t parts = F(parts_of)(job), first = unit % parts * PART, units;
    fs_line line = fs_along_inner(job, fs_locate(job, unit / parts), first);
    fs_job part = *job;
    for (int a = 0; a < FS_OPERANDS; a++) part.operand[a].data = line.at[a];
    part.outer = part.threads = 1;
    part.n_outer = 0;
    part.inner = unit % parts < parts - 1 ? PART : job->inner - first;
    for (int step = 0; (units = F(begin_chunks)(&part, step)) > 0; step++)
        for (ptrdiff_t i = 0; i < units && !fs_poll(job->watch); i++)
            F(unit_of_chunks)(&part, step, i);
    if (units < 0)
        FS_RAISE(&job->lacks_memory);
}
