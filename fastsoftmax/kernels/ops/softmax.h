/* What softmax, log_softmax and logsumexp ask of a loop, whichever sets it holds and
 * how: in steps on vectors, whose lanes are elements of one row, or sets. `op` and
 * `care` are constants. Included by loops/rows.h.
 *
 *   1. the range: max, and for softmax min, of a set's elements
 *   2. its depth: whether results may be subnormal
 *   3. the terms and their sum: exp_terms, term, add_term of math/exp.h
 *   4. softmax: the factor that makes results of terms, and what is exact;
 *      the others: the logarithm of the sum
 *   5. the results */

/* ---- 1 and 2: range and depth ---- */

typedef struct {
    VEC max, min;
    VEC second; /* the largest but one: max if there are two of it */
} F(range);

/* Of no element: such a set is neither deep nor exact. */
FS_INLINE F(range) F(no_range)(void)
{
    VEC none = V(set)((REAL)-INFINITY);
    return (F(range)){none, V(set)((REAL)INFINITY), none};
}

/* NaN do not count. */
FS_INLINE void F(add_range)(int op, VEC x, F(range) *range)
{
    range->max = V(max)(x, range->max);
    if (op == FS_SOFTMAX)
        range->min = V(min)(x, range->min);
}

/* The same, and for logarithms second, where each lane is a set: in softmax of 150x3000
 * along axis 0 second took 1.06 times as long. */
FS_INLINE void F(add_lane_range)(int op, VEC x, F(range) *range)
{
    if (op != FS_SOFTMAX)
        range->second = V(max)(V(min)(x, range->max), range->second);
    F(add_range)(op, x, range);
}

/* The largest element but one, of the two largest that each lane has had; max if there
 * are two of it. */
static inline REAL F(second_of_lanes)(VEC first, VEC second, REAL max)
{
    REAL lanes[LANES];
    int count = 0;
    V(store)(lanes, first);
    for (int j = 0; j < LANES; j++) count += lanes[j] == max;
    return count > 1 ? max : V(largest)(V(if_equal)(first, V(set)(max), second, first));
}

/* The least element above -inf, and how many elements are. */
FS_INLINE void F(add_finite)(VEC x, VEC *min, VEC *count)
{
    VEC none = V(set)((REAL)-INFINITY);
    *min = V(min)(V(if_less)(none, x, x, V(set)((REAL)INFINITY)), *min);
    *count = V(add)(*count, V(if_less)(none, x, V(set)(1), V(set)(0)));
}

/* A set is deep if it holds an element so far below its max. Results of others, 2^31
 * elements or fewer, are at least 2^-125 (f64: 2^-1013): no term is clamped, and the
 * product of a term with the smaller part of the factor loses at most a quarter of an
 * ulp (f64: 2^-9). Of deep sets the factor is multiplied by 1 / UNSPARE, and results by
 * UNSPARE: nothing is lost before that. */
#define DEEP (T_IS_F32 ? (REAL)65 : (REAL)680)

/* What results are multiplied with at last: 1, or UNSPARE if the set is deep. */
FS_INLINE VEC F(rest_of)(F(range) range)
{
    VEC deep_below = V(sub)(range.max, V(set)(DEEP));
    return V(if_less)(deep_below, range.min, V(set)(1), V(set)((REAL)UNSPARE));
}

/* ---- 4: softmax ---- */

typedef struct {
    VEC hi, lo;     /* 1 / sum; over the rest */
    VEC rest;       /* of deep sets UNSPARE, else 1 */
    VEC top, share; /* what has this term has this result; top is NaN if nothing has */
} F(factor);

/* `sum` without its start. hi and lo are off by 2^-46 (f64: 2^-104) together, and lo is
 * at most an ulp of hi. */
FS_INLINE F(factor) F(factor_of)(F(sum) sum, VEC rest)
{
    VEC one = V(set)(1), up = V(if_less)(rest, one, V(set)((REAL)(1 / UNSPARE)), one);
    VEC none = V(set)((REAL)NAN);
    F(factor) factor = {none, none, rest, none, none};
#if defined(FS_HAS_FMA)
    VEC whole = V(add)(sum.total, sum.lost);
    VEC part = V(add)(V(sub)(sum.total, whole), sum.lost); /* exact: Fast2Sum */
    VEC zero = V(set)(0), inverse = V(div)(one, whole);
    VEC left = V(muladd)(V(sub)(zero, whole), inverse, one); /* exact */
    left = V(muladd)(V(sub)(zero, part), inverse, left);
    factor.hi = V(mul)(inverse, up);
    factor.lo = V(mul)(V(mul)(inverse, left), up);
#else
    fs_pair all = fs_two_sum(sum.total, sum.lost);
    fs_pair inverse = fs_pair_divide((fs_pair){up, 0}, all);
    factor.hi = (REAL)(inverse.hi + inverse.lo);
    factor.lo = (REAL)((inverse.hi - factor.hi) + inverse.lo);
#endif
    return factor;
}

