/* Hinge losses: x and its gradient are [outer = 1, n, inner] or rows [inner, n]. */
#include "driver.h"

#include <string.h>

/* Rows of n scores (r->outer of them), or r->inner columns. */
static void describe(fs_hinge *job, const request *r, char *const array[FS_ARRAYS])
{
    int columns = r->inner > 1;
    ptrdiff_t x_size = (ptrdiff_t)size_of(r->x_type);
    ptrdiff_t y_size = (ptrdiff_t)size_of(r->y_type);
    ptrdiff_t along_n = columns ? r->inner : 1, along_rows = columns ? 1 : r->n;
    memset(job, 0, sizeof *job);
    job->compute = (fs_type)r->compute;
    job->p = (int)r->p;
    job->largest = (int)r->largest;
    job->margin = r->margin;
    job->scale = 1;
    job->written = FS_GRADIENT;
    job->y_type = (fs_type)r->y_type;
    job->pos_type = (fs_type)r->x_type;
    job->outer = 1;
    job->n = r->n;
    job->inner = columns ? r->inner : r->outer;
    job->by_columns = columns || r->n <= FS_HINGE_SHORT;
    memcpy(job->array, array, sizeof job->array);
    const ptrdiff_t sizes[] = {[FS_SCORES] = x_size, [FS_MASK] = 1, [FS_OUT] = y_size};
    for (int a = FS_SCORES; a <= FS_OUT; a++) {
        job->step_n[a] = along_n * sizes[a];
        job->step_inner[a] = along_rows * sizes[a];
    }
    job->step_inner[FS_POSITIVES] = x_size;
    job->step_inner[FS_LABELS] = sizeof(int64_t);
    job->step_inner[FS_LOSSES] = (ptrdiff_t)size_of(r->compute);
    job->step_inner[FS_OUT_POSITIVES] = y_size;
    job->source = (fs_source){r->x_type == r->compute,
                              (fs_type)r->x_type,
                              0,
                              job->step_n[FS_SCORES],
                              job->step_inner[FS_SCORES],
                              0,
                              0,
                              1,
                              0};
    job->watch.poll = never;
}

/* Losses, gradient, and the positives' gradient where there are no labels. */
void run_hinge(const fs_kernels *kernels, const request *r)
{
    size_t rows = (size_t)(r->outer * r->inner), scores = rows * (size_t)r->n;
    const size_t bytes[FS_ARRAYS] = {
        [FS_SCORES] = scores * size_of(r->x_type),
        [FS_MASK] = r->masked ? scores : 0,
        [FS_LABELS] = r->labelled ? rows * sizeof(int64_t) : 0,
        [FS_POSITIVES] = r->labelled ? 0 : rows * size_of(r->x_type),
        [FS_OUT] = scores * size_of(r->y_type),
        [FS_LOSSES] = rows * size_of(r->compute),
        [FS_OUT_POSITIVES] = r->labelled ? 0 : rows * size_of(r->y_type),
    };
    const int in[] = {FS_SCORES, FS_MASK, FS_LABELS, FS_POSITIVES};
    const int out[] = {FS_LOSSES, FS_OUT, FS_OUT_POSITIVES};
    char *array[FS_ARRAYS] = {NULL};
    for (int i = 0; i < 4; i++)
        if (bytes[in[i]])
            array[in[i]] = receive(bytes[in[i]]);
    for (int i = 0; i < 3; i++)
        if (bytes[out[i]])
            array[out[i]] = guarded(bytes[out[i]]);
    fs_hinge job;
    describe(&job, r, array);
    for (ptrdiff_t unit = fs_hinge_units(&job) - 1; unit >= 0; unit--)
        kernels->hinge->unit(&job, unit);
    for (int i = 0; i < 3; i++)
        if (bytes[out[i]])
            send_back(array[out[i]], bytes[out[i]]);
    for (int a = 0; a < FS_ARRAYS; a++)
        if (array[a])
            release(array[a], bytes[a]);
}
