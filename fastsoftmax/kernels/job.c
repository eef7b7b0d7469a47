/* Where the lines of a job are. */
#include "job.h"

fs_line fs_locate(const fs_job *job, ptrdiff_t index)
{
    ptrdiff_t place[FS_MAX_OUTER];
    for (int d = job->n_outer - 1; d >= 0; d--) {
        place[d] = d > 0 ? index % job->outer_shape[d] : index;
        index = d > 0 ? index / job->outer_shape[d] : 0;
    }
    fs_line line;
    for (int a = 0; a < FS_OPERANDS; a++) {
        line.at[a] = job->operand[a].data;
        for (int d = 0; line.at[a] && d < job->n_outer; d++)
            line.at[a] += place[d] * job->outer_step[d][a];
    }
    return line;
}

fs_line fs_along_inner(const fs_job *job, fs_line line, ptrdiff_t j)
{
    for (int a = 0; a < FS_OPERANDS; a++)
        if (line.at[a])
            line.at[a] += j * job->operand[a].inner;
    return line;
}
