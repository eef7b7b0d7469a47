/* The words for one T: included twice by words.c. */

typedef struct {
    REAL a[LANES], b[LANES], c[LANES], d[LANES];
} V(lines);

/* Any bits, or one of those that are special. */
static REAL V(sample)(void)
{
    static const REAL special[] = {
        0, 1, (REAL)-0.0, -1, (REAL)NAN, (REAL)INFINITY, (REAL)-INFINITY, (REAL)0.5};
    uint64_t bits = random_bits();
    if (bits >> 62 == 0)
        return special[bits % 8];
    if (bits >> 62 == 1) /* the least ones */
        return OF_BITS((BITS)bits % 4);
    return bits >> 62 == 2 ? OF_BITS((BITS)bits) : (REAL)((int64_t)bits % 1024) / 8;
}

static void V(draw)(V(lines) *in)
{
    for (int j = 0; j < LANES; j++) {
        in->a[j] = V(sample)();
        in->b[j] = random_bits() % 4 ? V(sample)() : in->a[j];
        in->c[j] = V(sample)();
        in->d[j] = V(sample)();
    }
}

static int V(same_bits)(REAL a, REAL b)
{
    return TO_BITS(a) == TO_BITS(b);
}

static int V(same)(REAL a, REAL b)
{
    return V(same_bits)(a, b) || (a != a && b != b);
}

#define STRING_(text) #text
#define STRING(text) STRING_(text)
#define WORD(word) STRING(T) "_" word

/* One word on the lines of `in`, and what plain C makes of lane j. */
#define CHECK_BY(SAME, NAME, VECTOR, EXPECTED)                                         \
    do {                                                                               \
        V(store)(out, VECTOR);                                                         \
        for (int j = 0; j < LANES; j++) {                                              \
            const REAL a = in.a[j], b = in.b[j], c = in.c[j], d = in.d[j];             \
            (void)a, (void)b, (void)c, (void)d;                                        \
            if (!V(SAME)(out[j], (REAL)(EXPECTED)))                                    \
                fail(WORD(NAME), j);                                                   \
        }                                                                              \
    } while (0)
#define CHECK(NAME, VECTOR, EXPECTED) CHECK_BY(same, NAME, VECTOR, EXPECTED)
#define CHECK_BITS(NAME, VECTOR, EXPECTED) CHECK_BY(same_bits, NAME, VECTOR, EXPECTED)

static void V(check_lanes)(void)
{
    V(lines) in;
    REAL out[LANES];
    V(draw)(&in);
    V(vec) va = V(load)(in.a), vb = V(load)(in.b), vc = V(load)(in.c),
           vd = V(load)(in.d);
    CHECK_BITS("load, store", va, a);
    CHECK("set", V(set)(in.b[0]), in.b[0]);
    CHECK("add", V(add)(va, vb), a + b);
    CHECK("sub", V(sub)(va, vb), a - b);
    CHECK("mul", V(mul)(va, vb), a * b);
    CHECK("div", V(div)(va, vb), a / b);
    CHECK_BITS("max", V(max)(va, vb), a > b ? a : b);
    CHECK_BITS("min", V(min)(va, vb), a < b ? a : b);
#if defined(FS_HAS_FMA)
    CHECK("muladd", V(muladd)(va, vb, vc), FMA(a, b, c));
#else
    CHECK("muladd", V(muladd)(va, vb, vc), a * b + c);
#endif
    CHECK_BITS("power", V(power)(va),
               OF_BITS(V(entries)[TO_BITS(a) % 8] + (TO_BITS(a) << (EXPONENT - 3))));
    CHECK_BITS("exponent", V(exponent)(va),
               OF_BITS(TO_BITS(a) >> EXPONENT | TO_BITS((REAL)((BITS)1 << EXPONENT))));
    CHECK_BITS("to_exponent", V(to_exponent)(va), OF_BITS(TO_BITS(a) << EXPONENT));
    CHECK_BITS("if_equal", V(if_equal)(va, vb, vc, vd), a == b ? c : d);
    CHECK_BITS("if_less", V(if_less)(va, vb, vc, vd), a < b ? c : d);
    int any = 0;
    for (int j = 0; j < LANES; j++) any = any || in.a[j] < in.b[j];
    if (V(any_less)(va, vb) != any)
        fail(WORD("any_less"), any);
}

/* In one lane alone. */
static void V(check_any_less)(void)
{
    for (int at = 0; at < LANES; at++) {
        REAL a[LANES], b[LANES];
        for (int j = 0; j < LANES; j++) {
            a[j] = j == at ? -2 : -1;
            b[j] = j % 2 ? (REAL)NAN : -1;
        }
        b[at] = -1;
        if (!V(any_less)(V(load)(a), V(load)(b)))
            fail(WORD("any_less"), at);
    }
}

