/* Runs the kernels without Python, for machines that are only emulated.
 *
 *   driver isas                       the ISAs that fs_supported finds, best first
 *   driver run ISA                    jobs from standard input, results to the output
 *
 * An ISA that is named is used whether the processor has it or not: AVX-512 may be an
 * emulation. `best` is what fs_supported says.
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

/* The units of each step from the last to the first, so that what is written beyond a
 * unit's end shows. */
void run_backwards(const fs_kernels *kernels, fs_job *job)
{
    fs_watch watch = {.poll = never};
    ptrdiff_t units;
    job->watch = &watch;
    for (int step = 0; (units = kernels->begin(job, step)) > 0; step++)
        while (units-- > 0) kernels->unit(job, step, units);
}

/* An operand over all of x's elements, from their type and temperature. */
static fs_operand over_elements(const request *r, char *data, int64_t type,
                                double temperature)
{
    ptrdiff_t size = fs_size_of((fs_type)type);
    int direct = type == r->compute && temperature == 1;
    return (fs_operand){data, (fs_type)type, 0, direct, r->inner * size,
                        size, temperature,   0, NULL};
}

/* A job over x, the mask or dy in `second`, and y. */
static void describe(fs_job *job, const request *r, char *x, char *second, char *y)
{
    double temperature = is_vjp(r) ? 1 : r->temperature;
    memset(job, 0, sizeof *job);
    job->op = (fs_op)r->task;
    job->compute = (fs_type)r->compute;
    job->operand[FS_X] = over_elements(r, x, r->x_type, temperature);
    job->operand[FS_X].direct &= !r->masked;
    job->operand[FS_Y] = over_elements(r, y, r->y_type, 1);
    job->operand[FS_MASK] = over_elements(r, is_vjp(r) ? NULL : second, FS_BOOL, 1);
    job->operand[FS_DY] = over_elements(r, is_vjp(r) ? second : NULL, r->x_type, 1);
    job->divisor = r->temperature;
    job->cache = r->past_caches ? 0 : 32 << 20;
    job->outer = r->outer;
    job->n = r->n;
    job->inner = r->inner;
    job->n_outer = 1;
    job->outer_shape[0] = r->outer;
    for (int a = FS_X; a <= FS_DY; a++)
        job->outer_step[0][a] = r->n * job->operand[a].n;
    if (r->task == FS_LOGSUMEXP)
        job->outer_step[0][FS_Y] = job->operand[FS_Y].n;
    job->threads = r->in_pieces ? (int)r->outer + 1 : 1;
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
    run_backwards(kernels, &job);
    send_back(y, y_bytes);
    if (!r->in_place)
        release(y, y_bytes);
    if (second)
        release(second, second_bytes);
    release(x, x_bytes);
}

/* Weights of x's type follow x and, if there is one, the mask. */
static void run_weighted(const fs_table *table, const request *r)
{
    size_t elements = (size_t)(r->outer * r->n * r->inner);
    size_t x_bytes = elements * size_of(r->x_type);
    size_t y_bytes = (size_t)(r->outer * r->inner) * size_of(r->y_type);
    char *x = receive(x_bytes), *mask = r->masked ? receive(elements) : NULL;
    char *weights = receive(x_bytes), *y = guarded(y_bytes), *signs = guarded(y_bytes);
    fs_job job;
    describe(&job, r, x, mask, y);
    job.compute = FS_F64;
    job.run = r->n;
    job.operand[FS_X].direct = 1;
    job.operand[FS_WEIGHTS] = job.operand[FS_X];
    job.operand[FS_WEIGHTS].data = weights;
    job.operand[FS_SIGNS] = job.operand[FS_Y];
    job.operand[FS_SIGNS].data = signs;
    job.outer_step[0][FS_WEIGHTS] = job.outer_step[0][FS_X];
    job.outer_step[0][FS_Y] = job.outer_step[0][FS_SIGNS] = job.operand[FS_Y].n;
    run_backwards(table->f64, &job);
    send_back(y, y_bytes);
    send_back(signs, y_bytes);
    release(x, x_bytes);
    release(weights, x_bytes);
    if (mask)
        release(mask, elements);
    release(y, y_bytes);
    release(signs, y_bytes);
}

static void run_all(const fs_table *table)
{
    request r;
    while (fread(&r, sizeof r, 1, stdin) == 1) {
        const fs_kernels *kernels = r.compute == FS_F32 ? table->f32 : table->f64;
        if (r.task == HINGE)
            run_hinge(kernels, &r);
        else if (r.task == WEIGHTED)
            run_weighted(table, &r);
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
    } else {
        fputs("driver isas | run ISA\n", stderr);
        return 2;
    }
    return 0;
}
