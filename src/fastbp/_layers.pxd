"""One layer on one block of rows: forward, the way back through its activation, its gradients.

Blocks hold some rows of a batch, row-major, each row padded to whole vectors (`ld` numbers).  The padding takes part in
vector arithmetic and is never read as a result.  A hidden layer owns two such blocks: `a`, its output, and `g`, which
first keeps the activation's derivative at z and then, on the way back, dE/dz.  Activations made of two straight lines
need no stored derivative: the sign of their output tells it.
"""
from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._activations cimport *
from fastbp._dropout cimport Mask, apply_mask
from fastbp._table cimport activate

cdef inline separate_void through_activation(
    int activation, Py_ssize_t rows, int V, const real *da, const real *a, real *g, Py_ssize_t ld,
) noexcept nogil:
    """g = dE/dz = dE/da * act'(z) for V vectors of each row.

    da  IN      dE/da, rows V * VL apart
    a   IN      the layer's output (what piecewise linear activations need), rows ld apart
    g   IN OUT  act'(z) of the other activations, replaced by dE/dz
    """
    cdef vreal below
    cdef Py_ssize_t i
    cdef int v
    if activation == RELU or activation == LEAKY_RELU:
        below = vset(<real> LEAKY_SLOPE) if activation == LEAKY_RELU else vset(0)
        for i in range(rows):
            for v in range(V):
                vstore(g + i * ld + v * VL,
                       vselect(vless(vset(0), vload(a + i * ld + v * VL)), vload(da + (i * V + v) * VL),
                               below * vload(da + (i * V + v) * VL)))
    elif activation == IDENTITY:
        for i in range(rows):
            for v in range(V):
                vstore(g + i * ld + v * VL, vload(da + (i * V + v) * VL))
    else:
        for i in range(rows):
            for v in range(V):
                vstore(g + i * ld + v * VL, vload(da + (i * V + v) * VL) * vload(g + i * ld + v * VL))


cdef inline void multiply_deep(
    int V, bint transposed, Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda,
    const real *b, Py_ssize_t ldb, real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last,
) noexcept nogil:
    """`multiply_panel` in blocks of depth, so that a block of B stays in cache while all rows of A pass by."""
    cdef Py_ssize_t blocks = (depth + DEPTH_BLOCK - 1) // DEPTH_BLOCK
    cdef Py_ssize_t k, begin = 0, end
    cdef bint far = ldb == V * VL and depth > 128       # packed, and what follows is needed next
    for k in range(blocks):
        end = depth * (k + 1) // blocks
        multiply_panel(V, transposed, rows, end - begin, a + begin * (lda if transposed else 1), lda,
                       b + begin * ldb, ldb, c, ldc, start if k == 0 else c, ld_start if k == 0 else ldc, last,
                       b + end * ldb if far else NULL, 0)
        begin = end


cdef inline Py_ssize_t packed_size(Py_ssize_t depth, Py_ssize_t columns) noexcept nogil:
    """Numbers in all packed panels of a matrix [depth, columns]."""
    return depth * vectors(columns) * VL


cdef inline void pack_weights(
    const real *w, const real *bias, Py_ssize_t fan_in, Py_ssize_t fan_out, Py_ssize_t begin, Py_ssize_t end,
    real *packed,
) noexcept nogil:
    """Rows begin..end of W in the panels of [b; W], and with the first of them the bias, the row before.

    packed  OUT  packed_size(fan_in + 1, fan_out) numbers
    """
    cdef Py_ssize_t column = 0
    cdef int V
    while column < fan_out:
        V = next_panel(vectors(fan_out - column))
        if begin == 0:
            pack_panel(bias + column, 0, 1, fan_out - column, V, packed)
        pack_panel(w + begin * fan_out + column, fan_out, end - begin, fan_out - column, V,
                   packed + (begin + 1) * V * VL)
        packed += (fan_in + 1) * V * VL
        column += V * VL


