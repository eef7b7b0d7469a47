/* What driver.c and its parts share. */
#ifndef DRIVER_H
#define DRIVER_H

#include "guarded.h"
#include "job.h"

/* One job over C-contiguous arrays, as test_kernels.py packs it; arrays follow. */
typedef struct request {
    int64_t task; /* an fs_op */
    int64_t compute, x_type, y_type;
    int64_t outer, n, inner;
    int64_t masked;      /* a mask of x's shape follows x */
    int64_t in_place;    /* y is x */
    int64_t in_pieces;   /* rows in pieces, as several threads share a long one */
    int64_t past_caches; /* y is stored past the caches */
    int64_t p, largest;  /* hinge */
    int64_t labelled;    /* hinge: labels follow, else positives */
    double temperature, margin;
} request;

enum { HINGE = FS_HINGE, WEIGHTED = FS_WEIGHTED };

/* Bytes to an element of an fs_type. */
static inline size_t size_of(int64_t type)
{
    static const unsigned char sizes[] = {4, 8, 2, 2, 1, 1, 2, 4, 8, 1, 2, 4, 8};
    return sizes[type];
}

static inline int never(fs_watch *watch)
{
    (void)watch;
    return 0;
}

/* driver.c: all of a job. */
void run_backwards(const fs_kernels *kernels, fs_job *job);

/* `bytes` bytes from standard input, guarded. */
char *receive(size_t bytes);
void send_back(const char *from, size_t bytes);

/* driver_hinge.c */
void run_hinge(const fs_kernels *kernels, const request *r);

#endif
