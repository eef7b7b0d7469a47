/* What cross-entropy does with an element and a row: see rows.cu.
 *
 *   loss = -sum(t log_softmax(x)),  gradient = weight scale (softmax(x) sum(t) - t)
 */

/* ---- operations: cross-entropy ---- */

/* Targets t are the second input, or 1 at the row's label; smoothed, they are
 * t keep + share. Beside softmax's sum of terms a row has sum(t (x - peak)) and sum(t):
 * no target that is not negative cancels another, and a loss next to 0 is as good as
 * any. It is computed in Softmax<Real>: of 16 bits, too, losses are float32. */
template <class T> struct CrossEntropy : Softmax<typename Computed<T>::type> {
    typedef Softmax<typename Computed<T>::type> Base;
    typedef T Type;
    typedef typename Base::Real Real;
    typedef typename Base::Peak Peak;
    enum { INPUTS = 2, SECOND_MAY_LACK = 1 };
    struct Item : Base::Item {
        Real t;
    };
    struct Sum : Base::Sum {
        double products, targets; /* sum(t (x - peak)), sum(t) */
    };
    struct Adding : FromLargest<Real> {
        double products = 0, targets = 0;
        using FromLargest<Real>::FromLargest;
    };
    struct Row : Base::Row {
        i64 n, first; /* its length, where it begins */
        i64 label;    /* -1: targets are in memory */
        Real keep, share;
        Real by, targets; /* of the gradient; sum(t) */
        double weight, loss;
    };

    const T *in[2];
    RowLosses<Real> rows; /* labels may be NULL: targets are `second` */
    const i64 *left;      /* of each row's elements; NULL: n */
    double smoothing;

    DEVICE CrossEntropy(const void *x, const void *second, void *y, Real temperature,
                        const i64 *labels, const double *weights, const double *total,
                        Real *losses, double *parts, double scale, const u8 *mask,
                        const i64 *left, double smoothing)
        : Base(x, mask, y, temperature), in{(const T *)x, (const T *)second},
          rows{labels, weights, total, losses, parts, scale}, left(left),
          smoothing(smoothing)
    {
    }
    static DEVICE Real neutral(int input)
    {
        return input ? (Real)0 : -infinity<Real>();
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[2], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) {
            item[j].x = to_real(raw[0].v[j]);
            item[j].t = to_real(raw[1].v[j]);
        }
    }
    /* A label that is not in the row makes all targets NaN. */
    DEVICE Row begin(i64 number, i64 n) const
    {
        Row row;
        row.n = n;
        row.first = number * n;
        row.label = rows.labels ? rows.labels[number] : -1;
        row.weight = rows.weight_of(number);
        row.by = (Real)(row.weight * rows.scale_by_total());
        row.keep = (Real)(1.0 - smoothing);
        row.share = (Real)(smoothing / (double)(left ? left[number] : n));
        if (rows.labels && !(0 <= row.label && row.label < n))
            row.share = not_a_number<Real>();
        return row;
    }

    using Base::join;
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {Base::join(a, b), a.products + b.products, a.targets + b.targets};
        return sum;
    }
    static DEVICE Sum no_sum()
    {
        return Sum{Base::no_sum(), 0, 0};
    }
    static DEVICE Sum sum_of(const Adding &adding)
    {
        return Sum{{adding.total()}, adding.products, adding.targets};
    }
    /* How far a peak is below another; quotients of large ones may leave the range. */
    DEVICE double apart(Peak from, Peak to) const
    {
        if (from.x == to.x)
            return 0;
        if (this->is_large(from) || this->is_large(to))
            return ((double)from.x - (double)to.x) / (double)this->temperature;
        return (double)this->scaled(from) - (double)this->scaled(to);
    }
    DEVICE Sum relative(Sum sum, Peak from, Peak to) const
    {
        sum.terms = Base::relative(sum, from, to).terms;
        if (sum.targets != 0)
            sum.products += sum.targets * apart(from, to);
        return sum;
    }
    DEVICE Adding start(const Row &row) const
    {
        return Adding(this->term(row, this->scaled(row.own)));
    }
    /* Whether an element is masked out, or beyond the end: those are -inf. */
    DEVICE bool is_out(const Row &row, Real x, i64 index) const
    {
        return x == -infinity<Real>() &&
               (index >= row.n || (this->mask && !this->mask[row.first + index]));
    }
    DEVICE void again(const Row &row, Item *item, i64 index) const
    {
        Real t = rows.labels ? (Real)(index == row.label) : item->t;
        t = fused(t, row.keep, row.share);
        item->t = is_out(row, item->x, index) ? (Real)0 : t;
        item->x = this->term(row, item->x);
    }
    /* A label that is masked out has a loss, of inf, if nothing is smoothed. */
    DEVICE void add(const Row &row, Adding *adding, Item *item, i64 index,
                    int place) const
    {
        double x = item->x;
        again(row, item, index);
        adding->add(item->x, place);
        bool is_hard = index == row.label && row.share == 0;
        double t = is_hard ? 1.0 : (double)item->t;
        if (t != 0) {
            double below = x - (double)this->scaled(row.own);
            adding->products += t * (x == -infinity<double>() ? x : below);
            adding->targets += t;
        }
    }
    DEVICE void finish(Row &row, Peak peak, Sum sum) const
    {
        Base::finish(row, peak, sum);
        row.targets = (Real)sum.targets;
        row.loss = -sum.products;
        if (!row.special)
            row.loss += sum.targets * this->log_terms(peak, sum);
        else if (peak.x != infinity<Real>())
            row.loss = not_a_number<double>();
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        Real slope = fused(Base::result(row, item, index), row.targets, -item.t);
        return row.weight == 0 ? (Real)0 : slope * row.by;
    }
    DEVICE void write_row(const Row &row, i64 number) const
    {
        rows.write(number, row.loss, row.weight);
    }
};
