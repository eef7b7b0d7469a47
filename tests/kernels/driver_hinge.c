/* Hinge losses: x and its gradient are [outer = 1, n, inner] or rows [inner, n]. */
#include "driver.h"

#include <string.h>

/* Rows of n scores (r->outer of them), or r->inner columns. */
static void describe(fs_job *job, const request *r, char *const data[FS_OPERANDS])
{
    int columns = r->inner > 1;
    ptrdiff_t along_n = columns ? r->inner : 1, along_rows = columns ? 1 : r->n;
    const int64_t types[FS_OPERANDS] = {
        [FS_X] = r->x_type,         [FS_MASK] = FS_BOOL,          [FS_Y] = r->y_type,
        [FS_POSITIVES] = r->x_type, [FS_LABELS] = FS_I64,         [FS_WEIGHTS] = FS_F64,
        [FS_LOSSES] = r->compute,   [FS_Y_POSITIVES] = r->y_type,
    };
    memset(job, 0, sizeof *job);
    job->op = FS_HINGE;
    job->compute = (fs_type)r->compute;
    job->p = (int)r->p;
    job->largest = (int)r->largest;
    job->margin = r->margin;
    job->scale = 1;
    job->written = FS_GRADIENT;
    job->outer = 1;
    job->n = r->n;
    job->inner = columns ? r->inner : r->outer;
    job->threads = 1;
    for (int a = 0; a < FS_OPERANDS; a++) {
        ptrdiff_t size = fs_size_of((fs_type)types[a]);
        int elements = a == FS_X || a == FS_MASK || a == FS_Y;
        job->operand[a] = (fs_operand){data[a],
                                       (fs_type)types[a],
                                       0,
                                       types[a] == r->compute,
                                       along_n * size,
                                       elements ? along_rows * size : size,
                                       1,
                                       0,
                                       NULL};
    }
}

/* Losses, gradient, and the positives' gradient where there are no labels. */
void run_hinge(const fs_kernels *kernels, const request *r)
{
    size_t rows = (size_t)(r->outer * r->inner), scores = rows * (size_t)r->n;
    const size_t bytes[FS_OPERANDS] = {
        [FS_X] = scores * size_of(r->x_type),
        [FS_MASK] = r->masked ? scores : 0,
        [FS_LABELS] = r->labelled ? rows * sizeof(int64_t) : 0,
        [FS_POSITIVES] = r->labelled ? 0 : rows * size_of(r->x_type),
        [FS_Y] = scores * size_of(r->y_type),
        [FS_LOSSES] = rows * size_of(r->compute),
        [FS_Y_POSITIVES] = r->labelled ? 0 : rows * size_of(r->y_type),
    };
    const int in[] = {FS_X, FS_MASK, FS_LABELS, FS_POSITIVES};
    const int out[] = {FS_LOSSES, FS_Y, FS_Y_POSITIVES};
    char *array[FS_OPERANDS] = {NULL};
    for (int i = 0; i < 4; i++)
        if (bytes[in[i]])
            array[in[i]] = receive(bytes[in[i]]);
    for (int i = 0; i < 3; i++)
        if (bytes[out[i]])
            array[out[i]] = guarded(bytes[out[i]]);
    fs_job job;
    describe(&job, r, array);
    run_backwards(kernels, &job);
    for (int i = 0; i < 3; i++)
        if (bytes[out[i]])
            send_back(array[out[i]], bytes[out[i]]);
    for (int a = 0; a < FS_OPERANDS; a++)
        if (array[a])
            release(array[a], bytes[a]);
}
