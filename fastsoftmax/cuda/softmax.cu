/* What the softmaxes, logsumexp and their gradients do with an element and a row: see
 * rows.cu.
 */

/* ---- operations: softmax, log_softmax, logsumexp ---- */

/* What an operation has:
 *   in, mask         arrays to read elements from, or NULL: the second input, the mask
 *   neutral          what elements beyond the end are taken for
 *   Item, items      an element in registers; of what was read, as it is in memory
 *   Row, begin       what is known of a row, and at its start
 *   peak_of, join    the peak of elements
 *   take_peak        for a thread: what its own elements have for a peak
 *   to_quotients     divides its items by the temperature, then
 *   start, add       their sum, an Adding; KEEPS: makes the item what `result` needs,
 *                    which is what `again` makes of an item that was read again
 *   finish           peak and sum of the row
 *   result           what is written for an item
 *   write_row        what is written once a row
 * `index` counts elements from the beginning of the row. */
template <class T> struct SoftmaxFamily {
    typedef T Type;
    typedef typename Computed<T>::type Real;
    enum { INPUTS = 1, HAS_PEAK = 1, HAS_SUM = 1, HAS_RESULTS = 1 };
    enum { KEEPS = 1, SECOND_MAY_LACK = 0, READS_AGAIN = 1 };
    struct Item {
        Real x;
    };
    struct Peak {
        Real x;
    };
    struct Sum {
        Pair<Real> terms; /* exp(x), in the frame of the peak */
    };
    typedef FromLargest<Real> Adding;
    struct Row {
        Peak own;                           /* the thread's */
        Frame<Real> frame = Frame<Real>(0); /* of it: that of its terms */
        Pair<Real> factor;
        Real scale;
        bool special; /* a NaN, +inf, or nothing but -inf */
    };

    const T *in[1];
    const u8 *mask;
    T *y;
    Real temperature;

    DEVICE SoftmaxFamily(const void *x, const void *second, void *y, Real temperature)
        : in{(const T *)x}, mask((const u8 *)second), y((T *)y),
          temperature(temperature)
    {
    }
    static DEVICE Real neutral(int input)
    {
        return -infinity<Real>();
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[1], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) item[j].x = to_real(raw[0].v[j]);
    }
    /* Divides; beside a peak whose quotient may leave the range, its difference to the
     * peak. Elements then differ by 2^-25 of the range, or not at all: the terms of all
     * that are smaller are 0. */
    template <class I, int N> DEVICE void to_quotients(Row &row, I (&item)[N]) const
    {
        if (temperature != (Real)1) {
            Divisor<Real> divisor(temperature);
            Real base = is_large(row.own) ? row.own.x : (Real)0;
#pragma unroll
            for (int j = 0; j < N; j++) item[j].x = divisor.divide(item[j].x - base);
        }
        row.frame = Frame<Real>(scaled(row.own));
    }
    DEVICE bool is_large(Peak peak) const
    {
        return temperature < (Real)1 && is_finite(peak.x) &&
               Exp<Real>::HALF_OF_RANGE * temperature < fabs(peak.x);
    }
    /* Whether an element that large is nothing beside one that is larger. */
    DEVICE bool is_nothing(Peak peak, Peak beside) const
    {
        return peak.x != beside.x && (is_large(peak) || is_large(beside));
    }
    /* Of a peak, as an item. */
    DEVICE Real scaled(Peak peak) const
    {
        if (temperature == (Real)1)
            return peak.x;
        return is_large(peak) ? (Real)0 : Divisor<Real>(temperature).divide(peak.x);
    }
    DEVICE Row begin(i64 row, i64 n) const
    {
        return Row();
    }

    static DEVICE Peak no_peak()
    {
        Peak peak = {-infinity<Real>()};
        return peak;
    }
    static DEVICE Peak peak_of(const Row &row, Item item, i64 index)
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
    static DEVICE Sum sum_of(const Adding &adding)
    {
        Sum sum = {adding.total()};
        return sum;
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {plus(a.terms, b.terms)};
        return sum;
    }
    /* The sum of a piece that has a peak of its own, in the frame of the row's. */
    DEVICE Sum relative(Sum sum, Peak from, Peak to) const
    {
        if (is_nothing(from, to))
            return no_sum();
        Frame<Real> of_row(scaled(to));
        sum.terms = Move<Real>(Frame<Real>(scaled(from)), of_row)(sum.terms);
        return sum;
    }
    static DEVICE void take_peak(Row &row, Peak peak)
    {
        row.own = peak;
    }
    static DEVICE Real term(const Row &row, Real x)
    {
        return Terms<T>::of(x - row.frame.base, row.frame.shift);
    }
    DEVICE Adding start(const Row &row) const
    {
        return Adding(term(row, scaled(row.own)));
    }
    DEVICE void add(const Row &row, Adding *adding, Item *item, i64 index,
                    int place) const
    {
        adding->add(term(row, item->x), place);
    }
    DEVICE void again(const Row &row, Item *item, i64 index) const
    {
    }
    /* log(sum(exp(x - peak))): the largest term is left out of log1p's argument. */
    DEVICE Real log_terms(Peak peak, Sum sum) const
    {
        Real x = scaled(peak);
        Frame<Real> frame(x);
        Real largest = Terms<T>::of(x - frame.base, frame.shift);
        return log1p_of(((sum.terms.hi - largest) + sum.terms.lo) / largest);
    }
    static DEVICE Real masked_result()
    {
        return 0;
    }
    /* Masked entries are read as -inf, which in an ordinary row gives the right
     * results. In the others the mask is looked at again. */
    DEVICE bool must_look_again(const Row &row) const
    {
        return row.special && mask;
    }
    DEVICE void write_row(const Row &row, i64 number) const
    {
    }
};

