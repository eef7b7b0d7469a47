/* What the softmaxes, logsumexp and their gradients do with an element and a row: see
 * rows.cu.
 */

/* ---- operations: softmax, log_softmax, logsumexp ---- */

/* What an operation has:
 *   Item     an element in registers
 *   fetch    elements from memory, as they are there, masked ones replaced; items: as
 * Items begin    what a row starts with peak_of, add, finish    peak and sum of
 * elements; what they decide for the row again    INOUT item, for a thread that did not
 * `add` it; result: what is written write_row    what is written once a row `at` counts
 * elements from the beginning of the arrays, `index` from that of the row. */
template <class T> struct SoftmaxFamily {
    typedef T Type;
    typedef typename Computed<T>::type Real;
    enum { INPUTS = 1, HAS_PEAK = 1, HAS_SUM = 1, HAS_RESULTS = 1 };
    struct Item {
        Real x;
    };
    struct Peak {
        Real x;
    };
    struct Sum {
        Pair<Real> terms; /* exp(x - peak) */
    };

    const T *x;
    const u8 *mask;
    T *y;
    Divisor<Real> temperature;
    Real peak;
    bool special; /* the row has a NaN, +inf, or nothing but -inf */

    DEVICE SoftmaxFamily(const void *x, const void *second, void *y, Real temperature)
        : x((const T *)x), mask((const u8 *)second), y((T *)y), temperature(temperature)
    {
    }

    template <int N> DEVICE void fetch(i64 at, Pack<T, N> raw[1]) const
    {
        raw[0] = load_kept<N>(x, mask, at);
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[1], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) item[j].x = to_real(raw[0].v[j]);
        if (temperature.is_one())
            return;
#pragma unroll
        for (int j = 0; j < N; j++) item[j].x = temperature.divide(item[j].x);
    }
    DEVICE void begin(i64 row, i64 n)
    {
    }

    static DEVICE Peak no_peak()
    {
        Peak peak = {-infinity<Real>()};
        return peak;
    }
    DEVICE Peak peak_of(Item item, i64 index) const
    {
        Peak peak = {item.x};
        return peak;
    }
    static DEVICE Peak join(Peak a, Peak b)
    {
        Peak peak = {larger(a.x, b.x)};
        return peak;
    }
    static DEVICE Sum no_sum()
    {
        Sum sum = {{0, 0}};
        return sum;
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {plus(a.terms, b.terms)};
        return sum;
    }
    /* The sum of a piece that has a peak of its own, relative to the row's. */
    static DEVICE Sum relative(Sum sum, Peak from, Peak to)
    {
        sum.terms = times(sum.terms, exp_between(from.x, to.x));
        return sum;
    }
    DEVICE void set_peak(Peak found)
    {
        peak = found.x;
        special = !is_finite(peak);
    }
    /* Masked entries are read as -inf, which in an ordinary row gives the right
     * results. In the others the mask is looked at again. */
    DEVICE bool must_look_again() const
    {
        return special && mask;
    }
    DEVICE bool masked_out(i64 at) const
    {
        return !mask[at];
    }
    static DEVICE Real masked_result()
    {
        return 0;
    }
    /* log(sum(exp(x - peak))): the largest term is 1, and left out of log1p's argument
     */
    static DEVICE Real log_terms(Sum sum)
    {
        return log1p_of((sum.terms.hi - (Real)1) + sum.terms.lo);
    }
    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
        sum->terms = plus(sum->terms, exp_difference(item->x, peak));
    }
    DEVICE void again(Item *item, i64 index) const
    {
    }
    DEVICE void move(Item *item, Peak from, Peak to) const
    {
    }
    DEVICE void write_row(i64 row) const
    {
    }
};

template <class T> struct Softmax : SoftmaxFamily<T> {
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Sum Sum;
    using Family::Family;
    Pair<Real> inverse;

    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
        again(item, index);
        sum->terms = plus(sum->terms, item->x);
    }
    DEVICE void again(Item *item, i64 index) const
    {
        item->x = exp_difference(item->x, this->peak);
    }
    /* An item of `add` relative to another peak. */
    DEVICE void move(Item *item, typename Family::Peak from,
                     typename Family::Peak to) const
    {
        item->x *= exp_between(from.x, to.x);
    }
    /* 1 / (hi + lo) as a pair: what 1 - hi h leaves, divided once more */
    DEVICE void finish(Sum sum)
    {
        Real h = (Real)1 / sum.terms.hi;
        Real rest = fused(-h, sum.terms.hi, (Real)1) - h * sum.terms.lo;
        inverse = pair(this->special ? not_a_number<Real>() : h, h * rest);
    }
    DEVICE Real result(Item item, i64 index) const
    {
        return fused(item.x, inverse.hi, item.x * inverse.lo);
    }
};

