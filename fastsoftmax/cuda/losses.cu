/* What losses have in common: which rows count, and the sum over rows. See rows.cu.
 */

/* The weight of each row, 0 where it does not count: for its label, or because the mask
 * takes out all elements but a positive. TEAM threads share a row, to read its mask.
 *   labels       of rows; NULL: a positive is in column 0
 *   weights      of rows; NULL: 1
 *   ignores      whether rows with the label `ignored` do not count
 *   positives    how many are in a row: 0 or 1
 *   weighed      OUT: the weights
 *   left         OUT: how many elements the mask leaves, but for a positive; or NULL
 *   counted      OUT: the weights, or 1 for each row that counts: `counts`; or NULL */
template <int TEAM>
KERNEL(128)
weigh_rows(const i64 *labels, const double *weights, const u8 *mask, i64 rows, i64 n,
           i64 ignored, int ignores, int positives, int counts, double *weighed,
           i64 *left, double *counted)
{
    const i64 number = (i64)blockIdx.x * (128 / TEAM) + threadIdx.x / TEAM;
    if (number >= rows)
        return;
    const i64 label = labels ? labels[number] : 0;
    double weight = weights ? weights[number] : 1.0;
    if (ignores && label == ignored)
        weight = 0;
    i64 kept = n - positives;
    if (mask && kept > 0) {
        kept = 0;
        for (i64 i = threadIdx.x % TEAM; i < n; i += TEAM)
            kept += mask[number * n + i] && !(positives && i == label);
#pragma unroll
        for (int lanes = TEAM / 2; lanes > 0; lanes /= 2)
            kept += from_lane(kept, lanes);
        weight = kept ? weight : 0.0;
    }
    if (threadIdx.x % TEAM)
        return;
    weighed[number] = weight;
    if (left)
        left[number] = kept;
    if (counted)
        counted[number] = counts ? (double)(weight != 0) : weight;
}

/* Sums of chunks of `parts`, a block to a chunk; or, where there is one, the sum over
 * what divides it: `by`, or *total, of which 0 makes it NaN. */
template <class A>
KERNEL(256)
add_up(const double *parts, i64 count, i64 chunk, double by, const double *total,
       double *sums, A *sum)
{
    __shared__ double of_warps[8];
    const i64 begin = blockIdx.x * chunk,
              end = begin + chunk < count ? begin + chunk : count;
    double own = 0;
    for (i64 i = begin + threadIdx.x; i < end; i += 256) own += parts[i];
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) own += from_lane(own, lanes);
    if (threadIdx.x % 32 == 0)
        of_warps[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x)
        return;
    for (int warp = 1; warp < 8; warp++) own += of_warps[warp];
    if (!sum)
        sums[blockIdx.x] = own;
    else if (total)
        *sum = (A)(*total == 0 ? not_a_number<double>() : own / *total);
    else
        *sum = (A)(own / by);
}