template <class T, class A> struct AddingOfSoftmax {
    typedef Plain type;
};
template <class A> struct AddingOfSoftmax<A, A> {
    typedef Compensated<A> type;
};

template <class T> struct Softmax : SoftmaxFamily<T> {
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Peak Peak;
    typedef typename Family::Sum Sum;
    typedef typename Family::Row Row;
    typedef typename AddingOfSoftmax<T, Real>::type Adding;
    using Family::Family;

    static DEVICE Adding start(const Row &row)
    {
        return Adding();
    }
    static DEVICE Sum sum_of(const Adding &adding)
    {
        Sum sum = {adding.total()};
        return sum;
    }
    DEVICE void add(const Row &row, Adding *adding, Item *item, i64 index,
                    int place) const
    {
        again(row, item, index);
        adding->add(item->x, place);
    }
    DEVICE void again(const Row &row, Item *item, i64 index) const
    {
        item->x = this->term(row, item->x);
    }
    /* 1 / (hi + lo) as a pair: what 1 - hi h leaves, divided once more. `scale` apart
     * from it: their product could be below the range where a result is not. */
    DEVICE void finish(Row &row, Peak peak, Sum sum) const
    {
        Frame<Real> own(this->scaled(row.own)), of_row(this->scaled(peak));
        Move<Real> move(own, of_row);
        Real h = (Real)1 / sum.terms.hi;
        Real rest = fused(-h, sum.terms.hi, (Real)1) - h * sum.terms.lo;
        row.special = !is_finite(peak.x);
        row.factor = times(pair(h, h * rest), move.by);
        row.factor.hi = row.special ? not_a_number<Real>() : row.factor.hi;
        row.scale = this->is_nothing(row.own, peak) ? (Real)0 : move.power;
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        Real low = sizeof(T) == 2 ? (Real)0 : item.x * row.factor.lo;
        return fused(item.x, row.factor.hi, low) * row.scale;
    }
};

template <class T> struct LogSoftmax : SoftmaxFamily<T> {
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Peak Peak;
    typedef typename Family::Row Row;
    using Family::Family;

    static DEVICE Real masked_result()
    {
        return -infinity<Real>();
    }
    /* What is subtracted, as a pair: of the largest x nothing is lost beside it. Beside
     * infinities x - peak says it all. */
    DEVICE void finish(Row &row, typename Family::Peak peak,
                       typename Family::Sum sum) const
    {
        Real log = this->log_terms(peak, sum), x = this->scaled(peak);
        row.special = !is_finite(peak.x);
        row.factor = row.special ? pair(peak.x, (Real)0) : two_sum(x, log);
        if (this->is_nothing(row.own, peak))
            row.factor = far_above(row.own, peak);
    }
    /* The quotient of a peak beside which a thread's own is nothing, in two halves: the
     * whole may leave the range where its difference to an item does not. */
    DEVICE Pair<Real> far_above(Peak own, Peak peak) const
    {
        Real base = this->is_large(own) ? own.x * (Real).5 : (Real)0;
        Real half = Divisor<Real>(this->temperature).divide(peak.x * (Real).5 - base);
        half = own.x == -infinity<Real>() ? (Real)0 : half;
        return pair(half, half);
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        return (item.x - row.factor.hi) - row.factor.lo;
    }
};

