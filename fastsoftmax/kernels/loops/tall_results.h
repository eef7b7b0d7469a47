/* Tall columns: the last of their steps, and units. Included by loops/rows.h. */

/* What brings a chunk's terms to the columns' shift. */
static void F(find_powers)(const double *k, ptrdiff_t columns, F(run) *r)
{
    for (ptrdiff_t c = 0; c < columns; c += LANES)
        V(store)(r->power + c, F(exponent_of_max)(V(load)(r->lanes.sets.max + c)));
#pragma omp simd
    for (ptrdiff_t c = 0; c < columns; c++)
        r->power[c] = (REAL)fs_power(k[c] - (double)r->power[c]);
    F(spread)(columns, r->period + LANES, r->power);
}

static void F(begin_results)(const fs_job *job, const F(joined) *joined,
                             const double *k, ptrdiff_t columns, F(run) *r)
{
    const F(sets) *of = &joined->sets;
    F(sets) *sets = &r->lanes.sets;
    const REAL *from[] = {of->max, of->hi, of->lo, of->rest, of->top, of->share};
    REAL *to[] = {sets->max, sets->hi, sets->lo, sets->rest, sets->top, sets->share};
    r->period = (FS_TILE - LANES) / columns * columns;
    r->careful = joined->careful;
    r->made = F(keeps_in_y)(job) && !r->careful ? RESCALED : NOT_MADE;
    for (int field = 0; field < (r->careful ? 6 : 3); field++) {
        memcpy(to[field], from[field], (size_t)columns * sizeof(REAL));
        F(spread)(columns, r->period + LANES, to[field]);
    }
    if (r->made)
        F(find_powers)(k, columns, r);
    else
        F(begin_terms)(columns, r->period + LANES, sets->max, &r->lanes);
}

static inline ptrdiff_t F(rows_of_stretch)(const fs_job *job)
{
    ptrdiff_t rows = STRETCH / fs_least(job->inner, CHUNK_COLUMNS);
    return fs_least(F(keeps_in_y)(job) ? job->chunk : rows, job->n);
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
    F(begin_results)(job, F(joined_of)(job, slab, index % tiles),
                     F(kept)(job, slab, first / most, SHIFT_, column), columns, &r);
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

static ptrdiff_t F(begin_chunks)(fs_job *job, int step)
{
    ptrdiff_t tiles = job->outer * F(tiles_of)(job), chunks = tiles * F(chunks_of)(job);
    if (step == SUMS) {
        job->partial =
            malloc((size_t)(job->outer * F(chunks_of)(job) * FIELDS * job->inner) *
                       sizeof(double) +
                   (size_t)tiles * sizeof(F(joined)));
        if (!job->partial)
            return -1;
        return F(cut_into_units)(job, chunks,
                                 job->chunk * fs_least(job->inner, CHUNK_COLUMNS));
    }
    if (step == JOIN_CHUNKS && !fs_stopped(job->watch))
        return tiles;
    if (step == PUT_RESULTS && F(writes_all)(job->op) && !fs_stopped(job->watch))
        return tiles * F(stretches_of)(job);
    free(job->partial);
    return 0;
}

static void F(unit_of_chunks)(fs_job *job, int step, ptrdiff_t unit)
{
    ptrdiff_t all = job->outer * F(tiles_of)(job) * F(chunks_of)(job);
    ptrdiff_t last = fs_least(all, (unit + 1) * job->step);
    if (step == JOIN_CHUNKS)
        F(join_columns)(job, unit);
    else if (step == PUT_RESULTS)
        F(results_of_stretch)(job, unit);
    else
        for (ptrdiff_t i = unit * job->step; i < last && !fs_stopped(job->watch); i++)
            F(sums_of_block)(job, i, fs_least(i + 1, all - 1));
}

/* ---- in parts ---- */

/* Tiles that a unit does all by itself, step after step: one, where a cache holds it
 * meanwhile (float32 2100x5000 takes .7 times as long); some, where the states of all
 * chunks, a hundredth to a tenth of x, would take more than so many bytes; or 0. No bit
 * depends on it. */
enum { MOST_KEPT_BYTES = 256 << 20, SOME_TILES = 16 };

static ptrdiff_t F(tiles_of_part)(const fs_job *job)
{
    const ptrdiff_t tiles = job->outer * F(tiles_of)(job), size = sizeof(REAL);
    ptrdiff_t of_tile = job->n * fs_least(job->inner, CHUNK_COLUMNS) * size;
    ptrdiff_t of_column = F(chunks_of)(job) * FIELDS * (ptrdiff_t)sizeof(double);
    if (of_tile <= F(cache_of)(job) / 8 &&
        (job->threads == 1 || tiles >= 4 * job->threads))
        return 1;
    return tiles >= 2 * SOME_TILES * job->threads &&
                   job->outer * job->inner > MOST_KEPT_BYTES / of_column
               ? SOME_TILES
               : 0;
}

static inline ptrdiff_t F(parts_of)(const fs_job *job)
{
    return (F(tiles_of)(job) - 1) / F(tiles_of_part)(job) + 1;
}

static ptrdiff_t F(begin_parts)(fs_job *job, int step)
{
    if (step > 0)
        return FS_RAISED(&job->lacks_memory) ? -1 : 0;
    job->lacks_memory = 0;
    return F(cut_into_units)(job, job->outer * F(parts_of)(job), job->n * job->inner);
}

static void F(all_of_part)(fs_job *job, ptrdiff_t index, fs_job *part)
{
    const ptrdiff_t parts = F(parts_of)(job), tiles = F(tiles_of_part)(job);
    ptrdiff_t first = F(start_of_tile)(job, index % parts * tiles), units;
    ptrdiff_t next = F(start_of_tile)(job, (index % parts + 1) * tiles);
    fs_line line = fs_along_inner(job, fs_locate(job, index / parts), first);
    for (int a = 0; a < FS_OPERANDS; a++) part->operand[a].data = line.at[a];
    part->inner = fs_least(next, job->inner) - first;
    for (int step = 0; (units = F(begin_chunks)(part, step)) > 0; step++)
        for (ptrdiff_t i = 0; i < units && !fs_poll(job->watch); i++)
            F(unit_of_chunks)(part, step, i);
    if (units < 0)
        FS_RAISE(&job->lacks_memory);
}

static void F(unit_of_parts)(fs_job *job, ptrdiff_t unit)
{
    fs_job part = *job;
    part.outer = part.threads = 1;
    part.n_outer = 0;
    ptrdiff_t all = job->outer * F(parts_of)(job), i = unit * job->step;
    for (; i < fs_least(all, (unit + 1) * job->step); i++)
        F(all_of_part)(job, i, &part);
}
