/* How a job is cut into units, and what is done between its steps: for every type and
 * ISA; included by loops/rows.h. No result depends on where the softmax family is cut;
 * the losses, which are added up unit by unit, are cut by shape alone.
 */

/* ---- the softmax family ---- */

/* Few long rows: a step for each pass over them, piece by piece. */
enum { F(FIND_MAX), F(ADD_UP), F(FINISH) };

typedef struct {
    double max;
    ptrdiff_t block; /* where it was found */
    fs_pair sum;
} F(piece);

static inline ptrdiff_t F(pieces_of_row)(const fs_job *job)
{
    return (job->n + FS_PIECE - 1) / FS_PIECE;
}

/* The pieces of all rows, and behind them the rows' norms. */
static inline fs_norm *F(norms_of_rows)(const fs_job *job)
{
    return (fs_norm *)((F(piece) *)job->partial + job->outer * F(pieces_of_row)(job));
}

/* The largest of a row's pieces becomes that of each of them. */
static void F(spread_max)(F(piece) *piece, ptrdiff_t pieces)
{
    F(piece) largest = {-INFINITY, 0, {0, 0}};
    for (ptrdiff_t i = 0; i < pieces; i++)
        if (piece[i].max > largest.max)
            largest = piece[i];
    for (ptrdiff_t i = 0; i < pieces; i++) {
        piece[i].max = largest.max;
        piece[i].block = largest.block;
    }
}

static ptrdiff_t F(begin_pieces)(fs_job *job, int step)
{
    ptrdiff_t pieces = F(pieces_of_row)(job), all = job->outer * pieces;
    if (step == 0)
        job->partial = malloc((size_t)all * sizeof(F(piece)) +
                              (size_t)job->outer * sizeof(fs_norm));
    F(piece) *piece = job->partial;
    if (!piece)
        return -1;
    int pass = step + F(is_vjp)(job), done = pass > F(FINISH);
    for (ptrdiff_t row = 0; step > 0 && row < job->outer; row++, piece += pieces) {
        if (fs_stopped(job->watch))
            done = 1;
        else if (pass == F(ADD_UP))
            F(spread_max)(piece, pieces);
        else if (pass == F(FINISH)) {
            fs_pair sum = {0, 0};
            for (ptrdiff_t i = 0; i < pieces; i++) sum = fs_pair_add(sum, piece[i].sum);
            F(norms_of_rows)(job)[row] =
                F(row_norm)(job, fs_locate(job, row), piece->max, sum);
        }
    }
    if (!done && !(pass == F(FINISH) &&job->op == FS_LOGSUMEXP))
        return all;
    free(job->partial);
    return 0;
}

static void F(unit_of_pieces)(fs_job *job, int step, ptrdiff_t unit)
{
    ptrdiff_t pieces = F(pieces_of_row)(job), row = unit / pieces;
    ptrdiff_t first = unit % pieces * FS_PIECE,
              last = fs_least(job->n, first + FS_PIECE);
    F(piece) *piece = (F(piece) *)job->partial + unit;
    fs_line line = fs_locate(job, row);
    switch (step + F(is_vjp)(job)) {
    case F(FIND_MAX):
        piece->max = F(row_max)(job, line, first, last, &piece->block);
        break;
    case F(ADD_UP):
        piece->sum = F(row_sum)(job, line, first, last, piece->max, piece->block);
        break;
    case F(FINISH):
        F(row_finish)(job, line, first, last, F(norms_of_rows)(job) + row);
        break;
    }
}

/* Decides how the work is cut: columns into tiles, rows into blocks of some rows, or
 * rows that are fewer than would keep the threads busy into pieces. */
static void F(cut)(fs_job *job)
{
    ptrdiff_t threads = job->threads, share;
    if (job->inner > 1) {
        job->cut = FS_BY_TILES;
        job->step = FS_TILE;
        /* FS_NARROW is a vector's worth of float32 in AVX-512, too: less is a waste. */
        share = job->inner * job->outer / (2 * threads) / FS_NARROW * FS_NARROW;
        if (threads > 1 && share < job->step)
            job->step = share > FS_NARROW ? share : FS_NARROW;
    } else if (threads > 1 && job->outer < 2 * threads && job->n >= 2 * FS_PIECE) {
        job->cut = FS_BY_PIECES;
    } else {
        job->cut = FS_BY_ROWS;
        job->step = FS_PIECE / job->n;
        if (threads > 1)
            job->step = fs_least(job->step, job->outer / (4 * threads));
        job->step = job->step < 1 ? 1 : job->step;
    }
}

/* ---- the hinge losses ---- */

static int F(cut_hinge)(fs_job *job)
{
    ptrdiff_t sets = job->outer * job->inner, units, size = sizeof(double);
    job->cut = fs_hinge_by_columns(job) ? FS_BY_TILES : FS_BY_ROWS;
    units = fs_hinge_units(job);
    if (job->cut == FS_BY_ROWS && job->threads > 1 && job->n >= 2 * FS_PIECE &&
        units < 2 * job->threads) {
        job->cut = FS_BY_PIECES;
        units = sets * F(pieces_of_row)(job);
        size = sizeof(fs_hinge_part);
    }
    job->total = 0;
    job->partial = units == 1 ? &job->total : malloc((size_t)(units * size));
    return job->partial ? 0 : -1;
}

static double F(total_of_pieces)(fs_job *job)
{
    ptrdiff_t pieces = F(pieces_of_row)(job);
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
    ptrdiff_t units = by_pieces ? job->outer * job->inner * F(pieces_of_row)(job)
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
    ptrdiff_t pieces = F(pieces_of_row)(job);
    if (job->cut == FS_BY_PIECES)
        ((fs_hinge_part *)job->partial)[unit] =
            F(hinge_piece)(job, unit / pieces, unit % pieces);
    else
        ((double *)job->partial)[unit] = F(hinge_unit)(job, unit);
}

/* ---- both ---- */

static ptrdiff_t F(begin)(fs_job *job, int step)
{
    if (job->op == FS_HINGE)
        return F(begin_hinge)(job, step);
    if (step == 0)
        F(cut)(job);
    if (job->cut == FS_BY_PIECES)
        return F(begin_pieces)(job, step);
    if (step > 0)
        return 0;
    ptrdiff_t length = job->cut == FS_BY_TILES ? job->inner : job->outer;
    ptrdiff_t units = (length + job->step - 1) / job->step;
    return job->cut == FS_BY_TILES ? units * job->outer : units;
}

static void F(unit)(fs_job *job, int step, ptrdiff_t unit)
{
    if (job->op == FS_HINGE)
        F(unit_of_hinge)(job, unit);
    else if (job->cut == FS_BY_PIECES)
        F(unit_of_pieces)(job, step, unit);
    else if (job->cut == FS_BY_TILES)
        F(columns)(job, unit);
    else
        F(rows)(job, unit * job->step, fs_least(job->outer, (unit + 1) * job->step));
}