template <class T> struct LogSumExp : SoftmaxFamily<T> {
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Row Row;
    enum { HAS_RESULTS = 0 };
    using Family::Family;

    DEVICE void finish(Row &row, typename Family::Peak peak,
                       typename Family::Sum sum) const
    {
        Real x = this->is_large(peak) ? peak.x / this->temperature : this->scaled(peak);
        row.factor.hi = is_finite(peak.x) ? x + this->log_terms(peak, sum) : peak.x;
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        return 0;
    }
    DEVICE void write_row(const Row &row, i64 number) const
    {
        from_real(row.factor.hi, this->y + number);
    }
};

/* What operations have in common that are not of this family; S is their sum. */
template <class T, class S> struct Summing {
    typedef T Type;
    typedef typename Computed<T>::type Real;
    typedef S Sum;
    typedef S Adding;
    enum { KEEPS = 0, SECOND_MAY_LACK = 0, READS_AGAIN = 1 };

    static DEVICE S no_sum()
    {
        S sum = {};
        return sum;
    }
    template <class Row> static DEVICE S start(const Row &row)
    {
        return no_sum();
    }
    static DEVICE S sum_of(const S &adding)
    {
        return adding;
    }
    template <class Row, class Item>
    static DEVICE void again(const Row &row, Item *item, i64 index)
    {
    }
    template <class Row, class Items>
    static DEVICE void to_quotients(const Row &row, const Items &items)
    {
    }
    template <class Row> static DEVICE bool must_look_again(const Row &row)
    {
        return false;
    }
    static DEVICE Real masked_result()
    {
        return 0;
    }
};

/* log|sum(b exp(a))| and the sum's sign; the second input is b, or NULL for ones.
 * Entries with b = 0 do not count. */
template <class A> struct WeightedSum {
    Total<A> terms; /* b exp(a), in the frame of the peak */
};
template <class T>
struct WeightedLogSumExp : Summing<T, WeightedSum<typename Computed<T>::type>> {
    typedef typename Computed<T>::type Real;
    typedef SoftmaxFamily<T> Family;
    typedef typename Family::Peak Peak;
    typedef WeightedSum<Real> Sum;
    enum { INPUTS = 2, HAS_PEAK = 1, HAS_SUM = 1, HAS_RESULTS = 0 };
    enum { SECOND_MAY_LACK = 1 };
    struct Item {
        Real a, b;
    };
    struct Row {
        Frame<Real> frame = Frame<Real>(0);
        Real peak;          /* of the row */
        Pair<double> total; /* relative to exp(peak) */
    };

    const T *in[2];
    static constexpr const u8 *mask = nullptr;
    T *y, *sign;

    DEVICE WeightedLogSumExp(const void *x, const void *second, void *y,
                             Real temperature, T *sign)
        : in{(const T *)x, (const T *)second}, y((T *)y), sign(sign)
    {
    }
    static DEVICE Real neutral(int input)
    {
        return input ? (Real)1 : -infinity<Real>();
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[2], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            item[j].b = to_real(raw[1].v[j]);
            item[j].a = item[j].b == (Real)0 ? -infinity<Real>() : to_real(raw[0].v[j]);
        }
    }
    DEVICE Row begin(i64 row, i64 n) const
    {
        return Row();
    }
    static DEVICE Peak no_peak()
    {
        return Family::no_peak();
    }
    static DEVICE Peak join(Peak x, Peak y)
    {
        return Family::join(x, y);
    }
    static DEVICE Sum join(Sum x, Sum y)
    {
        Sum sum = {plus(x.terms, y.terms)};
        return sum;
    }
    static DEVICE Sum relative(Sum sum, Peak from, Peak to)
    {
        sum.terms =
            moved(sum.terms, Move<Real>(Frame<Real>(from.x), Frame<Real>(to.x)));
        return sum;
    }
    static DEVICE Peak peak_of(const Row &row, Item item, i64 index)
    {
        Peak peak = {item.a};
        return peak;
    }
    static DEVICE void take_peak(Row &row, Peak peak)
    {
        row.frame = Frame<Real>(peak.x);
    }
    DEVICE void add(const Row &row, Sum *sum, Item *item, i64 index, int place) const
    {
        Real term = Terms<Real>::of(item->a - row.frame.base, row.frame.shift);
        term = item->a == infinity<Real>() ? item->a : term;
        sum->terms = plus_product(sum->terms, item->b, term);
    }
    /* Around 1 what the logarithm's argument lacks to 1 is exact, and matters. */
    static DEVICE double log_of(double sum, double rest)
    {
        return 0.5 < sum && sum < 2.0 ? log1p(rest) : log(sum);
    }
    DEVICE void finish(Row &row, Peak peak, Sum sum) const
    {
        row.peak = peak.x;
        row.total = value_of(sum.terms);
        if (peak.x != peak.x)
            row.total = pair((double)peak.x, 0.0);
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        return 0;
    }
    /* Without `sign` the logarithm of a negative sum is NaN. */
    DEVICE void write_row(const Row &row, i64 number) const
    {
        Frame<Real> frame(row.peak);
        double unit = Terms<Real>::of(row.peak - frame.base, frame.shift);
        bool negative = row.total.hi < 0;
        double size = negative ? -row.total.hi : row.total.hi,
               lo = negative ? -row.total.lo : row.total.lo;
        double log_sum = size == 0 ? -infinity<double>() : (double)row.peak;
        if (is_finite(log_sum) && is_finite(size))
            log_sum += log_of(size / unit, ((size - unit) + lo) / unit);
        else if (size != 0)
            log_sum = size;
        from_real(!sign && negative ? not_a_number<Real>() : (Real)log_sum, y + number);
        if (sign)
            from_real((Real)(size > 0 ? (negative ? -1.0 : 1.0) : row.total.hi),
                      sign + number);
    }
};

