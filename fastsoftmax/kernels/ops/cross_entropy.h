/* Cross-entropy and its gradient, set by set; included by loops/rows.h behind
 * ops/hinge.h, with which it shares operands, units and what does not count.
 *
 *   loss = -sum(t log_softmax(x)),  dx = weight scale (softmax(x) sum(t) - t)
 *
 * The targets t are probabilities (FS_DY), or 1 at the label; smoothing takes a part of
 * each and spreads it over the elements in the set. The logarithm of the sum is
 * log_softmax's own, so that a loss next to 0 is as good as any other.
 */

/* A set that counts, and what is known of it. */
typedef struct {
    fs_line line;
    ptrdiff_t label; /* -1: t is in FS_DY */
    double weight;
    double count; /* of elements in the set */
    fs_pair sum;
    REAL max;
    REAL lse_hi, lse_lo;
} F(entropy_set);

/* So many sets wait for their logarithms, which do not wait for each other. */
enum { F(ENTROPY_SETS) = 16 };

static inline int F(is_hard)(const fs_job *job, const F(entropy_set) *set)
{
    return set->label >= 0 && job->smoothing == 0;
}

static inline int F(is_in_set)(const fs_job *job, fs_line line, ptrdiff_t i)
{
    return !line.at[FS_MASK] || line.at[FS_MASK][i * job->operand[FS_MASK].n];
}

/* Targets of elements [i, i + count), smoothed; 0 for what is masked out. */
static void F(read_targets)(const fs_job *job, const F(entropy_set) *set, ptrdiff_t i,
                            ptrdiff_t count, REAL *t)
{
    const fs_operand *given = &job->operand[FS_DY];
    REAL keep = (REAL)(1 - job->smoothing), share = (REAL)(job->smoothing / set->count);
    ptrdiff_t label = set->label - i;
    if (set->label < 0)
        F(stage)(given, set->line.at[FS_DY] + i * given->n, given->n, NULL, 0, count,
                 t);
    else
        memset(t, 0, (size_t)count * sizeof *t);
    if (0 <= label && label < count)
        t[label] = 1;
    for (ptrdiff_t j = 0; job->smoothing > 0 && j < count; j++)
        t[j] = t[j] * keep + share;
    for (ptrdiff_t j = 0; set->line.at[FS_MASK] && j < count; j++)
        t[j] = F(is_in_set)(job, set->line, i + j) ? t[j] : 0;
}

/* max and sum, as log_softmax and softmax have them, */
static void F(add_up_entropy)(fs_job *job, F(entropy_set) *set)
{
    const fs_operand *x = &job->operand[FS_X];
    set->max = F(largest_but)(job, x, set->line, (REAL)NAN);
    VEC max = V(set)(set->max);
    set->sum = F(sum_but)(job, x, set->line, (REAL)NAN, F(subtrahend)(max),
                          F(exponent_of_max)(max));
}

/* and lse, of all sets. */
static void F(find_entropy_logs)(fs_job *job, F(entropy_set) *set, ptrdiff_t count)
{
    F(sets) all;
    double doubt = F(doubt)(F(AGAIN), F(AGAIN) / LANES);
    for (ptrdiff_t k = 0; k < count; k++) {
        all.max[k] = all.second[k] = set[k].max;
        all.total[k] = (REAL)(set[k].sum.hi + set[k].sum.lo);
        all.lost[k] = (REAL)((set[k].sum.hi - all.total[k]) + set[k].sum.lo);
    }
    F(find_logs)(count, &all);
    for (ptrdiff_t k = 0; k < count; k++) {
        if (F(is_special)(FS_LOG_SOFTMAX, doubt, &all, k))
            F(special_log_sum)(FS_LOG_SOFTMAX, job, &job->operand[FS_X], set[k].line,
                               &all, k);
        set[k].lse_hi = all.hi[k];
        set[k].lse_lo = all.lo[k];
    }
}

/* -sum(t log_softmax(x)); where t is 0 nothing is added. OUT all: sum(t). */
static double F(entropy_of)(fs_job *job, const F(entropy_set) *set, double *all)
{
    const fs_operand *x = &job->operand[FS_X];
    REAL buffer[F(AGAIN)], t[F(AGAIN)];
    double loss = 0;
    *all = 0;
    if (F(is_hard)(job, set)) {
        const REAL *at = F(read_set)(job, x, set->line, set->label, 1, buffer);
        *all = 1;
        return -(double)((at[0] - set->lse_hi) - set->lse_lo);
    }
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += F(AGAIN)) {
        ptrdiff_t count = fs_least(F(AGAIN), job->n - i);
        const REAL *here = F(read_set)(job, x, set->line, i, count, buffer);
        double of_chunk = 0;
        F(read_targets)(job, set, i, count, t);
        for (ptrdiff_t j = 0; j < count; j++) {
            double log = (here[j] - set->lse_hi) - set->lse_lo;
            of_chunk -= t[j] == 0 ? 0 : t[j] * log;
            *all += t[j];
        }
        loss += of_chunk;
    }
    return loss;
}

/* softmax of `count` elements, times what is in the factor: 0 where it is, whatever
 * that is. */
static void F(shares_of)(const F(entropy_set) *set, const F(factor) *factor,
                         const REAL *x, ptrdiff_t count, REAL *y)
{
    VEC max = V(set)(set->max), off = F(subtrahend)(max), zero = V(set)(0);
    VEC none = V(set)((REAL)-INFINITY);
    F(shift) shift = F(shift_for)(max);
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        VEC a = V(sub)(F(load_some)(x + i, count - i, none), off), s, q;
        F(exp_terms)(1, 1, &a, &shift, &s, &q);
        VEC term = V(if_less)(a, shift.least, zero, F(term)(s, q));
        F(store_some)(y + i, count - i,
                      F(result)(FS_SOFTMAX, F(DEEP_TOO), term, factor));
    }
}

