/* Lanes that are columns: what each needs, and what makes results of rows of them.
 * Included by loops/rows.h.
 */

/* What lanes need, each for its column. */
typedef struct {
    F(sets) sets;
    REAL off[FS_TILE];                   /* to be taken off x first */
    REAL least[FS_TILE], magic[FS_TILE]; /* an F(shift) */
    int clamps, lowers;                  /* whether some lane needs that */
} F(lanes);

/* The columns' values are repeated up to `count` lanes. */
static inline void F(spread)(ptrdiff_t columns, ptrdiff_t count, REAL *lanes)
{
    for (ptrdiff_t done = columns; done < count; done *= 2)
        memcpy(lanes + done, lanes,
               (size_t)fs_least(done, count - done) * sizeof *lanes);
}

FS_INLINE void F(range_of_rows)(int abreast, const REAL *const *x, ptrdiff_t width,
                                F(sets) *sets)
{
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        F(range) range = F(range_at)(sets, i);
        EACH
        {
            VEC here = F(load_some)(x[j] + i, width - i, V(set)((REAL)NAN));
            F(add_range)(FS_SOFTMAX, here, &range);
        }
        F(keep_range)(range, sets, i);
    }
}

/* The range once more, of what is above -inf. */
FS_INLINE void F(finite_of_rows)(int abreast, const REAL *const *x, ptrdiff_t width,
                                 F(sets) *sets)
{
    for (ptrdiff_t i = 0; i < width; i += LANES) {
        VEC min = V(load)(sets->min + i), count = V(load)(sets->count + i);
        EACH F(add_finite)(F(load_some)(x[j] + i, width - i, V(set)((REAL)NAN)), &min,
                           &count);
        V(store)(sets->min + i, min);
        V(store)(sets->count + i, count);
    }
}

/* Shifts that suit each lane's `top`, its max or second. */
static void F(begin_terms)(ptrdiff_t columns, ptrdiff_t count, REAL *top,
                           F(lanes) *lanes)
{
    lanes->lowers = 0;
    F(spread)(columns, count, lanes->sets.max);
    F(spread)(columns, count, top);
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        VEC off = F(subtrahend)(V(load)(lanes->sets.max + i));
        F(shift) shift = F(shift_by)(F(exponent_of)(V(sub)(V(load)(top + i), off)));
        V(store)(lanes->off + i, off);
        V(store)(lanes->least + i, shift.least);
        V(store)(lanes->magic + i, shift.magic);
    }
    for (ptrdiff_t i = 0; i < columns; i++) lanes->lowers |= lanes->off[i] != 0;
}

/* Whether terms are made by now; or made with another shift. */
enum { NOT_MADE, MADE, RESCALED };

/* What makes results of neighbouring elements. */
typedef struct {
    ptrdiff_t period; /* lanes after which columns are repeated */
    int careful;      /* whether all that a result may need is done */
    int past_caches;
    int made;        /* NOT_MADE ... */
    ptrdiff_t ahead; /* elements from x to what is needed soon */
    F(lanes) lanes;
    REAL power[FS_TILE]; /* to rescale terms by */
} F(run);

/* The results of `abreast` vectors of x, or of terms that are made, from lane c on. */
FS_INLINE void F(put_results)(int op, int made, int careful, int past_caches,
                              int abreast, const REAL *x, REAL *y, ptrdiff_t count,
                              ptrdiff_t c, const F(run) *r)
{
    const int care = careful ? F(EXACT_TOO) : F(PLAIN);
    for (int j = 0; j < abreast; j++, c += LANES) {
        F(factor) factor = F(factor_at)(&r->lanes.sets, c);
        VEC here = F(load_some)(x + j * LANES, count, V(set)(0)), s, q;
        if (!made)
            fs_prefetch(x, (j * LANES + r->ahead) * (ptrdiff_t)sizeof *x);
        if (!made && !past_caches)
            fs_prefetch(y, (j * LANES + r->ahead) * (ptrdiff_t)sizeof *y);
        if (F(writes_terms)(op) && !made) {
            F(shift) shift = {V(load)(r->lanes.least + c), V(load)(r->lanes.magic + c)};
            if (careful)
                here = V(sub)(here, V(load)(r->lanes.off + c));
            F(exp_terms)(careful, 1, &here, &shift, &s, &q);
            here = F(term)(s, q);
        }
        if (made == RESCALED)
            here = V(mul)(here, V(load)(r->power + c));
        here = F(result)(op, care, here, &factor);
        if (past_caches)
            V(stream)(y + j * LANES, here);
        else
            F(store_some)(y + j * LANES, count, here);
    }
}

/* The results of `count` elements, the first of which is in lane 0: of a row, or of
 * rows one behind the other. Past the caches go whole vectors of y. */
FS_INLINE void F(put_run)(int op, int made, int careful, int past_caches, const REAL *x,
                          REAL *y, ptrdiff_t count, const F(run) *r)
{
    const ptrdiff_t some = ABREAST * LANES;
    ptrdiff_t i = 0, c, end;
    if (past_caches) {
        i = (ptrdiff_t)((0 - (uintptr_t)y) % sizeof(VEC) / sizeof *y);
        i = fs_least(i, count);
        if (i > 0)
            F(put_results)(op, made, careful, 0, 1, x, y, i, 0, r);
    }
    for (c = i; i + LANES <= count; c = c < r->period ? c : c - r->period) {
        end = fs_least(i + r->period - c, count);
        for (; i + some <= end; i += some, c += some)
            F(put_results)(op, made, careful, past_caches, ABREAST, x + i, y + i, LANES,
                           c, r);
        for (; i < end && i + LANES <= count; i += LANES, c += LANES)
            F(put_results)(op, made, careful, past_caches, 1, x + i, y + i, LANES, c,
                           r);
    }
    if (i < count)
        F(put_results)(op, made, careful, 0, 1, x + i, y + i, count - i, c, r);
}

/* The same of some rows. Constants let the compiler leave out what is not needed. */
static void F(put_runs)(int op, ptrdiff_t rows, const REAL *x, ptrdiff_t x_pitch,
                        REAL *y, ptrdiff_t y_pitch, ptrdiff_t count, const F(run) *r)
{
    const int past = r->past_caches; /* a choice for each store costs nothing */
#define PUT(op, made, careful)                                                         \
    for (ptrdiff_t row = 0; row < rows; row++, x += x_pitch, y += y_pitch)             \
    F(put_run)(op, made, careful, past, x, y, count, r)
    if (!F(writes_terms)(op))
        PUT(FS_LOG_SOFTMAX, MADE, 0);
    else if (r->made == RESCALED)
        PUT(FS_SOFTMAX, RESCALED, 0);
    else if (r->careful)
        PUT(FS_SOFTMAX, NOT_MADE, 1);
    else
        PUT(FS_SOFTMAX, NOT_MADE, 0);
#undef PUT
}