/* The term of x, rounded, and what rounding cut off: as sums have it. */
FS_INLINE F(sum) F(term_of)(VEC x, VEC k)
{
    F(shift) shift = F(shift_by)(k);
    VEC s, q;
    F(exp_terms)(1, 1, &x, &shift, &s, &q);
    VEC term = F(term)(s, q);
    return (F(sum)){term, V(muladd)(s, q, V(sub)(s, term))};
}

/* What people look at is exact, though terms are rounded and their sum is not.
 *
 * Flat sets: all elements above -inf are one number. Their result is 1 / count.
 * Peaked ones: all others together are less than PEAKED of the largest, so that its
 * result may be 1. It is 1 - others / sum, rounded once; no other element has its term.
 * A correction of the sum instead would cost small results beside it an ulp more. */
#define PEAKED (T_IS_F32 ? (REAL)0x1p-22 : (REAL)0x1p-50)

/* Of peaked sets min is FAR below max at least, log(1 / PEAKED), and the sum is hardly
 * more than the largest term, which is at most sqrt(2) BASE 2^SPARE: below ALONE. */
#define FAR (T_IS_F32 ? (REAL)15 : (REAL)34)
#define ALONE (1.4143 * BASE / UNSPARE)

/* Whether some set may be flat or peaked; of those that are not few may. */
FS_INLINE int F(may_be_exact)(F(range) range, F(sum) sum)
{
    VEC many = V(set)((REAL)(4 / UNSPARE));
    VEC others = V(if_equal)(range.min, range.max, V(set)(0), many);
    VEC far_above = V(sub)(range.max, V(set)(FAR));
    others = V(if_less)(range.min, far_above, sum.total, others);
    return V(any_less)(others, V(set)((REAL)ALONE));
}

/* top and share. IN flat_share: of sets that are flat. */
FS_INLINE void F(set_exact)(F(range) range, F(sum) sum, VEC flat_share,
                            F(factor) *factor)
{
    VEC x = V(sub)(range.max, F(subtrahend)(range.max));
    F(sum) largest = F(term_of)(x, F(exponent_of)(x));
    VEC top = largest.total, none = V(set)((REAL)NAN);
    VEC others = V(add)(V(sub)(sum.total, top), V(sub)(sum.lost, largest.lost));
    VEC minus_hi = V(mul)(V(sub)(V(set)(0), factor->hi), factor->rest);
    VEC peak_share = V(muladd)(others, minus_hi, V(set)(1));
    VEC flat_top = V(if_equal)(range.min, range.max, top, none);
    VEC peaked_below = V(mul)(top, V(set)(PEAKED));
    top = V(if_less)(others, peaked_below, top, flat_top);
    factor->top = V(if_equal)(sum.total, sum.total, top, none); /* NaN stay so */
    factor->share = V(if_less)(others, peaked_below, peak_share, flat_share);
}

/* ---- 5: results ---- */

/* Whether results are made of terms, not of x; whether each element has one. */
FS_INLINE int F(writes_terms)(int op)
{
    return op == FS_SOFTMAX;
}
FS_INLINE int F(writes_all)(int op)
{
    return op != FS_LOGSUMEXP;
}
static inline int F(keeps_terms)(const fs_job *job)
{
    return job->operand[FS_Y].type == REAL_TYPE && F(writes_all)(job->op);
}

/* How much care results need: each includes the one before, and where it is not needed
 * changes nothing. */
enum { F(PLAIN), F(DEEP_TOO), F(EXACT_TOO) };

/* softmax: of a term; the others: of x, less hi + lo = log(sum(exp(x))). Where x is
 * next to hi the first difference is exact; elsewhere both round by half an ulp. */