/* Next to memory that must not be touched, and beside memory that must not change. */
static void V(check_parts)(void)
{
    V(lines) in;
    REAL out[LANES];
    V(draw)(&in);
    for (int count = 1; count <= LANES; count++) {
        size_t bytes = (size_t)count * sizeof(REAL);
        REAL *part = (REAL *)guarded(bytes);
        memcpy(part, in.a, bytes);
        V(vec) loaded = V(load_part)(part, count, V(load)(in.b));
        CHECK_BITS("load_part", loaded, j < count ? a : b);
        memset(part, 0, bytes);
        V(store_part)(part, count, V(load)(in.a));
        if (memcmp(part, in.a, bytes))
            fail(WORD("store_part"), count);
        release((char *)part, bytes);
        REAL around[LANES];
        memcpy(around, in.b, sizeof around);
        V(store_part)(around, count, V(load)(in.a));
        CHECK_BITS("store_part", V(load)(around), j < count ? a : b);
    }
}

static void V(check_largest)(void)
{
    for (int at = 0; at < LANES; at++) {
        REAL a[LANES];
        for (int j = 0; j < LANES; j++)
            a[j] = j == at ? -1 : j % 3 ? (REAL)-INFINITY : -2 - (REAL)j;
        if (V(largest)(V(load)(a)) != -1)
            fail(WORD("largest"), at);
    }
}

/* Doubles of which every sum and product here is exact, but for one rounding. */
static void V(check_wide)(void)
{
    REAL a[LANES], b[LANES];
    double sum[LANES], out[LANES], total = 0;
    for (int j = 0; j < LANES; j++) {
        a[j] = (REAL)((int64_t)random_bits() % 0x1000001);
        b[j] = (REAL)((int64_t)random_bits() % 0x1000001);
        sum[j] = ldexp((double)(random_bits() % 1024), 2 * j) / 3;
    }
    V(wide) from = V(wide_load)(sum);
    V(wide_store)(out, V(wide_add)(from, a));
    for (int j = 0; j < LANES; j++)
        if (out[j] != sum[j] + (double)a[j])
            fail(WORD("wide_add"), j);
    V(wide_store)(out, V(wide_add_product)(from, a, b));
    for (int j = 0; j < LANES; j++)
        if (out[j] != sum[j] + (double)a[j] * (double)b[j])
            fail(WORD("wide_add_product"), j);
    for (int j = 0; j < LANES; j++) total += (double)a[j];
    if (V(wide_total)(V(wide_add)((V(wide)){0}, a)) != total)
        fail(WORD("wide_total"), 0);
}

/* Rows apart from each other, and rows that overlap. */
static void V(check_quads)(void)
{
    for (ptrdiff_t pitch = 1; pitch <= 7; pitch++) {
        size_t bytes = (size_t)((LANES - 1) * pitch + 4) * sizeof(REAL);
        REAL *from = (REAL *)guarded(bytes), *to = (REAL *)guarded(bytes);
        REAL expected[(LANES - 1) * 7 + 4], lanes[LANES];
        V(vec) v[4];
        for (size_t i = 0; i < bytes / sizeof(REAL); i++)
            from[i] = expected[i] = to[i] = (REAL)i;
        V(load_quads)(from, pitch, v);
        for (int i = 0; i < 4; i++) {
            V(store)(lanes, v[i]);
            for (int j = 0; j < LANES; j++)
                if (lanes[j] != from[j * pitch + i])
                    fail(WORD("load_quads"), j);
            v[i] = V(mul)(v[i], V(set)((REAL)(i + 1)));
        }
        V(store_quads)(to, pitch, v);
        for (int j = 0; j < LANES; j++)
            for (int i = 0; i < 4; i++)
                expected[j * pitch + i] = (REAL)((j * pitch + i) * (i + 1));
        if (memcmp(to, expected, bytes))
            fail(WORD("store_quads"), (int)pitch);
        release((char *)from, bytes);
        release((char *)to, bytes);
    }
}

static void V(check_stream)(void)
{
    V(lines) in;
    V(draw)(&in);
    size_t bytes = LANES * sizeof(REAL);
    REAL *to = (REAL *)guarded(bytes); /* ends with a page: aligned */
    V(stream)(to, V(load)(in.a));
    stream_fence();
    if (memcmp(to, in.a, bytes))
        fail(WORD("stream"), 0);
    release((char *)to, bytes);
}

static void V(check)(void)
{
    for (int i = 0; i < 3000; i++) {
        V(check_lanes)();
        V(check_wide)();
    }
    for (int i = 0; i < 20; i++) V(check_parts)();
    V(check_largest)();
    V(check_any_less)();
    V(check_quads)();
    V(check_stream)();
}

#undef CHECK
#undef CHECK_BITS
#undef CHECK_BY
#undef WORD
#undef STRING
#undef STRING_
