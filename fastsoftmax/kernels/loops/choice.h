/* Which loop takes a job: all of that choice, and what it is made by, but for two that
 * change no bit: few_rows (strips.h), tiles_of_part (tall_results.h).
 * Included by loops/rows.h. Bits depend on n, and of narrow columns on inner: bounds on
 * these are the same on every machine. Bounds on bytes, which are parts of the largest
 * cache, choose between loops of the same bits, as threads do.
 *
 * What set the bounds is float32 on AVX-512, in ns an element where no ratio is given
 * (Zen 4, L2 1 MiB, L3 32 MiB). Rows: BLOCK of loops/rows.h, SHORT of
 * loops/short_rows.h, SHORT_GRADIENT of ops/vjp.h. */
enum {
    /* Fewer rows are not worth a flight: two and three of 2000 take 1.03 to 1.11 times
     * as long in one, of 100 .94 to 1.0 times (both types, AVX2 too). */
    FEW_ROWS = 4,
    /* 600x1000: strips .34, tall .71; 2000x5000: tiles .88, 2100x5000: tall .93 */
    MOST_WHOLE = 2048,
    /* 100x7: tiles 2.9, tall 2.7; 300x7: 2.0, 1.1 */
    NARROW_TALL = 128
};

/* Where x and y fill more than half of the largest cache, y goes past the caches: rows
 * of 1000 from 16 MB on take .8 times as long. */
static int F(fills_the_cache)(const fs_job *job)
{
    return job->operand[FS_X].data != job->operand[FS_Y].data &&
           2 * F(bytes_of)(job) > job->cache;
}

/* Whether strips find x and y in a cache: 100x10000: tiles .48, strips .41; 100x20000:
 * .86, 1.5. Small slabs follow each other in memory, and are fetched ahead. */
static int F(is_near)(const fs_job *job)
{
    return F(is_in_cache)(job) ||
           F(bytes_of)(job) / job->outer <= F(cache_of)(job) / 32;
}

static fs_loop F(loop_for)(const fs_job *job)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    const ptrdiff_t n = job->n, inner = job->inner, sets = job->outer * inner;
    const int plain = x->direct && y->type == REAL_TYPE;
    const int idle = job->threads > 1 && sets < 2 * job->threads; /* threads would be */

#if !T_IS_F32
    if (F(is_weighted)(job))
        return F(are_shared_bundles)(job) ? FS_SHARED_BUNDLES : FS_BUNDLES;
#endif
    if (fs_is_loss(job) && fs_loss_by_columns(job))
        return FS_LOSS_COLUMNS;
    if (fs_is_loss(job))
        return idle && n >= 2 * FS_PIECE && fs_loss_has_parts(job) ? FS_SHARED_LOSSES
                                                                   : FS_LOSS_ROWS;
    if (inner > 1 && F(is_vjp)(job))
        return FS_GRADIENT_TILES;
    if (inner > 1 && (n > MOST_WHOLE || (inner < FS_NARROW && n >= NARROW_TALL)))
        return F(tiles_of_part)(job) ? FS_PARTS : FS_TALL_COLUMNS;
    if (inner >= LANES && plain && F(is_near)(job) &&
        (n > FEW ? F(HAS_STRIPS) : F(does_few)(job)))
        return FS_STRIPS;
    if (inner > 1)
        return FS_TILES;

    if ((idle && n >= 2 * FS_PIECE) || n > F(MOST_PIECES) *FS_PIECE)
        return FS_SHARED_ROWS;
    if (n > BLOCK)
        return FS_LONG_ROWS;
    if (F(is_vjp)(job))
        return n <= SHORT_GRADIENT ? FS_SHORT_ROWS : FS_GRADIENT_ROWS;
    if (n <= SHORT)
        return FS_SHORT_ROWS;
    if (!F(writes_terms)(job->op))
        return FS_LOG_ROWS;
    return !plain || job->past_caches || job->outer < FEW_ROWS ? FS_ROWS_ONE_BY_ONE
                                                               : FS_ROWS_IN_FLIGHT;
}