FS_INLINE VEC F(result)(int op, int care, VEC a, const F(factor) *factor)
{
    if (op != FS_SOFTMAX)
        return V(sub)(V(sub)(a, factor->hi), factor->lo);
    VEC y = F(times_pair)(a, factor->hi, factor->lo);
    if (care >= F(DEEP_TOO))
        y = V(mul)(y, factor->rest);
    return care >= F(EXACT_TOO) ? V(if_equal)(a, factor->top, factor->share, y) : y;
}

/* After a NaN among those in the set made the whole set NaN: entries that are masked
 * out get what they always get. Rewrites [first, last). */
static void F(rewrite_masked)(const fs_job *job, fs_line line, ptrdiff_t first,
                              ptrdiff_t last)
{
    REAL outside = job->op == FS_SOFTMAX ? 0 : (REAL)-INFINITY;
    for (ptrdiff_t i = first; i < last; i++)
        if (!line.at[FS_MASK][i * job->operand[FS_MASK].n])
            F(write)(&outside, 1, line.at[FS_Y] + i * job->operand[FS_Y].n,
                     job->operand[FS_Y].type);
}

/* ---- the same of many sets ---- */

/* What is known of some sets, side by side, with room up to whole vectors. */
typedef struct {
    REAL max[FS_TILE], min[FS_TILE], second[FS_TILE];
    REAL count[FS_TILE];                          /* of elements above -inf */
    REAL total[FS_TILE], lost[FS_TILE];           /* the sum, without its start */
    REAL hi[FS_TILE], lo[FS_TILE], rest[FS_TILE]; /* as in F(factor) */
    REAL top[FS_TILE], share[FS_TILE];
} F(sets);

FS_INLINE F(range) F(range_at)(const F(sets) *sets, ptrdiff_t j)
{
    return (F(range)){V(load)(sets->max + j), V(load)(sets->min + j),
                      V(load)(sets->second + j)};
}

FS_INLINE void F(keep_range)(F(range) range, F(sets) *sets, ptrdiff_t j)
{
    V(store)(sets->max + j, range.max);
    V(store)(sets->min + j, range.min);
    V(store)(sets->second + j, range.second);
}

FS_INLINE F(sum) F(sum_at)(const F(sets) *sets, ptrdiff_t j)
{
    return (F(sum)){V(load)(sets->total + j), V(load)(sets->lost + j)};
}

/* What has not been found of it is not looked at. */
FS_INLINE F(factor) F(factor_at)(const F(sets) *sets, ptrdiff_t j)
{
    return (F(factor)){V(load)(sets->hi + j), V(load)(sets->lo + j),
                       V(load)(sets->rest + j), V(load)(sets->top + j),
                       V(load)(sets->share + j)};
}

/* Of the depth: terms need the clamp, results care; some set holds -inf, and its min
 * and count are to be those of its other elements. */
enum { F(IS_DEEP) = 1, F(HAS_HOLES) = 2 };

/* IN max, min. OUT rest, count. Terms of the others than softmax are always clamped,
 * instead of a search for min. */
static int F(find_depth)(int op, ptrdiff_t n, ptrdiff_t count, F(sets) *sets)
{
    VEC one = V(set)(1), lowest = V(set)((REAL)LOWEST);
    int found = op == FS_SOFTMAX ? 0 : F(IS_DEEP);
    for (ptrdiff_t j = 0; op == FS_SOFTMAX && j < count; j += LANES) {
        F(range) range = F(range_at)(sets, j);
        VEC rest = F(rest_of)(range);
        V(store)(sets->rest + j, rest);
        V(store)(sets->count + j, V(set)((REAL)n));
        found |= V(any_less)(rest, one) ? F(IS_DEEP) : 0;
        found |= V(any_less)(range.min, lowest) ? F(HAS_HOLES) : 0;
    }
    return found;
}

/* Maxima and sums become factors; whether some set has an exact result. */
static int F(find_factors)(ptrdiff_t count, F(sets) *sets)
{
    int exact = 0;
    for (ptrdiff_t j = 0; j < count; j += LANES) {
        F(sum) sum = F(sum_at)(sets, j);
        F(factor) factor = F(factor_of)(sum, V(load)(sets->rest + j));
        V(store)(sets->hi + j, factor.hi);
        V(store)(sets->lo + j, factor.lo);
        V(store)(sets->top + j, factor.top);
        exact |= F(may_be_exact)(F(range_at)(sets, j), sum);
    }
    for (ptrdiff_t j = 0; exact && j < count; j += LANES) {
        F(factor) factor = F(factor_at)(sets, j);
        VEC flat_share = V(div)(V(set)(1), V(load)(sets->count + j));
        F(set_exact)(F(range_at)(sets, j), F(sum_at)(sets, j), flat_share, &factor);
        V(store)(sets->top + j, factor.top);
        V(store)(sets->share + j, factor.share);
    }
    return exact;
}