/* ---- operations: gradients ---- */

/* y is what softmax (log_softmax) returned, dy the gradient of a loss with respect to
 * it. */
template <class A> struct VjpSum {
    Total<A> total;
};
template <class T> struct VjpFamily : Summing<T, VjpSum<typename Computed<T>::type>> {
    typedef typename Computed<T>::type Real;
    typedef VjpSum<Real> Sum;
    enum { INPUTS = 2, HAS_PEAK = 0, HAS_SUM = 1, HAS_RESULTS = 1 };
    struct Item {
        Real y, dy;
    };
    struct Peak {};
    struct Row {
        Pair<Real> total;
        Real factor;
    };

    const T *in[2];
    static constexpr const u8 *mask = nullptr;
    T *y;
    Divisor<Real> temperature;

    DEVICE VjpFamily(const void *x, const void *second, void *y, Real temperature)
        : in{(const T *)x, (const T *)second}, y((T *)y), temperature(temperature)
    {
    }
    static DEVICE Real neutral(int input)
    {
        return 0;
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[2], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            item[j].y = to_real(raw[0].v[j]);
            item[j].dy = to_real(raw[1].v[j]);
        }
    }
    DEVICE Row begin(i64 row, i64 n) const
    {
        return Row();
    }
    static DEVICE Peak no_peak()
    {
        return Peak();
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {plus(a.total, b.total)};
        return sum;
    }
    DEVICE void write_row(const Row &row, i64 number) const
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
    typedef typename Family::Row Row;
    using Family::Family;

    DEVICE void add(const Row &row, Sum *sum, Item *item, i64 index, int place) const
    {
        sum->total = plus_product(sum->total, item->y, item->dy);
    }
    DEVICE void finish(Row &row, typename Family::Peak peak, Sum sum) const
    {
        row.total = pair_of(sum.total);
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        return this->divided(item.y * ((item.dy - row.total.hi) - row.total.lo));
    }
};

/* exp(y) beyond some 1e18 (double: 1e120), which no probability is, counts as infinite.
 */
template <class T> struct LogSoftmaxVjp : VjpFamily<T> {
    typedef VjpFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Sum Sum;
    typedef typename Family::Row Row;
    using Family::Family;

    DEVICE void add(const Row &row, Sum *sum, Item *item, i64 index, int place) const
    {
        sum->total = plus(sum->total, item->dy);
    }
    /* exp(y) times a sum beyond the range may lie within it: the sum is made smaller.
     */
    DEVICE void finish(Row &row, typename Family::Peak peak, Sum sum) const
    {
        typedef Exp<Real> E;
        Pair<double> exact = value_of(sum.total);
        bool large = fabs(exact.hi) >= 1;
        row.factor = (large ? E::FACTOR : (Real)1) * E::UNIT;
        double smaller = large ? 1.0 / E::FACTOR : 1.0;
        exact = pair(exact.hi * smaller, exact.lo * smaller);
        Real hi = (Real)exact.hi;
        row.total = settled(pair(hi, (Real)((exact.hi - (double)hi) + exact.lo)));
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        bool ordinary = item.y < Exp<Real>::MOST;
        Real e = Terms<T>::of(item.y, Shift<Real>((Real)0)) * row.factor;
        e = ordinary ? e : item.y + infinity<Real>();
        Real rest = fused(-e, row.total.hi, item.dy);
        return this->divided(ordinary ? fused(-e, row.total.lo, rest) : rest);
    }
};