template <class T> struct LogSoftmax : SoftmaxFamily<T> {
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Sum Sum;
    using Family::Family;
    Real log_sum;

    static DEVICE Real masked_result()
    {
        return -infinity<Real>();
    }
    DEVICE void finish(Sum sum)
    {
        log_sum = this->special ? (Real)0 : this->log_terms(sum);
    }
    /* x - peak and -log_sum have one sign: nothing cancels. Beside infinities x - peak
     * says it all. */
    DEVICE Real result(Item item, i64 index) const
    {
        Pair<Real> d = two_sum(item.x, -this->peak);
        return is_finite(d.hi) ? (d.hi - log_sum) + d.lo : d.hi;
    }
};

template <class T> struct LogSumExp : SoftmaxFamily<T> {
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Sum Sum;
    enum { HAS_RESULTS = 0 };
    using Family::Family;
    Real total;

    DEVICE void finish(Sum sum)
    {
        total = this->special ? this->peak : this->peak + this->log_terms(sum);
    }
    DEVICE Real result(Item item, i64 index) const
    {
        return 0;
    }
    DEVICE void write_row(i64 row) const
    {
        from_real(total, this->y + row);
    }
};

/* log|sum(b exp(a))| and the sum's sign; `second` is b, or NULL for ones. Entries with
 * b = 0 do not count. */
template <class T> struct WeightedLogSumExp {
    typedef T Type;
    typedef typename Computed<T>::type Real;
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Peak Peak;
    struct Sum {
        Total<Real> terms; /* b exp(a - peak) */
    };
    enum { INPUTS = 2, HAS_PEAK = 1, HAS_SUM = 1, HAS_RESULTS = 0 };
    struct Item {
        Real a, b;
    };

    const T *a, *b;
    T *y, *sign;
    Real peak;
    Pair<double> total;

    DEVICE WeightedLogSumExp(const void *x, const void *second, void *y,
                             Real temperature, T *sign)
        : a((const T *)x), b((const T *)second), y((T *)y), sign(sign)
    {
    }

    template <int N> DEVICE void fetch(i64 at, Pack<T, N> raw[2]) const
    {
        raw[0] = load<N>(a + at);
        if (b)
            raw[1] = load<N>(b + at);
        else
#pragma unroll
            for (int j = 0; j < N; j++) from_real((Real)1, &raw[1].v[j]);
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[2], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            item[j].b = to_real(raw[1].v[j]);
            item[j].a = item[j].b == (Real)0 ? -infinity<Real>() : to_real(raw[0].v[j]);
        }
    }
    DEVICE bool must_look_again() const
    {
        return false;
    }
    DEVICE bool masked_out(i64 at) const
    {
        return false;
    }
    static DEVICE Real masked_result()
    {
        return 0;
    }
    DEVICE void begin(i64 row, i64 n)
    {
    }
    static DEVICE Peak no_peak()
    {
        return Family::no_peak();
    }
    static DEVICE Peak join(Peak x, Peak y)
    {
        return Family::join(x, y);
    }
    static DEVICE Sum no_sum()
    {
        Sum sum = {no_total<Real>()};
        return sum;
    }
    static DEVICE Sum join(Sum x, Sum y)
    {
        Sum sum = {plus(x.terms, y.terms)};
        return sum;
    }
    static DEVICE Sum relative(Sum sum, Peak from, Peak to)
    {
        sum.terms = times(sum.terms, exp_between(from.x, to.x));
        return sum;
    }
    DEVICE Peak peak_of(Item item, i64 index) const
    {
        Peak peak = {item.a};
        return peak;
    }
    DEVICE void set_peak(Peak found)
    {
        peak = found.x;
    }
    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
        bool largest = item->a == peak && item->a != -infinity<Real>();
        Real at_peak = peak == infinity<Real>() ? peak : (Real)1;
        Real term = largest ? at_peak : exp_difference(item->a, peak);
        sum->terms = plus_product(sum->terms, item->b, term);
    }
    DEVICE void finish(Sum sum)
    {
        total = value_of(sum.terms);
        if (peak != peak)
            total = pair((double)peak, 0.0);
    }
    DEVICE void again(Item *item, i64 index) const
    {
    }
    DEVICE Real result(Item item, i64 index) const
    {
        return 0;
    }
    /* Around 1 what the logarithm's argument lacks to 1 is exact, and matters. */
    static DEVICE double log_of_sum(double hi, double lo)
    {
        bool near_one = 0.5 < hi && hi < 2.0;
        return near_one ? log1p((hi - 1.0) + lo) : log(hi);
    }
    /* Without `sign` the logarithm of a negative sum is NaN. */
    DEVICE void write_row(i64 row) const
    {
        bool negative = total.hi < 0;
        double size = negative ? -total.hi : total.hi,
               rest = negative ? -total.lo : total.lo;
        double log_sum =
            size == 0 ? -infinity<double>() : log_of_sum(size, rest) + peak;
        Real result = (Real)log_sum;
        from_real(!sign && negative ? not_a_number<Real>() : result, y + row);
        if (sign)
            from_real((Real)(size > 0 ? (negative ? -1.0 : 1.0) : total.hi),
                      sign + row);
    }
};