cdef inline void pack_weights_transposed(
    const real *w, Py_ssize_t fan_in, Py_ssize_t fan_out, Py_ssize_t begin, Py_ssize_t end, real *packed,
) noexcept nogil:
    """Vectors begin..end, VL rows of W each, of the rows of W^T, in its panels.

    packed  OUT  packed_size(fan_out, fan_in) numbers
    """
    cdef Py_ssize_t column = 0, here
    cdef int V
    while column < fan_in:
        V = next_panel(vectors(fan_in - column))
        here = column // VL
        pack_transposed(w + column * fan_out, fan_out, fan_in - column, fan_out, V, <int> max(0, min(V, begin - here)),
                        <int> max(0, min(V, end - here)), packed)
        packed += fan_out * V * VL
        column += V * VL


cdef struct Weights:
    const real *w               # [fan_in, fan_out], and at least VL readable numbers after it and after the bias
    const real *bias
    const real *packed          # as `pack_weights` leaves them; NULL: a few rows read them where they stand
    const real *transposed      # as `pack_weights_transposed` leaves them, or NULL
    Py_ssize_t fan_in, fan_out


cdef inline void layer_forward(
    Py_ssize_t rows, const Weights *w, int activation, bint with_slope, const real *x, Py_ssize_t ldx,
    real *a, real *slope, Py_ssize_t ld,
) noexcept nogil:
    """a = act(x W + b) for one block of rows, each panel activated while it is in the first-level cache.

    x       IN   [rows, fan_in], rows ldx apart
    a       OUT  [rows, ld]
    slope   OUT  act'(z) where with_slope and the activation is not piecewise linear; may be NULL otherwise
    """
    cdef Py_ssize_t column = 0, ldb
    cdef const real *panel = w.packed
    cdef const real *b
    cdef const real *bias
    cdef int V
    while column < w.fan_out:
        V = next_panel(vectors(w.fan_out - column))
        if w.packed != NULL:
            bias = panel
            b = panel + V * VL
            ldb = V * VL
            panel += (w.fan_in + 1) * V * VL
        else:
            bias = w.bias + column
            b = w.w + column
            ldb = w.fan_out
        multiply_deep(V, False, rows, w.fan_in, x, ldx, b, ldb, a + column, ld, bias, 0, VL)
        activate(activation, with_slope, rows, V * VL, a + column, slope + column if with_slope else NULL, ld)
        column += V * VL


cdef inline void layer_backward(
    Py_ssize_t rows, const Weights *w, int activation_below, const real *dz, Py_ssize_t ldz,
    const real *a, real *g, Py_ssize_t ld, const Mask *mask, Py_ssize_t batch_row,
    real *panels, Py_ssize_t panel_rows, Py_ssize_t row, real *scratch,
) noexcept nogil:
    """g = (dz W^T) * act'(z below) for one block of rows.

    dz         IN   [rows, fan_out], rows ldz apart
    a, g       as in `through_activation`, of the layer below, whose width is fan_in
    mask       IN   the dropout between the two layers, of rows from batch_row on; NULL for none
    panels     OUT  g once more, as `pack_rows` leaves it at row `row` of panels of panel_rows rows; NULL: not wanted
    scratch    OUT  rows * TILE_VECTORS * VL numbers
    """
    cdef Py_ssize_t column = 0
    cdef const real *panel = w.transposed
    cdef int V
    while column < w.fan_in:
        if w.transposed != NULL:
            V = next_panel(vectors(w.fan_in - column))
            multiply_deep(V, False, rows, w.fan_out, dz, ldz, panel, V * VL, scratch, V * VL, NULL, 0, VL)
            panel += w.fan_out * V * VL
        else:
            V = 1
            inner_products(rows, w.fan_out, dz, ldz, w.w + column * w.fan_out, w.fan_out, w.fan_in - column, scratch)
        if mask != NULL:
            apply_mask(mask, batch_row, rows, column, V * VL, scratch, V * VL)
        through_activation(activation_below, rows, V, scratch, a + column, g + column, ld)
        if panels != NULL:      # while it is in the first-level cache
            pack_panel(g + column, ld, rows, ld - column, V, panels + column * panel_rows + row * V * VL)
        column += V * VL