/* `all` is sum(t). Of a label alone, softmax comes with its slope. */
static void F(entropy_gradient)(fs_job *job, const F(entropy_set) *set, double all)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    REAL buffer[F(AGAIN)], t[F(AGAIN)], room[F(AGAIN)];
    REAL by = (REAL)(set->weight * job->scale);
    F(factor) factor = F(factor_of_row)(set->sum, 1);
    int is_hard = F(is_hard)(job, set);
    int in_place = y->type == REAL_TYPE && y->n == sizeof(REAL);
    if (is_hard && fabs((double)by) > 1) { /* hi holds 2^SPARE, rest takes it out: */
        factor.rest = V(mul)(factor.rest, V(set)(by));
    } else if (is_hard) { /* neither overflows, nor becomes subnormal too early */
        factor.hi = V(mul)(factor.hi, V(set)(by));
        factor.lo = V(mul)(factor.lo, V(set)(by));
    }
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += F(AGAIN)) {
        ptrdiff_t count = fs_least(F(AGAIN), job->n - i), label = set->label - i;
        const REAL *here = F(read_set)(job, x, set->line, i, count, buffer);
        char *place = set->line.at[FS_Y] + i * y->n;
        REAL *out = in_place ? (REAL *)place : room;
        F(shares_of)(set, &factor, here, count, out);
        if (is_hard && 0 <= label && label < count)
            out[label] -= by;
        if (!is_hard) {
            F(read_targets)(job, set, i, count, t);
#pragma omp simd
            for (ptrdiff_t j = 0; j < count; j++)
                out[j] = (out[j] * (REAL)all - t[j]) * by;
        }
        for (ptrdiff_t j = 0; set->line.at[FS_MASK] && j < count; j++)
            out[j] = F(is_in_set)(job, set->line, i + j) ? out[j] : 0;
        if (!in_place)
            F(put)(out, count, place, y->n, y->type);
    }
}

/* Whether a set counts: not where it is ignored, of weight 0, or all masked out. */
static int F(counts)(const fs_job *job, fs_line line, F(entropy_set) *set)
{
    *set = (F(entropy_set)){.line = line, .label = -1, .weight = 1};
    if (line.at[FS_WEIGHTS])
        set->weight = *(const double *)line.at[FS_WEIGHTS];
    if (line.at[FS_LABELS])
        set->label = (ptrdiff_t)(*(const int64_t *)line.at[FS_LABELS]);
    if (set->weight == 0 || (line.at[FS_LABELS] && set->label < 0))
        return 0;
    set->count = (double)job->n;
    for (ptrdiff_t i = 0; line.at[FS_MASK] && i < job->n; i++)
        set->count -= !F(is_in_set)(job, line, i);
    return set->count > 0;
}

static void F(write_loss)(fs_line line, double loss)
{
    if (line.at[FS_LOSSES])
        *(REAL *)line.at[FS_LOSSES] = (REAL)loss;
}

/* The losses and gradients of `count` sets along inner; returns the sum with them. */
static fs_pair F(cross_entropy_of)(fs_job *job, fs_line lines, ptrdiff_t first,
                                   ptrdiff_t count, fs_pair total)
{
    const fs_operand *y = &job->operand[FS_Y];
    const REAL nothing = 0;
    F(entropy_set) set[F(ENTROPY_SETS)];
    ptrdiff_t counted = 0;
    double all;
    for (ptrdiff_t j = first; j < first + count; j++) {
        fs_line line = fs_along_inner(job, lines, j);
        if (F(counts)(job, line, &set[counted])) {
            F(add_up_entropy)(job, &set[counted++]);
            continue;
        }
        F(write_loss)(line, 0);
        for (ptrdiff_t i = 0; line.at[FS_Y] && i < job->n; i++)
            F(write)(&nothing, 1, line.at[FS_Y] + i * y->n, y->type);
    }
    F(find_entropy_logs)(job, set, counted);
    for (ptrdiff_t k = 0; k < counted; k++) {
        double loss = F(entropy_of)(job, &set[k], &all);
        loss = loss == 0 ? 0 : loss * set[k].weight;
        if (set[k].line.at[FS_Y])
            F(entropy_gradient)(job, &set[k], all);
        F(write_loss)(set[k].line, loss);
        total = fs_add_to(total, loss);
    }
    return total;
}

static fs_pair F(cross_entropy_unit)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t sets = fs_loss_sets(job), units = (job->inner - 1) / sets + 1;
    ptrdiff_t first = unit % units * sets, last = fs_least(job->inner, first + sets);
    fs_line line = fs_locate(job, unit / units);
    fs_pair total = {0, 0};
    for (ptrdiff_t j = first; j < last && !fs_stopped(job->watch); j += F(ENTROPY_SETS))
        total = F(cross_entropy_of)(job, line, j, fs_least(F(ENTROPY_SETS), last - j),
                                    total);
    return total;
}

/* Any loss's unit: the sum of its losses. */
static fs_pair F(loss_unit)(fs_job *job, ptrdiff_t unit)
{
    return job->op == FS_HINGE ? F(hinge_unit)(job, unit)
                               : F(cross_entropy_unit)(job, unit);
}
