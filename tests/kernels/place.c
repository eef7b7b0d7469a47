/* Moves this thread by process/place.h, where it may work on two processors; any call
 * that would move it kills with "strict". Arguments: strict or -, which processor the
 * caller is said to be on (here, elsewhere), threads. Prints what it saw 100 times. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "process/place.h"

static int forbid_moves(void)
{
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setaffinity, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof steps / sizeof *steps, steps};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

int main(int count, char **arguments)
{
    cpu_set_t before, after;
    int moved = 0, same = 0;
    if (count != 4 || (!strcmp(arguments[1], "strict") && forbid_moves()))
        return 2;
    fs_prepare_places();
    if (sched_getaffinity(0, sizeof before, &before))
        return 2;
    for (int i = 0; i < 100; i++) {
        int here = fs_processor();
        fs_move_from(strcmp(arguments[2], "here") ? here + 1 : here,
                     atoi(arguments[3]));
        moved += fs_processor() != here;
        sched_getaffinity(0, sizeof after, &after);
        same += CPU_EQUAL(&before, &after);
    }
    return printf("%d %d\n", moved, same) < 0;
}