/* ---- 4: the logarithm of the sum ----
 *
 * It is max + log1p(others / the largest term), see math/log.h: what the largest term
 * leaves to 1 is kept accurate.
 *
 * Where each lane is a set, the largest element is taken for the second in the sum, and
 * the shift suits the second. The sum less the second's term, found again by the same
 * operations, is that of the others, and at least half of the sum. So it is in rows of
 * a block whose max stands out. Elsewhere max stands for second: the others may be next
 * to nothing of the sum, see doubt. */

/* How far below the largest element no result shows others: 2^31 exp(-130) < 2^-150,
 * half the least float. |second - off| < 330 (f64: 2270) up to there: 8 / ln 2 times as
 * much is still below 2^12 (f64: 2^15). */
#define UNSEEN (T_IS_F32 ? (REAL)130 : (REAL)770)

/* The second that a shift suits. */
FS_INLINE VEC F(visible_second)(F(range) range)
{
    return V(max)(range.second, V(sub)(range.max, V(set)(UNSEEN)));
}

/* hi + lo = log(sum(exp(x))) of sets whose others have the shift k. OUT share: others,
 * over 2^SPARE: what is_special looks at. */
FS_INLINE F(pair) F(log_of_others)(VEC max, F(pair) others, VEC k, VEC *share)
{
    VEC x = V(sub)(max, F(subtrahend)(max)), own = F(exponent_of)(x);
    F(sum) largest = F(term_of)(x, own);
    F(pair) log = F(log_of_sum)(max, largest, others, V(sub)(k, own), share);
    *share = V(mul)(*share, V(mul)(largest.total, V(set)((REAL)UNSPARE)));
    return log;
}

/* The same of a sum, whose shift suits `second`; the largest was taken for that. */
FS_INLINE F(pair) F(log_of_terms)(VEC max, VEC second, F(sum) sum, VEC *share)
{
    VEC x = V(sub)(second, F(subtrahend)(max)), k = F(exponent_of)(x);
    F(sum) term = F(term_of)(x, k);
    F(pair) others = F(fast_two_sum)(sum.total, V(sub)(V(set)(0), term.total));
    others.lo = V(add)(others.lo, V(sub)(sum.lost, term.lost));
    return F(log_of_others)(max, others, k, share);
}

/* Maxima and sums become logarithms; total becomes the share. */
static void F(find_logs)(ptrdiff_t count, F(sets) *sets)
{
    for (ptrdiff_t j = 0; j < count; j += LANES) {
        VEC share;
        F(pair) log = F(log_of_terms)(V(load)(sets->max + j), V(load)(sets->second + j),
                                      F(sum_at)(sets, j), &share);
        V(store)(sets->hi + j, log.hi);
        V(store)(sets->lo + j, log.lo);
        V(store)(sets->total + j, share);
    }
}

/* Maxima, minima and sums become hi + lo; whether some result needs EXACT_TOO. */
static int F(finish_sets)(int op, ptrdiff_t count, F(sets) *sets)
{
    if (op == FS_SOFTMAX)
        return F(find_factors)(count, sets);
    F(find_logs)(count, sets);
    return 0;
}

/* ---- sets that are read once more ---- */

/* The set at `line` from element i on, plain and side by side: for every layout. */
static inline const REAL *F(read_set)(const fs_job *job, const fs_operand *source,
                                      fs_line line, ptrdiff_t i, ptrdiff_t count,
                                      REAL *buffer)
{
    const char *x = line.at[FS_X] + i * source->n;
    const fs_operand *mask = &job->operand[FS_MASK];
    if (source->direct && source->n == sizeof(REAL))
        return (const REAL *)x;
    F(stage)(source, x, source->n,
             line.at[FS_MASK] ? line.at[FS_MASK] + i * mask->n : NULL, mask->n, count,
             buffer);
    return buffer;
}

/* Elements read at a time: their scratch fits the first-level cache. */
enum { F(AGAIN) = 512 };

