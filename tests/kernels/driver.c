/* Runs the kernels without Python, for machines that are only emulated.
 *
 *   driver isas                       the ISAs that fs_supported finds, best first
 *   driver run ISA                    jobs from standard input, results to the output
 *   driver exp ISA FIRST LAST STRIDE  the exponential's largest error
 *
 * An ISA that is named is used whether the processor has it or not: AVX-512 may be an
 * emulation. `best` is what fs_supported says. Work is cut as in _cpu.pyx, but the last
 * block is done first, so that what is written beyond a block's end shows.
 */
#include "driver.h"

#include <string.h>

static const fs_table *find_table(const char *isa)
{
    const fs_table *supported[8];
    if (strcmp(isa, "best") == 0 && fs_supported(supported, 8) > 0)
        return supported[0];
    for (const fs_table *const *table = fs_tables; *table; table++)
        if (strcmp((*table)->isa, isa) == 0)
            return *table;
    fprintf(stderr, "no ISA %s in this build\n", isa);
    exit(2);
}

char *receive(size_t bytes)
{
    char *memory = guarded(bytes);
    if (fread(memory, 1, bytes, stdin) != bytes) {
        fputs("a job ends too early\n", stderr);
        exit(2);
    }
    return memory;
}

void send_back(const char *from, size_t bytes)
{
    fwrite(from, 1, bytes, stdout);
}

static int is_vjp(const request *r)
{
    return r->task == FS_SOFTMAX_VJP || r->task == FS_LOG_SOFTMAX_VJP;
}

/* A job over x, the mask or dy in `second`, and y. */
static void describe(fs_job *job, const request *r, const char *x, const char *second,
                     char *y)
{
    ptrdiff_t x_size = (ptrdiff_t)size_of(r->x_type);
    ptrdiff_t y_size = (ptrdiff_t)size_of(r->y_type);
    ptrdiff_t second_size = is_vjp(r) ? x_size : 1, line = r->n * r->inner;
    int plain = is_vjp(r) || (r->temperature == 1 && !r->masked);
    memset(job, 0, sizeof *job);
    job->op = (fs_op)r->task;
    job->compute = (fs_type)r->compute;
    job->y_type = (fs_type)r->y_type;
    job->source = (fs_source){plain && r->x_type == r->compute,
                              (fs_type)r->x_type,
                              0,
                              r->inner * x_size,
                              x_size,
                              r->inner * second_size,
                              second_size,
                              is_vjp(r) ? 1 : r->temperature,
                              0};
    job->dy_source = job->source;
    job->divisor = r->temperature;
    job->x = x;
    job->mask = second;
    job->y = y;
    job->past_caches = (int)r->past_caches;
    job->outer = r->outer;
    job->n = r->n;
    job->inner = r->inner;
    job->y_n = r->inner * y_size;
    job->y_inner = y_size;
    job->n_outer = 1;
    job->outer_shape[0] = r->outer;
    job->outer_x[0] = line * x_size;
    job->outer_mask[0] = line * second_size;
    job->outer_y[0] = (r->task == FS_LOGSUMEXP ? r->inner : line) * y_size;
    job->watch.poll = never;
}

static void each_block_of_rows(const fs_kernels *k, fs_job *job)
{
    ptrdiff_t step = job->n < FS_PIECE ? FS_PIECE / job->n : 1;
    for (ptrdiff_t block = (job->outer - 1) / step; block >= 0; block--)
        k->rows(job, block * step, fs_least(job->outer, (block + 1) * step));
}

static void each_tile(const fs_kernels *k, fs_job *job)
{
    job->tile = FS_TILE;
    ptrdiff_t tiles = (job->inner + job->tile - 1) / job->tile * job->outer;
    while (tiles-- > 0) k->columns(job, tiles);
}

static void long_row(const fs_kernels *k, fs_job *job, ptrdiff_t row)
{
    fs_line line = fs_locate(job, row);
    ptrdiff_t n = job->n, block = 0;
    double max = -INFINITY;
    for (ptrdiff_t i = 0; job->op <= FS_LOGSUMEXP && i < n; i += FS_PIECE) {
        ptrdiff_t here;
        double m = k->row_max(job, line, i, fs_least(n, i + FS_PIECE), &here);
        block = m > max ? here : block;
        max = m > max ? m : max;
    }
    fs_pair sum = {0, 0};
    for (ptrdiff_t i = 0; i < n; i += FS_PIECE)
        sum = fs_pair_add(
            sum, k->row_sum(job, line, i, fs_least(n, i + FS_PIECE), max, block));
    fs_norm norm = k->row_norm(job, line, max, sum);
    if (job->op == FS_LOGSUMEXP)
        return;
    for (ptrdiff_t i = (n - 1) / FS_PIECE * FS_PIECE; i >= 0; i -= FS_PIECE)
        k->row_finish(job, line, i, fs_least(n, i + FS_PIECE), &norm);
}

static void run_softmax(const fs_kernels *kernels, const request *r)
{
    size_t elements = (size_t)(r->outer * r->n * r->inner);
    size_t results = r->task == FS_LOGSUMEXP ? (size_t)(r->outer * r->inner) : elements;
    size_t x_bytes = elements * size_of(r->x_type),
           y_bytes = results * size_of(r->y_type);
    size_t second_bytes = is_vjp(r) ? x_bytes : r->masked ? elements : 0;
    char *x = receive(x_bytes);
    char *second = second_bytes ? receive(second_bytes) : NULL;
    char *y = r->in_place ? x : guarded(y_bytes);
    fs_job job;
    describe(&job, r, x, second, y);
    if (r->inner > 1)
        each_tile(kernels, &job);
    else if (!r->in_pieces)
        each_block_of_rows(kernels, &job);
    else
        for (ptrdiff_t row = job.outer - 1; row >= 0; row--)
            long_row(kernels, &job, row);
    send_back(y, y_bytes);
    if (!r->in_place)
        release(y, y_bytes);
    if (second)
        release(second, second_bytes);
    release(x, x_bytes);
}

static void run_all(const fs_table *table)
{
    request r;
    while (fread(&r, sizeof r, 1, stdin) == 1) {
        const fs_kernels *kernels = r.compute == FS_F32 ? table->f32 : table->f64;
        if (r.task == HINGE)
            run_hinge(kernels, &r);
        else
            run_softmax(kernels, &r);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "isas") == 0) {
        const fs_table *tables[8];
        int count = fs_supported(tables, 8);
        for (int i = 0; i < count; i++) puts(tables[i]->isa);
    } else if (argc == 3 && strcmp(argv[1], "run") == 0) {
        run_all(find_table(argv[2]));
    } else if (argc == 6 && strcmp(argv[1], "exp") == 0) {
        run_exp(find_table(argv[2])->f32, (uint32_t)strtoul(argv[3], NULL, 0),
                (uint32_t)strtoul(argv[4], NULL, 0),
                (uint32_t)strtoul(argv[5], NULL, 0));
    } else {
        fputs("driver isas | run ISA | exp ISA FIRST LAST STRIDE\n", stderr);
        return 2;
    }
    return 0;
}
