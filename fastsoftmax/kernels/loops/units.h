/* How each loop's job is cut into units, and what is done between its steps: for every
 * type and ISA; included by loops/rows.h. No result depends on where the softmax family
 * is cut; the losses, which are added up unit by unit, are cut by shape alone.
 */

/* ---- the softmax family ---- */

/* Long rows in pieces: some rows at a time, a step for each pass over them. Behind this
 * are the rows' states, and their pieces. */
typedef struct {
    ptrdiff_t first, most, count; /* the rows */
} F(shared_rows);

static inline F(long_row_state) *F(states_of)(const fs_job *job)
{
    return (F(long_row_state) *)((F(shared_rows) *)job->partial + 1);
}

static inline F(piece) *F(pieces_of)(const fs_job *job, ptrdiff_t row)
{
    const F(shared_rows) *shared = job->partial;
    F(piece) *piece = (F(piece) *)(F(states_of)(job) + shared->most);
    return piece + row * F(pieces_of_row)(job);
}

static ptrdiff_t F(begin_pieces)(fs_job *job, int step)
{
    ptrdiff_t pieces = F(pieces_of_row)(job);
    if (step == 0) { /* rows enough to keep the threads busy */
        ptrdiff_t most = fs_least(job->outer, (4 * job->threads - 1) / pieces + 1);
        size_t row = sizeof(F(long_row_state)) + (size_t)pieces * sizeof(F(piece));
        job->partial = malloc(sizeof(F(shared_rows)) + (size_t)most * row);
        if (!job->partial)
            return -1;
        *(F(shared_rows) *)job->partial = (F(shared_rows)){0, most, 0};
    }
    F(shared_rows) *shared = job->partial;
    F(long_row_state) *state = F(states_of)(job);
    int done = 1;
    for (ptrdiff_t r = 0; r < shared->count && !fs_stopped(job->watch); r++) {
        fs_line line = fs_locate(job, shared->first + r);
        if (state[r].pass != F(DONE))
            F(join_pieces)(job, line, F(pieces_of)(job, r), &state[r]);
        done = done && state[r].pass == F(DONE);
    }
    if (done) {
        shared->first += shared->count;
        shared->count = fs_least(shared->most, job->outer - shared->first);
        for (ptrdiff_t r = 0; r < shared->count; r++) F(begin_row)(job, &state[r]);
    }
    if (shared->count > 0 && !fs_stopped(job->watch))
        return shared->count * pieces;
    free(job->partial);
    return 0;
}

static void F(unit_of_pieces)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t pieces = F(pieces_of_row)(job), r = unit / pieces, i = unit % pieces;
    const F(shared_rows) *shared = job->partial;
    fs_line line = fs_locate(job, shared->first + r);
    F(do_piece)(job, line, i, &F(states_of)(job)[r], &F(pieces_of)(job, r)[i]);
}

static void F(unit_of_rows)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t first = unit * job->step, last = fs_least(job->outer, first + job->step);
    if (job->loop == FS_LONG_ROWS)
        for (ptrdiff_t row = first; row < last; row++) F(long_row)(job, row);
    else if (job->loop == FS_GRADIENT_ROWS)
        F(vjp_rows)(job, first, last);
    else if (job->loop == FS_SHORT_ROWS)
        F(fs_short_rows)(job, first, last);
    else
        F(rows_of_a_block)(job, first, last);
}

static ptrdiff_t F(begin_gradients)(fs_job *job)
{
    job->step = FS_TILE;
    /* FS_NARROW is a vector's worth of float32 in AVX-512, too: less is a waste. */
    ptrdiff_t share =
        job->inner * job->outer / (2 * job->threads) / FS_NARROW * FS_NARROW;
    if (job->threads > 1 && share < job->step)
        job->step = share > FS_NARROW ? share : FS_NARROW;
    return (job->inner + job->step - 1) / job->step * job->outer;
}

/* ---- the losses ---- */

static inline ptrdiff_t F(pieces_of_loss)(const fs_job *job)
{
    return job->loop == FS_SHARED_LOSSES ? (job->n + FS_PIECE - 1) / FS_PIECE : 0;
}

