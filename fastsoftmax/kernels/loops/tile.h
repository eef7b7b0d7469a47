/* Tiles of columns, read row by row: at most FS_TILE columns of n rows. Included by
 * loops/rows.h.
 *
 * Few columns are folded: `fold` rows, one behind the other, make one row of the tile,
 * where columns 0, columns, 2 columns, ... are one and the same.
 */

typedef struct {
    ptrdiff_t columns, fold;
    ptrdiff_t rows;   /* of the tile */
    ptrdiff_t width;  /* elements of a row: fold * columns, */
    ptrdiff_t padded; /* up to whole vectors, */
    ptrdiff_t last;   /* and of the last row */
} F(shape);

/* Where a tile is read. */
typedef struct {
    const char *x, *mask;
    fs_operand source;
    ptrdiff_t mask_n, mask_inner;
    ptrdiff_t step;  /* bytes from row to row */
    int in_place;    /* rows are plain REALs where they are, */
    ptrdiff_t whole; /* and so many of them readable in whole vectors */
    REAL padding;    /* what other rows are filled up with */
} F(rows_of);

/* Rows to a row of the tile, for whole vectors: at least 8 such rows must be left. */
static inline ptrdiff_t F(fold_of)(const fs_job *job)
{
    ptrdiff_t least = LANES;
    while (least % 2 == 0 && least / 2 * job->inner % LANES == 0) least /= 2;
    ptrdiff_t most = fs_least(FS_TILE / job->inner, job->n / 8);
    return job->inner < FS_NARROW && most >= least ? most / least * least : 1;
}

static inline F(shape) F(shape_of)(ptrdiff_t n, ptrdiff_t columns, ptrdiff_t fold)
{
    F(shape) shape = {columns, fold, (n + fold - 1) / fold, fold * columns, 0, 0};
    shape.padded = (shape.width + LANES - 1) / LANES * LANES;
    shape.last = (n - (shape.rows - 1) * fold) * columns;
    return shape;
}

static inline ptrdiff_t F(elements_of_row)(const F(shape) *shape, ptrdiff_t row)
{
    return row < shape->rows - 1 ? shape->width : shape->last;
}

/* Whether rows of the job, of REALs and `step_n` bytes apart, make rows of the tile. */
static inline int F(are_contiguous)(const F(shape) *shape, ptrdiff_t step_n)
{
    return shape->fold == 1 || step_n == shape->columns * (ptrdiff_t)sizeof(REAL);
}

/* How many rows of plain REALs, those of the job `step_n` bytes apart, can be used in
 * whole vectors. */
static inline ptrdiff_t F(whole_rows)(const F(shape) *shape, ptrdiff_t step_n)
{
    int contiguous = step_n == shape->columns * (ptrdiff_t)sizeof(REAL);
    if (shape->width != shape->padded || (shape->fold > 1 && !contiguous))
        return 0;
    return shape->last == shape->width ? shape->rows : shape->rows - 1;
}

static inline F(rows_of)
    F(rows_from)(const F(shape) *shape, const fs_operand *source, const char *x,
                 const char *mask, const fs_operand *mask_steps, REAL padding)
{
    ptrdiff_t whole = source->direct ? F(whole_rows)(shape, source->n) : 0;
    int in_place = source->direct && F(are_contiguous)(shape, source->n);
    F(rows_of) rows = {x,        mask,  *source, 0, 0, shape->fold * source->n,
                       in_place, whole, padding};
    if (mask) {
        rows.mask_n = mask_steps->n;
        rows.mask_inner = mask_steps->inner;
    }
    return rows;
}

static void F(stage_row)(const F(shape) *shape, const F(rows_of) *from, ptrdiff_t row,
                         REAL *buffer)
{
    const fs_operand *source = &from->source;
    const char *x = from->x + row * from->step, *mask = from->mask;
    if (mask)
        mask += row * shape->fold * from->mask_n;
    int contiguous = source->n == shape->columns * source->inner &&
                     (!mask || from->mask_n == shape->columns * from->mask_inner);
    ptrdiff_t count = F(elements_of_row)(shape, row);
    ptrdiff_t piece = contiguous ? count : shape->columns;
    for (ptrdiff_t i = 0; i < count; i += piece) {
        F(stage)(source, x, source->inner, mask, from->mask_inner, piece, buffer + i);
        x += source->n;
        mask = mask ? mask + from->mask_n : NULL;
    }
    for (ptrdiff_t i = count; i < shape->padded; i++) buffer[i] = from->padding;
}

/* A row, readable in whole vectors: in place, or staged into `buffer`. */
static inline const REAL *F(read_row)(const F(shape) *shape, const F(rows_of) *from,
                                      ptrdiff_t row, REAL *buffer)
{
    if (row < from->whole)
        return (const REAL *)(from->x + row * from->step);
    F(stage_row)(shape, from, row, buffer);
    return buffer;
}

/* A row: in place, or converted into `buffer`. */
static inline const REAL *F(row_at)(const F(shape) *shape, const F(rows_of) *from,
                                    ptrdiff_t row, REAL *buffer)
{
    if (from->in_place)
        return (const REAL *)(from->x + row * from->step);
    F(stage_row)(shape, from, row, buffer);
    return buffer;
}

/* Where a row's results go: to y, or else into `buffer`, for put_row. */
static inline REAL *F(y_at)(const fs_job *job, const F(shape) *shape, char *y,
                            ptrdiff_t row, REAL *buffer)
{
    const fs_operand *to = &job->operand[FS_Y];
    int in_place = to->type == REAL_TYPE && F(are_contiguous)(shape, to->n);
    return in_place ? (REAL *)(y + row * shape->fold * to->n) : buffer;
}

/* Where the next results of a row go: to y, or else into `buffer`, */
static inline REAL *F(y_row)(const fs_job *job, const F(shape) *shape, char *y,
                             ptrdiff_t row, REAL *buffer)
{
    int whole = job->operand[FS_Y].type == REAL_TYPE &&
                row < F(whole_rows)(shape, job->operand[FS_Y].n);
    return whole ? (REAL *)(y + row * shape->fold * job->operand[FS_Y].n) : buffer;
}

/* and from there to y. */
static inline void F(put_row)(const fs_job *job, const F(shape) *shape, char *y,
                              ptrdiff_t row, const REAL *from)
{
    y += row * shape->fold * job->operand[FS_Y].n;
    if ((const char *)from == y)
        return;
    ptrdiff_t count = F(elements_of_row)(shape, row);
    ptrdiff_t piece = job->operand[FS_Y].n == shape->columns * job->operand[FS_Y].inner
                          ? count
                          : shape->columns;
    for (ptrdiff_t i = 0; i < count; i += piece, y += job->operand[FS_Y].n)
        F(write)(from + i, piece, y, job->operand[FS_Y].type);
}