cdef inline void input_gradient(
    Py_ssize_t rows, const Weights *w, const real *dz, Py_ssize_t ldz, real *dx,
) noexcept nogil:
    """dx = dz W^T, without padding: dx is the user's.  Needs w.transposed."""
    cdef Py_ssize_t column = 0
    cdef const real *panel = w.transposed
    cdef int V, last
    while column < w.fan_in:
        V = next_panel(vectors(w.fan_in - column))
        last = <int> min(VL, w.fan_in - column - (V - 1) * VL)
        multiply_deep(V, False, rows, w.fan_out, dz, ldz, panel, V * VL, dx + column, w.fan_in, NULL, 0, last)
        panel += w.fan_out * V * VL
        column += V * VL


cdef inline void pack_rows(
    Py_ssize_t row, Py_ssize_t rows, Py_ssize_t n, const real *dz, Py_ssize_t ldz, real *panels, Py_ssize_t panel_rows,
) noexcept nogil:
    """Copy dz[rows, n] to rows `row` and on of panels of panel_rows rows each."""
    cdef Py_ssize_t column = 0
    cdef int V
    while column < n:
        V = next_panel(vectors(n - column))
        pack_panel(dz + column, ldz, rows, ldz - column, V, panels + column * panel_rows + row * V * VL)
        column += V * VL


