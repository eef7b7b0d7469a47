/* Cross-entropy and its gradient, set by set; included by loops/rows.h behind
 * ops/hinge.h, with which it shares operands, units and what does not count.
 *
 *   loss = -sum(t log_softmax(x)),  dx = weight scale (softmax(x) sum(t) - t)
 *
 * The targets t are probabilities (FS_DY), or 1 at the label; smoothing takes a part of
 * each and spreads it over the elements in the set. The logarithm of the sum is
 * log_softmax's own, so that a loss next to 0 is as good as any other.
 */

/* A set and what is known of it. */
typedef struct {
    fs_line line;
    ptrdiff_t label; /* -1: t is in FS_DY */
    double count;    /* of elements in the set */
    REAL max;
    REAL lse_hi, lse_lo;
    F(factor) factor;
} F(entropy_set);

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

/* max, lse and factor, as log_softmax and softmax have them. */
static void F(find_entropy_set)(fs_job *job, F(entropy_set) *set)
{
    const fs_operand *x = &job->operand[FS_X];
    VEC max = V(set)(set->max), off = F(subtrahend)(max);
    fs_pair terms =
        F(sum_but)(job, x, set->line, (REAL)NAN, off, F(exponent_of_max)(max));
    F(sum) sum = F(as_sum)(terms);
    F(log_of_one)(FS_LOG_SOFTMAX, job, x, set->line, set->max, sum,
                  F(doubt)(F(AGAIN), F(AGAIN) / LANES), &set->lse_hi, &set->lse_lo);
    set->factor = F(factor_of)(sum, V(set)((REAL)UNSPARE));
}

/* -sum(t log_softmax(x)); where t is 0 nothing is added. OUT all: sum(t). */
static double F(entropy_of)(fs_job *job, const F(entropy_set) *set, double *all)
{
    const fs_operand *x = &job->operand[FS_X];
    REAL buffer[F(AGAIN)], t[F(AGAIN)];
    double loss = 0;
    *all = 0;
    if (set->label >= 0 && job->smoothing == 0) {
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

/* softmax of `count` elements. */
static void F(shares_of)(const F(entropy_set) *set, const REAL *x, ptrdiff_t count,
                         REAL *y)
{
    VEC max = V(set)(set->max), off = F(subtrahend)(max),
        none = V(set)((REAL)-INFINITY);
    F(shift) shift = F(shift_for)(max);
    ptrdiff_t whole = count - count % (ABREAST * LANES);
    for (ptrdiff_t i = 0; i < whole; i += ABREAST * LANES) {
        VEC a[ABREAST], s[ABREAST], q[ABREAST];
        for (int j = 0; j < ABREAST; j++)
            a[j] = V(sub)(V(load)(x + i + j * LANES), off);
        F(exp_terms)(1, ABREAST, a, &shift, s, q);
        for (int j = 0; j < ABREAST; j++)
            V(store)(y + i + j * LANES, F(result)(FS_SOFTMAX, F(DEEP_TOO),
                                                  F(term)(s[j], q[j]), &set->factor));
    }
    for (ptrdiff_t i = whole; i < count;
         i += LANES) { /* y has room for whole vectors */
        VEC a = V(sub)(F(load_some)(x + i, count - i, none), off), s, q;
        F(exp_terms)(1, 1, &a, &shift, &s, &q);
        V(store)(y + i,
                 F(result)(FS_SOFTMAX, F(DEEP_TOO), F(term)(s, q), &set->factor));
    }
}

static void F(entropy_gradient)(fs_job *job, const F(entropy_set) *set, double slope,
                                double all)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    REAL buffer[F(AGAIN)], t[F(AGAIN)], out[F(AGAIN)], by = (REAL)slope;
    int is_hard = set->label >= 0 && job->smoothing == 0 && !set->line.at[FS_MASK];
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += F(AGAIN)) {
        ptrdiff_t count = fs_least(F(AGAIN), job->n - i), label = set->label - i;
        const REAL *here = F(read_set)(job, x, set->line, i, count, buffer);
        F(shares_of)(set, here, count, out);
        if (is_hard && 0 <= label && label < count)
            out[label] -= 1;
        if (!is_hard) {
            F(read_targets)(job, set, i, count, t);
            for (ptrdiff_t j = 0; j < count; j++) out[j] = out[j] * (REAL)all - t[j];
        }
        for (ptrdiff_t j = 0; j < count; j++) out[j] *= by;
        for (ptrdiff_t j = 0; set->line.at[FS_MASK] && j < count; j++)
            out[j] = F(is_in_set)(job, set->line, i + j) ? out[j] : 0;
        F(put)(out, count, set->line.at[FS_Y] + i * y->n, y->n, y->type);
    }
}

/* The loss of one set; its gradient is written. A set that does not count (ignored, of
 * weight 0, or all masked out) has neither. */
static double F(cross_entropy_of)(fs_job *job, fs_line line)
{
    F(entropy_set) set = {.line = line, .label = -1, .count = (double)job->n};
    double weight = 1, loss = 0, all;
    if (line.at[FS_WEIGHTS])
        weight = *(const double *)line.at[FS_WEIGHTS];
    if (line.at[FS_LABELS])
        set.label = (ptrdiff_t)(*(const int64_t *)line.at[FS_LABELS]);
    int counts = weight != 0 && (!line.at[FS_LABELS] || set.label >= 0);
    if (counts && line.at[FS_MASK]) {
        set.count = 0;
        for (ptrdiff_t i = 0; i < job->n; i++) set.count += F(is_in_set)(job, line, i);
        counts = set.count > 0;
    }
    if (counts) {
        set.max = F(largest_but)(job, &job->operand[FS_X], line, (REAL)NAN);
        F(find_entropy_set)(job, &set);
        loss = F(entropy_of)(job, &set, &all);
        if (loss != 0)
            loss *= weight;
        if (line.at[FS_Y])
            F(entropy_gradient)(job, &set, weight * job->scale, all);
    }
    const REAL nothing = 0;
    const fs_operand *y = &job->operand[FS_Y];
    for (ptrdiff_t i = 0; !counts && line.at[FS_Y] && i < job->n; i++)
        F(write)(&nothing, 1, line.at[FS_Y] + i * y->n, y->type);
    if (line.at[FS_LOSSES])
        *(REAL *)line.at[FS_LOSSES] = (REAL)loss;
    return loss;
}

static double F(cross_entropy_unit)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t sets = fs_hinge_sets(job), units = (job->inner - 1) / sets + 1;
    ptrdiff_t first = unit % units * sets, last = fs_least(job->inner, first + sets);
    fs_line line = fs_locate(job, unit / units);
    double total = 0;
    for (ptrdiff_t j = first; j < last && !fs_stopped(job->watch); j++)
        total += F(cross_entropy_of)(job, fs_along_inner(job, line, j));
    return total;
}
