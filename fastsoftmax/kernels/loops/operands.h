/* Elements on their way in and out: of any type, byte order and stride, divided by the
 * temperature, masked; for every type and ISA. Included by loops/rows.h.
 */

#if T_IS_F32
/* Contiguous 16-bit floats in and out; the last lanes go through a full vector. */
#define CONVERSION(WORD)                                                               \
    static void JOIN(load_##WORD, ISA)(const uint16_t *from, ptrdiff_t count,          \
                                       float *to)                                      \
    {                                                                                  \
        ptrdiff_t i = 0;                                                               \
        for (; i + LANES <= count; i += LANES)                                         \
            f32_store(to + i, f32_load_##WORD(from + i));                              \
        uint16_t rest[LANES] = {0};                                                    \
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);                    \
        if (i < count)                                                                 \
            f32_store_part(to + i, count - i, f32_load_##WORD(rest));                  \
    }                                                                                  \
    static void JOIN(store_##WORD, ISA)(const float *from, ptrdiff_t count,            \
                                        uint16_t *to)                                  \
    {                                                                                  \
        ptrdiff_t i = 0;                                                               \
        for (; i + LANES <= count; i += LANES)                                         \
            f32_store_##WORD(to + i, f32_load(from + i));                              \
        uint16_t rest[LANES];                                                          \
        if (i < count) {                                                               \
            f32_store_##WORD(rest, f32_load_part(from + i, count - i, f32_set(0)));    \
            memcpy(to + i, rest, (size_t)(count - i) * sizeof *rest);                  \
        }                                                                              \
    }
CONVERSION(f16)
CONVERSION(bf16)
#undef CONVERSION
#endif

/* Native elements of the computing type, `n` bytes apart along n. */
static inline fs_operand F(plain)(void *data, ptrdiff_t n)
{
    return (fs_operand){data, REAL_TYPE, 0, 1, n, sizeof(REAL), 1, 0, NULL};
}

/* Whether elements need no conversion, whatever else is to be done to them. */
static inline int F(are_floats)(const fs_operand *source, const char *x,
                                ptrdiff_t x_step)
{
    return source->type == REAL_TYPE && !source->swapped && x_step == sizeof(REAL) &&
           (uintptr_t)x % sizeof(REAL) == 0;
}

#if T_IS_F32
/* Says so if a finite double became an infinite float. */
static void F(find_large_double)(const fs_operand *source, const char *x,
                                 ptrdiff_t x_step, ptrdiff_t count, const REAL *out)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        double wide = INFINITY;
        if (isinf(out[i]))
            fs_stage_f64(x + i * x_step, 0, FS_F64, source->swapped, 1, &wide);
        if (isfinite(wide))
            FS_RAISE(source->overflow);
    }
}
#endif

static void F(convert)(const fs_operand *source, const char *x, ptrdiff_t x_step,
                       ptrdiff_t count, REAL *out)
{
#if T_IS_F32
    int halves = x_step == 2 && !source->swapped && (uintptr_t)x % 2 == 0;
    if (halves && source->type == FS_F16)
        JOIN(load_f16, ISA)((const uint16_t *)x, count, out);
    else if (halves && source->type == FS_BF16)
        JOIN(load_bf16, ISA)((const uint16_t *)x, count, out);
    else
#endif
        if (F(are_floats)(source, x, x_step))
        memcpy(out, x, (size_t)count * sizeof *out);
    else
        JOIN(fs_stage, T)(x, x_step, source->type, source->swapped, count, out);
#if T_IS_F32
    if (source->type == FS_F64 && source->overflow)
        F(find_large_double)(source, x, x_step, count, out);
#endif
    if (source->via_float)
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) out[i] = (float)out[i];
}

/* Says so if the quotient of a finite element is infinite. */
static void F(find_large_quotient)(const REAL *x, ptrdiff_t count, REAL temperature,
                                   fs_flag *overflow)
{
    const REAL most = T_IS_F32 ? (REAL)FLT_MAX : (REAL)DBL_MAX;
    REAL large = most * temperature;
    int some = 0;
#pragma omp simd reduction(| : some)
    for (ptrdiff_t i = 0; i < count; i++) some |= (x[i] >= large) | (x[i] <= -large);
    for (ptrdiff_t i = 0; some && i < count; i++)
        if (isfinite(x[i]) && isinf(x[i] / temperature))
            FS_RAISE(overflow);
}