/* The largest element that is not `without`; NaN is none. */
static REAL F(largest_but)(fs_job *job, const fs_operand *source, fs_line line,
                           REAL without)
{
    VEC none = V(set)((REAL)-INFINITY), not= V(set)(without), largest = none;
    REAL buffer[F(AGAIN)];
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += F(AGAIN)) {
        ptrdiff_t count = fs_least(F(AGAIN), job->n - i);
        const REAL *x = F(read_set)(job, source, line, i, count, buffer);
        for (ptrdiff_t j = 0; j < count; j += LANES) {
            VEC here = F(load_some)(x + j, count - j, none);
            largest = V(max)(V(if_equal)(here, not, none, here), largest);
        }
    }
    return V(largest)(largest);
}

/* The sum of the terms of what is not `without`, less `off`, with the shift K. No
 * answer if the job was stopped. */
static fs_pair F(sum_but)(fs_job *job, const fs_operand *source, fs_line line,
                          REAL without, VEC off, VEC k)
{
    VEC none = V(set)((REAL)-INFINITY), not= V(set)(without);
    F(shift) shift = F(shift_by)(k);
    REAL buffer[F(AGAIN)];
    fs_pair sum = {0, 0};
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += F(AGAIN)) {
        ptrdiff_t count = fs_least(F(AGAIN), job->n - i);
        const REAL *x = F(read_set)(job, source, line, i, count, buffer);
        F(sum) here = F(no_terms)();
        for (ptrdiff_t j = 0; j < count; j += LANES) {
            VEC a = F(load_some)(x + j, count - j, none), s, q;
            a = V(sub)(V(if_equal)(a, not, none, a), off);
            F(exp_terms)(1, 1, &a, &shift, &s, &q);
            F(add_term)(&here, s, q, F(term)(s, q));
        }
        sum = i > 0 ? fs_pair_add(sum, F(all_lanes)(here)) : F(all_lanes)(here);
    }
    return sum;
}

/* The sum of a set without its only largest element, with the shift k that suits the
 * largest of the others. 0 if no result shows it. */
static fs_pair F(sum_of_others)(fs_job *job, const fs_operand *source, fs_line line,
                                REAL max, VEC *k)
{
    VEC all = V(set)(max), off = F(subtrahend)(all);
    VEC second = V(set)(F(largest_but)(job, source, line, max));
    *k = F(exponent_of_max)(all);
    if (!V(any_less)(V(sub)(all, V(set)(UNSEEN)), second))
        return (fs_pair){0, 0};
    *k = F(exponent_of)(V(sub)(second, off));
    return F(sum_but)(job, source, line, max, off, *k);
}

/* log(sum(exp(x))) in double of a set of float, whatever the job computes in: in the
 * unit of float64. Of no more than AGAIN elements in that of halves: those of a short
 * row are added up in one order, whoever takes it. */
HIDDEN double JOIN(fs_log_sum_of_line_f64, ISA)(fs_job *narrow, fs_line line);
HIDDEN double JOIN(fs_log_sum_of_line_f64, NARROWER_ISA)(fs_job *, fs_line);

/* Below which part of 2^SPARE the others are to be summed again, without the largest
 * term: from there on the sum has lost no more than 2^-26 (f64: 2^-55) of them.
 *
 * Of `chunk` terms with one start, `longest` to a lane: each adds to `lost` at most
 * half an ulp of ABOVE, 2^41 (2^460). The k-th addition rounds by 2^17 k (2^407 k), all
 * lanes' by chunk longest 2^16 (2^406). Cut where it is much: the others are then no
 * less than two fifths of the largest term, and it is not the only one. */
static inline double F(doubt)(ptrdiff_t chunk, ptrdiff_t longest)
{
    double part = (double)chunk * (double)longest * (T_IS_F32 ? 0x1p-22 : 0x1p-51);
    return part < 0.6 ? part : 0.6;
}

/* Whether max and logarithm of set j cancel, so that what floats lost would show. */
static inline int F(cancels)(int op, const F(sets) *sets, ptrdiff_t j)
{
    double lse = sets->hi[j];
    return T_IS_F32 && op == FS_LOGSUMEXP && fabs(lse) < lse - (double)sets->max[j];
}

/* Whether hi + lo of set j is not the result yet: the maximum is infinite; both cancel;
 * or the sum cannot tell what the others are. */
static inline int F(is_special)(int op, double doubt, const F(sets) *sets, ptrdiff_t j)
{
    return op != FS_SOFTMAX &&
           (isinf(sets->max[j]) || F(cancels)(op, sets, j) || sets->total[j] < doubt);
}

