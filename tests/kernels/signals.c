/* Who asks Python whether a job is to go on: process/signals.h with a Python that only
 * counts. Prints how often a worker has asked, and how often the thread that called.
 */
#include <pthread.h>
#include <stdio.h>

#define Py_PYTHON_H /* the real one stays out */
typedef struct {
    int asked;
} PyThreadState;
static _Thread_local PyThreadState own_state;

static unsigned long PyThread_get_thread_ident(void)
{
    return (unsigned long)pthread_self();
}
static PyThreadState *PyThreadState_Get(void)
{
    return &own_state;
}
static void PyEval_RestoreThread(PyThreadState *state)
{
    (void)state;
    own_state.asked++;
}
static PyThreadState *PyEval_SaveThread(void)
{
    return &own_state;
}
static int PyErr_CheckSignals(void)
{
    return 0;
}

#include "process/signals.h"

static fs_listener listener;

static void *ask(void *asked)
{
    for (int i = 0; i < 3; i++) {
        listener.asked_at = 0; /* long ago */
        fs_poll(&listener.watch);
    }
    *(int *)asked = own_state.asked;
    return NULL;
}

int main(void)
{
    pthread_t worker;
    int by_worker, by_caller;
    fs_listen(&listener);
    pthread_create(&worker, NULL, ask, &by_worker);
    pthread_join(worker, NULL);
    ask(&by_caller);
    printf("%d %d\n", by_worker, by_caller);
    return 0;
}
