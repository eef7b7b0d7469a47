/* Where the lines of a job are. */
#include "job.h"

/* The line of that index along the dimensions from `first` up to `end`. */
static fs_line along(const fs_job *job, fs_line line, int first, int end,
                     ptrdiff_t index)
{
    ptrdiff_t place[FS_MAX_OUTER];
    for (int d = end - 1; d >= first; d--) {
        place[d] = d > first ? index % job->outer_shape[d] : index;
        index = d > first ? index / job->outer_shape[d] : 0;
    }
    for (int a = 0; a < FS_OPERANDS; a++)
        for (int d = first; line.at[a] && d < end; d++)
            line.at[a] += place[d] * job->outer_step[d][a];
    return line;
}

fs_line fs_locate(const fs_job *job, ptrdiff_t index)
{
    fs_line line;
    for (int a = 0; a < FS_OPERANDS; a++) line.at[a] = job->operand[a].data;
    return along(job, line, 0, job->n_outer, index);
}

fs_line fs_along_runs(const fs_job *job, fs_line line, ptrdiff_t run)
{
    return along(job, line, job->n_outer, job->n_outer + job->n_runs, run);
}

fs_line fs_along_inner(const fs_job *job, fs_line line, ptrdiff_t j)
{
    for (int a = 0; a < FS_OPERANDS; a++)
        if (line.at[a])
            line.at[a] += j * job->operand[a].inner;
    return line;
}