static inline ptrdiff_t F(units_of_losses)(const fs_job *job)
{
    ptrdiff_t pieces = F(pieces_of_loss)(job);
    return pieces ? job->outer * job->inner * pieces : fs_loss_units(job);
}

static fs_pair F(total_of_pieces)(fs_job *job)
{
    const fs_hinge_part *of_piece = job->partial;
    fs_pair total = {0, 0};
    for (ptrdiff_t set = 0; set < job->outer * job->inner; set++) {
        fs_hinge_part part = fs_hinge_nothing();
        for (ptrdiff_t i = 0; i < F(pieces_of_loss)(job); i++)
            part = fs_hinge_join(part, *of_piece++);
        total = F(hinge_finish)(job, set, part, total);
    }
    return total;
}

static ptrdiff_t F(begin_losses)(fs_job *job, int step)
{
    ptrdiff_t pieces = F(pieces_of_loss)(job), units = F(units_of_losses)(job);
    size_t size = pieces ? sizeof(fs_hinge_part) : sizeof(fs_pair);
    if (step == 0) {
        job->partial = malloc((size_t)units * size);
        return job->partial ? units : -1;
    }
    fs_pair total = {0, 0};
    if (fs_stopped(job->watch))
        units = 0; /* not all of them are there */
    else if (pieces)
        total = fs_pair_add(total, F(total_of_pieces)(job));
    for (ptrdiff_t unit = 0; !pieces && unit < units; unit++)
        total = fs_pair_add(total, ((const fs_pair *)job->partial)[unit]);
    free(job->partial);
    job->total = total.hi + total.lo;
    return 0;
}

static void F(unit_of_losses)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t pieces = F(pieces_of_loss)(job);
    if (pieces)
        ((fs_hinge_part *)job->partial)[unit] =
            F(hinge_piece)(job, unit / pieces, unit % pieces);
    else
        ((fs_pair *)job->partial)[unit] = F(loss_unit)(job, unit);
}

/* ---- all ---- */

static ptrdiff_t F(begin)(fs_job *job, int step)
{
    if (step == 0) {
        job->past_caches = F(fills_the_cache)(job);
        job->chunk = job->inner < FS_NARROW ? 1024 : 256;
        job->loop = F(loop_for)(job);
    }
    switch (job->loop) {
    case FS_LOSS_ROWS:
    case FS_LOSS_COLUMNS:
    case FS_SHARED_LOSSES: return F(begin_losses)(job, step);
#if !T_IS_F32
    case FS_BUNDLES:
    case FS_SHARED_BUNDLES: return F(begin_bundles)(job, step);
#endif
    case FS_SHARED_ROWS: return F(begin_pieces)(job, step);
    case FS_TALL_COLUMNS: return F(begin_chunks)(job, step);
    case FS_PARTS: return F(begin_parts)(job, step);
    case FS_TILES:
    case FS_STRIPS: return F(begin_tiles)(job, step);
    case FS_GRADIENT_TILES: return step > 0 ? 0 : F(begin_gradients)(job);
    default: return step > 0 ? 0 : F(cut_into_units)(job, job->outer, job->n);
    }
}

static void F(unit)(fs_job *job, int step, ptrdiff_t unit)
{
    switch (job->loop) {
    case FS_LOSS_ROWS:
    case FS_LOSS_COLUMNS:
    case FS_SHARED_LOSSES: F(unit_of_losses)(job, unit); break;
#if !T_IS_F32
    case FS_BUNDLES:
    case FS_SHARED_BUNDLES: F(unit_of_bundles)(job, step, unit); break;
#endif
    case FS_SHARED_ROWS: F(unit_of_pieces)(job, unit); break;
    case FS_TALL_COLUMNS: F(unit_of_chunks)(job, step, unit); break;
    case FS_PARTS: F(unit_of_parts)(job, unit); break;
    case FS_TILES:
    case FS_STRIPS: F(unit_of_tiles)(job, unit); break;
    case FS_GRADIENT_TILES: F(gradients)(job, unit); break;
    default: F(unit_of_rows)(job, unit);
    }
}
