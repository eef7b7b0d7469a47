/* How a job is cut into units, and what is done between its steps: for every type and
 * ISA; included by loops/rows.h. No result depends on where the softmax family is cut;
 * the losses, which are added up unit by unit, are cut by shape alone.
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

/* Which loop takes columns. Bits depend on n alone, as strips and tiles give the same;
 * of fewer columns than FS_NARROW they may depend on inner. What set the bounds is
 * float32 on AVX-512 (Zen 4, L2 1 MiB, L3 32 MiB), in ns an element. */
enum {
    MOST_WHOLE = 2048,    /* 600x1000: strips .34, chunks .71; 2000x5000: tiles .88,
                           * 2100x5000: chunks .93 */
    NARROW_CHUNKS = 128,  /* 100x7: tiles 2.9, chunks 2.7; 300x7: 2.0, 1.1 */
    LEAST_STRIP = 16,     /* 13x3001: tiles .60, strips .68; 24x3000: .68, .61 */
    NEAR_BYTES = 12 << 20 /* of x and y. 100x10000: tiles .48, strips .41; 100x20000:
                           * .86, strips 1.5 */
};

static fs_cut F(cut_of_columns)(const fs_job *job)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    ptrdiff_t slab = 2 * job->n * job->inner * (ptrdiff_t)sizeof(REAL);
    /* Small slabs follow each other in memory, and are fetched ahead. */
    int near = job->outer * slab <= NEAR_BYTES || slab <= NEAR_BYTES / 12;
    if (job->n > MOST_WHOLE || (job->inner < FS_NARROW && job->n >= NARROW_CHUNKS))
        return F(takes_parts)(job) ? FS_BY_PARTS : FS_BY_CHUNKS;
    if (F(HAS_STRIPS) &&near && job->n >= LEAST_STRIP && job->inner >= LANES &&
        x->direct && y->type == REAL_TYPE)
        return FS_BY_STRIPS;
    return FS_BY_TILES;
}

/* Decides how the work is cut: columns into tiles, rows into blocks of some rows, or
 * rows that are fewer than would keep the threads busy into pieces. */
static void F(cut)(fs_job *job)
{
    ptrdiff_t threads = job->threads, share;
    if (job->inner > 1 && !F(is_vjp)(job)) {
        job->cut = F(cut_of_columns)(job);
    } else if (job->inner > 1) {
        job->cut = FS_BY_TILES;
        job->step = FS_TILE;
        /* FS_NARROW is a vector's worth of float32 in AVX-512, too: less is a waste. */
        share = job->inner * job->outer / (2 * threads) / FS_NARROW * FS_NARROW;
        if (threads > 1 && share < job->step)
            job->step = share > FS_NARROW ? share : FS_NARROW;
    } else if ((threads > 1 && job->outer < 2 * threads && job->n >= 2 * FS_PIECE) ||
               job->n > F(MOST_PIECES) *FS_PIECE) {
        job->cut = FS_BY_PIECES;
    } else {
        job->cut = FS_BY_ROWS;
        job->step = 4 * FS_PIECE / job->n;
        if (threads > 1)
            job->step = fs_least(job->step, job->outer / (4 * threads));
        job->step = job->step < 1 ? 1 : job->step;
    }
}

/* ---- the hinge losses ---- */

static inline ptrdiff_t F(pieces_of_hinge)(const fs_job *job)
{
    return (job->n + FS_PIECE - 1) / FS_PIECE;
}

static int F(cut_hinge)(fs_job *job)
{
    ptrdiff_t sets = job->outer * job->inner, units, size = sizeof(double);
    int by_columns = job->op == FS_HINGE && fs_hinge_by_columns(job);
    job->cut = by_columns ? FS_BY_TILES : FS_BY_ROWS;
    units = fs_hinge_units(job);
    if (job->op == FS_HINGE && job->cut == FS_BY_ROWS && job->threads > 1 &&
        job->n >= 2 * FS_PIECE && units < 2 * job->threads) {
        job->cut = FS_BY_PIECES;
        units = sets * F(pieces_of_hinge)(job);
        size = sizeof(fs_hinge_part);
    }
    job->total = 0;
    job->partial = units == 1 ? &job->total : malloc((size_t)(units * size));
    return job->partial ? 0 : -1;
}