cdef inline Py_ssize_t gradient_scratch(Py_ssize_t rows, Py_ssize_t dw_rows) noexcept nogil:
    """Numbers that `weight_gradient` needs for so many rows of the batch and of dW: a panel of dz and strips of x."""
    cdef Py_ssize_t depth = min(rows, DEPTH_BLOCK)
    return depth * TILE_VECTORS * VL + (dw_rows // TILE_ROWS_3 + 1) * strip_size(depth)


cdef inline bint narrow_enough(
    Py_ssize_t rows, Py_ssize_t n, Py_ssize_t fan_out, Py_ssize_t readable,
) noexcept nogil:
    """Whether n rows of dW are cheaper made as columns of its transpose: of fan_out lanes most may be idle."""
    cdef Py_ssize_t saved = n * vectors(fan_out) - fan_out * vectors(n)     # vectors' multiply-adds, for each row
    cdef bint fits = fan_out * vectors(n) <= min(rows, DEPTH_BLOCK) * TILE_VECTORS      # in the scratch, whatever n
    return (rows >= 16 and fan_out <= 16 and fits and vectors(n) * VL <= readable
            and saved * rows > 4 * n * fan_out)


cdef inline separate_void narrow_weight_gradient(
    Py_ssize_t rows, Py_ssize_t n, Py_ssize_t fan_out, const real *x, Py_ssize_t ldx, const real *dz, Py_ssize_t ldz,
    real *dw, bint add, real *scratch,
) noexcept nogil:
    """n rows of dW by way of dW^T = dz^T x; the sums are the same to the bit.

    scratch  OUT  fan_out * vectors(n) * VL numbers
    """
    cdef Py_ssize_t column = 0, ld = vectors(n) * VL, i, j
    cdef int V
    while column < n:
        V = next_panel(vectors(n - column))
        multiply_panel(V, True, fan_out, rows, dz, ldz, x + column, ldx, scratch + column, ld, NULL, 0, VL, NULL, 0)
        column += V * VL
    for i in range(n):
        for j in range(fan_out):
            dw[i * fan_out + j] = scratch[j * ld + i] + dw[i * fan_out + j] if add else scratch[j * ld + i]


cdef inline void weight_gradient(
    Py_ssize_t rows, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t fan_out, const real *x, Py_ssize_t ldx,
    const real *dz, Py_ssize_t ldz, const real *panels, Py_ssize_t panel_rows, real *dw, bint add, real *scratch,
) noexcept nogil:
    """Rows begin..end of dW = x^T dz, or added to what is there.

    x        IN   [rows, fan_in], rows ldx apart
    dz       IN   [rows, fan_out], rows ldz apart
    panels   IN   dz once more, as `pack_rows` leaves it in panels of panel_rows rows; NULL: there are none
    dw       OUT  [fan_in, fan_out] without padding
    scratch  OUT  gradient_scratch(rows, end - begin) numbers; may be NULL where rows < 128
    """
    cdef Py_ssize_t blocks = (rows + DEPTH_BLOCK - 1) // DEPTH_BLOCK, k, row, depth, column
    cdef Py_ssize_t lda, ldb, strip
    cdef const real *a
    cdef const real *b
    cdef const real *next_b
    cdef int V, last
    cdef real *c
    # Rows of dz and x are cache lines and pages apart: a copy of what is needed of them pays if enough tiles read it.
    cdef bint copy = rows >= 128 and end - begin >= 48
    cdef bint far = panel_rows * fan_out * <Py_ssize_t> sizeof(real) > SECOND_CACHE // 2
    cdef bint copy_x = copy and fan_out >= 4 * TILE_VECTORS * VL and ldx * <Py_ssize_t> sizeof(real) >= 2048
    cdef bint narrow = scratch != NULL and narrow_enough(rows, end - begin, fan_out, ldx - begin)
    for k in range(blocks):
        row = rows * k // blocks
        depth = rows * (k + 1) // blocks - row
        a = x + row * ldx + begin
        lda = ldx
        strip = 0
        if narrow:
            narrow_weight_gradient(depth, end - begin, fan_out, a, ldx, dz + row * ldz, ldz, dw + begin * fan_out,
                                   add or k > 0, scratch)
            continue
        if copy_x:
            pack_strips(a, ldx, depth, end - begin, scratch + depth * TILE_VECTORS * VL)
            a = scratch + depth * TILE_VECTORS * VL
            lda = TILE_ROWS_3
            strip = strip_size(depth)
        column = 0
        while column < fan_out:
            V = next_panel(vectors(fan_out - column))
            last = <int> min(VL, fan_out - column - (V - 1) * VL)
            c = dw + begin * fan_out + column
            b = dz + row * ldz + column
            ldb = ldz
            next_b = NULL
            if panels != NULL:
                b = panels + column * panel_rows + row * V * VL
                ldb = V * VL
                if far:
                    next_b = b + panel_rows * V * VL
            elif copy:
                pack_panel(b, ldz, depth, ldz - column, V, scratch)
                b = scratch
                ldb = V * VL
            multiply_panel(V, True, end - begin, depth, a, lda, b, ldb, c, fan_out,
                           c if add or k > 0 else NULL, fan_out, last, next_b, strip)
            column += V * VL


cdef inline separate_void bias_gradient(
    Py_ssize_t rows, Py_ssize_t fan_out, const real *dz, Py_ssize_t ldz, real *db, bint add,
) noexcept nogil:
    """db = the column sums of dz[rows, fan_out], or added to what is there."""
    cdef Py_ssize_t column = 0, i
    cdef vreal s0, s1, s2, s3
    while column < fan_out:
        s0 = load_edge(db + column, fan_out - column) if add else vset(0)
        s1 = load_edge(db + column + VL, fan_out - column - VL) if add else vset(0)
        s2 = load_edge(db + column + 2 * VL, fan_out - column - 2 * VL) if add else vset(0)
        s3 = load_edge(db + column + 3 * VL, fan_out - column - 3 * VL) if add else vset(0)
        if fan_out - column > 2 * VL:
            for i in range(rows):
                s0 = s0 + vload(dz + i * ldz + column)
                s1 = s1 + vload(dz + i * ldz + column + VL)
                s2 = s2 + vload(dz + i * ldz + column + 2 * VL)
                s3 = s3 + load_edge(dz + i * ldz + column + 3 * VL, ldz - column - 3 * VL)
        elif fan_out - column > VL:
            for i in range(rows):
                s0 = s0 + vload(dz + i * ldz + column)
                s1 = s1 + vload(dz + i * ldz + column + VL)
        else:
            for i in range(rows):
                s0 = s0 + vload(dz + i * ldz + column)
        store_edge(db + column, s0, fan_out - column)
        store_edge(db + column + VL, s1, fan_out - column - VL)
        store_edge(db + column + 2 * VL, s2, fan_out - column - 2 * VL)
        store_edge(db + column + 3 * VL, s3, fan_out - column - 3 * VL)
        column += 4 * VL
