/* A job's watch that asks Python whether to go on: Ctrl-C stops a job. Included by
 * _cpu.pyx alone.
 *
 * The thread that called asks, and no other: it takes the GIL with the thread state
 * that it had. A worker has none. Python would make one for it (PyGILState_Ensure), or
 * for a caller within a sub-interpreter take that of the main one.
 */
#ifndef FASTSOFTMAX_SIGNALS_H
#define FASTSOFTMAX_SIGNALS_H

#include <Python.h>

#include "process.h"
#include "watch.h"

#define FS_SECONDS_BETWEEN_QUESTIONS .05

typedef struct {
    fs_watch watch; /* the first: a pointer to it is one to all */
    double asked_at;
    unsigned long thread;
    PyThreadState *state;
} fs_listener;

static int fs_ask_python(fs_watch *watch)
{
    fs_listener *own = (fs_listener *)watch;
    if (fs_stopped(watch) || PyThread_get_thread_ident() != own->thread)
        return fs_stopped(watch);
    double now = fs_now(), since = now - own->asked_at;
    if (0 <= since && since < FS_SECONDS_BETWEEN_QUESTIONS)
        return 0;
    own->asked_at = now;
    PyEval_RestoreThread(own->state);
    if (PyErr_CheckSignals() < 0)
        fs_stop(watch); /* the exception is set, for whoever called */
    PyEval_SaveThread();
    return fs_stopped(watch);
}

/* With the GIL, which the job then runs without. */
static inline fs_watch *fs_listen(fs_listener *own)
{
    own->watch.poll = fs_ask_python;
    own->watch.stop = 0;
    own->asked_at = fs_now();
    own->thread = PyThread_get_thread_ident();
    own->state = PyThreadState_Get();
    return &own->watch;
}

#endif