static double F(total_of_pieces)(fs_job *job)
{
    ptrdiff_t pieces = F(pieces_of_hinge)(job);
    const fs_hinge_part *of_piece = job->partial;
    double total = 0;
    for (ptrdiff_t set = 0; set < job->outer * job->inner; set++) {
        fs_hinge_part part = fs_hinge_nothing();
        for (ptrdiff_t i = 0; i < pieces; i++) part = fs_hinge_join(part, *of_piece++);
        total += F(hinge_finish)(job, set, part);
    }
    return total;
}

static ptrdiff_t F(begin_hinge)(fs_job *job, int step)
{
    if (step == 0 && F(cut_hinge)(job) < 0)
        return -1;
    int by_pieces = job->cut == FS_BY_PIECES;
    ptrdiff_t units = by_pieces ? job->outer * job->inner * F(pieces_of_hinge)(job)
                                : fs_hinge_units(job);
    if (step == 0)
        return units;
    double total = 0;
    if (fs_stopped(job->watch))
        units = 0; /* not all of them are there */
    else if (by_pieces)
        total = F(total_of_pieces)(job);
    for (ptrdiff_t unit = 0; !by_pieces && unit < units; unit++)
        total += ((const double *)job->partial)[unit];
    if (job->partial != &job->total)
        free(job->partial);
    job->total = total;
    return 0;
}

static void F(unit_of_hinge)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t pieces = F(pieces_of_hinge)(job);
    if (job->cut == FS_BY_PIECES)
        ((fs_hinge_part *)job->partial)[unit] =
            F(hinge_piece)(job, unit / pieces, unit % pieces);
    else
        ((double *)job->partial)[unit] = job->op == FS_HINGE
                                             ? F(hinge_unit)(job, unit)
                                             : F(cross_entropy_unit)(job, unit);
}

/* ---- both ---- */

static ptrdiff_t F(begin)(fs_job *job, int step)
{
    if (job->op == FS_HINGE || job->op == FS_CROSS_ENTROPY)
        return F(begin_hinge)(job, step);
#if !T_IS_F32
    if (job->op == FS_WEIGHTED)
        return F(begin_bundles)(job, step);
#endif
    if (step == 0)
        F(cut)(job);
    if (job->cut == FS_BY_PIECES)
        return F(begin_pieces)(job, step);
    if (job->cut == FS_BY_CHUNKS)
        return F(begin_chunks)(job, step);
    if (job->cut == FS_BY_PARTS)
        return F(begin_parts)(job, step);
    if (job->inner > 1 && !F(is_vjp)(job))
        return F(begin_tiles)(job, step);
    if (step > 0)
        return 0;
    ptrdiff_t length = job->cut == FS_BY_TILES ? job->inner : job->outer;
    ptrdiff_t units = (length + job->step - 1) / job->step;
    return job->cut == FS_BY_TILES ? units * job->outer : units;
}

static void F(unit)(fs_job *job, int step, ptrdiff_t unit)
{
    if (job->op == FS_HINGE || job->op == FS_CROSS_ENTROPY)
        F(unit_of_hinge)(job, unit);
#if !T_IS_F32
    else if (job->op == FS_WEIGHTED)
        F(unit_of_bundles)(job, step, unit);
#endif
    else if (job->cut == FS_BY_PIECES)
        F(unit_of_pieces)(job, unit);
    else if (job->cut == FS_BY_CHUNKS)
        F(unit_of_chunks)(job, step, unit);
    else if (job->cut == FS_BY_PARTS)
        F(unit_of_parts)(job, unit);
    else if (job->inner > 1 && !F(is_vjp)(job))
        F(unit_of_tiles)(job, unit);
    else if (job->cut == FS_BY_TILES)
        F(gradients)(job, unit);
    else
        F(rows)(job, unit * job->step, fs_least(job->outer, (unit + 1) * job->step));
}