/* `count` elements at x become plain floats at `out`: converted, divided by the
 * temperature, -inf where masked out. */
static void F(stage)(const fs_operand *source, const char *x, ptrdiff_t x_step,
                     const char *mask, ptrdiff_t mask_step, ptrdiff_t count, REAL *out)
{
    const REAL *from = out;
    if (F(are_floats)(source, x, x_step) && (source->temperature != 1.0 || mask))
        from = (const REAL *)x;
    else
        F(convert)(source, x, x_step, count, out);
    if (source->temperature != 1.0) {
        REAL temperature = (REAL)source->temperature;
        if (temperature < 1 && source->overflow)
            F(find_large_quotient)(from, count, temperature, source->overflow);
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) out[i] = from[i] / temperature;
        from = out;
    }
    if (mask && mask_step == 1) { /* a constant step lets the compiler vectorize */
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = mask[i] ? from[i] : (REAL)-INFINITY;
    } else if (mask) {
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = mask[i * mask_step] ? from[i] : (REAL)-INFINITY;
    }
}

/* The elements as plain floats: in place if they are, else staged into `buffer`. */
static inline const REAL *F(read)(const fs_operand *source, const char *x,
                                  ptrdiff_t x_step, const char *mask,
                                  ptrdiff_t mask_step, ptrdiff_t count, REAL *buffer)
{
    if (source->direct)
        return (const REAL *)x;
    F(stage)(source, x, x_step, mask, mask_step, count, buffer);
    return buffer;
}

static inline void F(write)(const REAL *from, ptrdiff_t count, char *y, fs_type type)
{
#if T_IS_F32
    if (type == FS_F16)
        JOIN(store_f16, ISA)(from, count, (uint16_t *)y);
    else if (type == FS_BF16)
        JOIN(store_bf16, ISA)(from, count, (uint16_t *)y);
    else
#endif
        memcpy(y, from, (size_t)count * sizeof *from);
    (void)type;
}

/* Asked between chunks of a set: one chunk is not worth the question. */
static inline int F(stopped)(fs_job *job, ptrdiff_t first)
{
    return first > 0 && fs_poll(job->watch);
}

/* A vector of which `count` lanes or more are there. */
FS_INLINE VEC F(load_some)(const REAL *x, ptrdiff_t count, VEC rest)
{
    return count >= LANES ? V(load)(x) : V(load_part)(x, count, rest);
}

FS_INLINE void F(store_some)(REAL *x, ptrdiff_t count, VEC a)
{
    if (count >= LANES)
        V(store)(x, a);
    else
        V(store_part)(x, count, a);
}

/* x and y together. */
static inline ptrdiff_t F(bytes_of)(const fs_job *job)
{
    return 2 * job->outer * job->n * job->inner * (ptrdiff_t)sizeof(REAL);
}

/* Bytes of the largest cache that a job can count on. More than was measured is shared
 * by more cores. */
static inline ptrdiff_t F(cache_of)(const fs_job *job)
{
    return fs_least(job->cache, 32 << 20);
}

/* Whether both stay there from one pass to the next. */
static inline int F(is_in_cache)(const fs_job *job)
{
    return F(bytes_of)(job) <= F(cache_of)(job) / 8 * 3;
}

/* Rows, tiles or chunks of so many elements: some of them to a unit, if there are
 * enough for all threads. How many units there are. */
static ptrdiff_t F(cut_into_units)(fs_job *job, ptrdiff_t count, ptrdiff_t elements)
{
    job->step = 4 * FS_PIECE / elements;
    if (job->threads > 1)
        job->step = fs_least(job->step, count / (4 * job->threads));
    job->step = job->step < 1 ? 1 : job->step;
    return (count + job->step - 1) / job->step;
}