/* ---- operations: gradients ---- */

/* y is what softmax (log_softmax) returned, dy the gradient of a loss with respect to
 * it. */
template <class T> struct VjpFamily {
    typedef T Type;
    typedef typename Computed<T>::type Real;
    enum { INPUTS = 2, HAS_PEAK = 0, HAS_SUM = 1, HAS_RESULTS = 1 };
    struct Item {
        Real y, dy;
    };
    struct Peak {};
    struct Sum {
        Total<Real> total;
    };

    const T *in, *dy;
    T *y;
    Divisor<Real> temperature;
    Pair<Real> total;

    DEVICE VjpFamily(const void *x, const void *second, void *y, Real temperature)
        : in((const T *)x), dy((const T *)second), y((T *)y), temperature(temperature)
    {
    }

    template <int N> DEVICE void fetch(i64 at, Pack<T, N> raw[2]) const
    {
        raw[0] = load<N>(in + at);
        raw[1] = load<N>(dy + at);
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[2], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            item[j].y = to_real(raw[0].v[j]);
            item[j].dy = to_real(raw[1].v[j]);
        }
    }
    DEVICE bool must_look_again() const
    {
        return false;
    }
    DEVICE bool masked_out(i64 at) const
    {
        return false;
    }
    static DEVICE Real masked_result()
    {
        return 0;
    }
    DEVICE void begin(i64 row, i64 n)
    {
    }
    static DEVICE Peak no_peak()
    {
        return Peak();
    }
    DEVICE Peak peak_of(Item item, i64 index) const
    {
        return Peak();
    }
    static DEVICE Peak join(Peak a, Peak b)
    {
        return a;
    }
    DEVICE void set_peak(Peak found)
    {
    }
    static DEVICE Sum no_sum()
    {
        Sum sum = {no_total<Real>()};
        return sum;
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {plus(a.total, b.total)};
        return sum;
    }
    static DEVICE Sum relative(Sum sum, Peak from, Peak to)
    {
        return sum;
    }
    DEVICE void finish(Sum sum)
    {
        total = pair_of(sum.total);
    }
    DEVICE void again(Item *item, i64 index) const
    {
    }
    DEVICE void write_row(i64 row) const
    {
    }
    DEVICE Real divided(Real a) const
    {
        return temperature.is_one() ? a : temperature.divide(a);
    }
};

template <class T> struct SoftmaxVjp : VjpFamily<T> {
    typedef VjpFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Sum Sum;
    using Family::Family;

    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
        sum->total = plus_product(sum->total, item->y, item->dy);
    }
    DEVICE Real result(Item item, i64 index) const
    {
        return this->divided(item.y * ((item.dy - this->total.hi) - this->total.lo));
    }
};

/* exp(y) beyond some 1e18 (double: 1e153), which no probability is, counts as infinite.
 */
template <class T> struct LogSoftmaxVjp : VjpFamily<T> {
    typedef VjpFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Sum Sum;
    using Family::Family;
    Real factor;

    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
        sum->total = plus(sum->total, item->dy);
    }
    /* exp(y) times a sum beyond the range may lie within it: the sum is made smaller.
     */
    DEVICE void finish(Sum sum)
    {
        Pair<double> exact = value_of(sum.total);
        bool large = fabs(exact.hi) >= 1;
        factor = large ? Exp<Real>::SPARE : (Real)1;
        exact = times(exact, large ? 1.0 / Exp<Real>::SPARE : 1.0);
        Real hi = (Real)exact.hi;
        this->total = settled(pair(hi, (Real)((exact.hi - (double)hi) + exact.lo)));
    }
    DEVICE Real result(Item item, i64 index) const
    {
        bool ordinary = item.y < Exp<Real>::MOST;
        Real e =
            ordinary ? exp_of(item.y, (Real)0) * factor : item.y + infinity<Real>();
        Real rest = fused(-e, this->total.hi, item.dy);
        return this->divided(ordinary ? fused(-e, this->total.lo, rest) : rest);
    }
};
