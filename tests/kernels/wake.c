/* Gives process/wake.h jobs, by a clock of its own. Each line of the input is a job,
 * its times in us:
 *
 *   pause before it, elements, time of one thread, threads of its team,
 *   what the team costs, asleep and awake, how long memory holds it up,
 *   and how long one of its members is put aside while it works
 *
 * and each of the output what it took; negative if it was not shared.
 */
#include <stdio.h>

#include "process/wake.h"

int main(void)
{
    double pause, elements, alone, asleep, awake, held_up, aside, now = 0;
    fs_wake *own = fs_own_wake();
    int shared = 0;
    while (scanf("%lf %lf %lf %d %lf %lf %lf %lf", &pause, &elements, &alone,
                 &own->threads, &asleep, &awake, &held_up, &aside) == 8) {
        double cost = shared && pause < 50 ? awake : asleep;
        now += pause * 1e-6;
        shared = fs_is_worth_a_team(own, elements, now);
        int threads = shared ? own->threads : 1;
        double part = alone / threads + held_up;
        double took = shared ? part + cost + aside : alone;
        own->began = now;
        now += took * 1e-6;
        fs_learn(own, elements, threads, (threads * part + aside) * 1e-6, now);
        printf("%.17g\n", shared ? took : -took);
    }
    return 0;
}