/* Whether that may be so of some set, whose sum tells what the others are. */
FS_INLINE int F(may_be_special)(int op, VEC max, VEC lse)
{
    VEC zero = V(set)(0), size = V(max)(max, V(sub)(zero, max));
    return V(any_less)(V(set)((REAL)-LOWEST), size) ||
           (T_IS_F32 && op == FS_LOGSUMEXP &&
            V(any_less)(V(max)(lse, V(sub)(zero, lse)), V(sub)(lse, max)));
}

/* Puts log(sum(exp(x))) of such a set, read from `source`, into its hi + lo. */
static void F(special_log_sum)(int op, fs_job *job, const fs_operand *source,
                               fs_line line, F(sets) *sets, ptrdiff_t j)
{
    REAL max = sets->max[j];
    F(sets) one;
    V(store)(one.max, V(set)(max));
    one.hi[0] = max;
    one.lo[0] = 0;
    if (isinf(max)) { /* all others count for nothing, but a NaN */
        VEC off = V(set)((REAL)INFINITY), k = V(set)(0);
        if ((op == FS_LOG_SOFTMAX && max < 0) ||
            isnan(F(sum_but)(job, source, line, max, off, k).hi))
            one.hi[0] = (REAL)NAN;
#if T_IS_F32
    } else if (F(cancels)(op, sets, j)) {
        one.hi[0] = (REAL)(job->n <= F(AGAIN)
                               ? JOIN(fs_log_sum_of_line_f64, NARROWER_ISA)(job, line)
                               : JOIN(fs_log_sum_of_line_f64, ISA)(job, line));
#endif
    } else {
        VEC k, share;
        fs_pair others = F(sum_of_others)(job, source, line, max, &k);
        REAL hi = (REAL)others.hi, lo = (REAL)((others.hi - hi) + others.lo);
        F(pair) log =
            F(log_of_others)(V(set)(max), (F(pair)){V(set)(hi), V(set)(lo)}, k, &share);
        V(store)(one.hi, log.hi);
        V(store)(one.lo, log.lo);
    }
    sets->hi[j] = one.hi[0];
    sets->lo[j] = one.lo[0];
}

/* hi and lo of log(sum(exp(x))) of one set whose max and sum are known, without its
 * start; see doubt. */
static void F(log_of_one)(int op, fs_job *job, const fs_operand *source, fs_line line,
                          REAL max, F(sum) sum, double doubt, REAL *hi, REAL *lo)
{
    F(sets) one;
    V(store)(one.max, V(set)(max));
    V(store)(one.second, V(set)(max));
    V(store)(one.total, sum.total);
    V(store)(one.lost, sum.lost);
    F(find_logs)(1, &one);
    if (F(is_special)(op, doubt, &one, 0))
        F(special_log_sum)(op, job, source, line, &one, 0);
    *hi = one.hi[0];
    *lo = one.lo[0];
}

#if !T_IS_F32
double F(fs_log_sum_of_line)(fs_job *narrow, fs_line line)
{
    fs_job job; /* large: only what is looked at */
    job.n = narrow->n;
    job.watch = narrow->watch;
    job.operand[FS_MASK] = narrow->operand[FS_MASK];
    job.operand[FS_X] = narrow->operand[FS_X];
    job.operand[FS_X].direct = 0;
    job.operand[FS_X].via_float = 1;
    const fs_operand *source = &job.operand[FS_X];
    /* max and logarithm cancel: the sum is from 1/n to n. Its own logarithm is off by
     * 2^-55, which is enough but next to 0. */
    VEC zero = V(set)(0);
    fs_pair sum = F(sum_but)(&job, source, line, (REAL)NAN, zero, zero);
    F(pair) terms = {V(set)(sum.hi), V(set)(sum.lo)};
    F(sum) one = {V(set)(BASE / UNSPARE), zero};
    F(pair) log = F(log_of)(F(over)(terms, one), zero);
    REAL hi = V(largest)(V(add)(log.hi, log.lo)), lo;
    if (fabs(hi) > 0x1p-28)
        return hi;
    REAL max = F(largest_but)(&job, source, line, (REAL)NAN);
    sum = F(sum_but)(&job, source, line, (REAL)NAN, zero,
                     F(exponent_of_max)(V(set)(max)));
    F(log_of_one)(FS_LOGSUMEXP, &job, source, line, max,
                  (F(sum)){V(set)(sum.hi), V(set)(sum.lo)},
                  F(doubt)(F(AGAIN), F(AGAIN) / LANES), &hi, &lo);
    return hi;
}
#endif
