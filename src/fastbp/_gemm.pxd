"""Matrix products by register tiles, and the packing that feeds them.

(a) C is made in column panels of V <= TILE_VECTORS vectors, a panel in tiles of R rows.  The R x V accumulators of a
    tile stay in registers while its depth is run through: R broadcasts of A times V vectors of B each turn.
(b) R and V are constants wherever `tile` is called, so that the compiler unrolls it without a loop left but the depth.
    All of its callers together are the switch in `panel`.
(c) Rows are shared out evenly among the tiles of a panel (7 rows: 4 + 3, not 6 + 1), and so are vectors among the
    panels of a matrix, because a tile with few accumulators waits for the latency of its own multiply-adds.
(d) Every element of C adds up its terms in the order of depth, whatever the tile it falls in; where the instruction set
    has a fused multiply-add the compiler uses it.
(e) A is read where it stands, by rows (C = A B) or by columns (C = A^T B), or for the latter from a packed strip for
    each tile.  B is read where it stands, or from panels packed beforehand: [panel][depth][V * VL], columns past the
    edge zero.
(f) A B^T without packing B is a matter of inner products, which a few rows of A do not repay: `inner_products`.
"""
from fastbp._simd cimport *


cdef inline int tile_rows(int V) noexcept nogil:
    return TILE_ROWS_1 if V == 1 else TILE_ROWS_2 if V == 2 else TILE_ROWS_3


cdef inline Py_ssize_t vectors(Py_ssize_t n) noexcept nogil:
    """Vectors that hold n numbers."""
    return (n + VL - 1) // VL


cdef inline int next_panel(Py_ssize_t vectors_left) noexcept nogil:
    """Vectors in the next panel: what is left, shared out evenly."""
    cdef Py_ssize_t panels = (vectors_left + TILE_VECTORS - 1) // TILE_VECTORS
    return <int> ((vectors_left + panels - 1) // panels)


cdef inline inlined_void tile(
    const int R, const int V, const int transposed, Py_ssize_t depth,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *ahead, Py_ssize_t pace,
) noexcept nogil:
    """C = start + A B for one tile.

    a      IN   A[i, p] at a[i * lda + p], or at a[p * lda + i] if transposed
    b      IN   B[p, :V * VL] at b + p * ldb; depth >= 1 rows
    start  IN   what the sum starts from, rows ld_start apart (0: one row for all); NULL: zero; may be c itself
    c      OUT  R rows, ldc apart
    last        numbers in the last vector of a row of c and start, 1..VL; memory past them is not touched
    ahead       what to fetch meanwhile, pace numbers further on in each turn
    """
    cdef vreal acc[36]
    cdef vreal row[3]
    cdef vreal x
    cdef int i, v
    cdef Py_ssize_t p = 0
    for i in range(R):
        for v in range(V):
            acc[i * V + v] = vset(0)
    if V == TILE_VECTORS and depth >= 64:       # C comes while the tile is worked on
        for i in range(R):
            for v in range(V):
                prefetch_to_write(c + i * ldc + v * VL)
    while True:
        for v in range(V):
            row[v] = vload(b + v * VL)
        for i in range(R):
            x = vset(a[i] if transposed else a[i * lda])
            for v in range(V):
                acc[i * V + v] = acc[i * V + v] + x * row[v]
        b += ldb
        a += lda if transposed else 1
        if V == TILE_VECTORS:
            prefetch_line(ahead)
            ahead += pace
        p += 1
        if p >= depth:
            break
    if start != NULL:
        for i in range(R):
            for v in range(V):
                if v == V - 1 and last < VL:
                    acc[i * V + v] = acc[i * V + v] + vload_first(start + i * ld_start + v * VL, last)
                else:
                    acc[i * V + v] = acc[i * V + v] + vload(start + i * ld_start + v * VL)
    for i in range(R):
        for v in range(V):
            if v == V - 1 and last < VL:
                vstore_first(c + i * ldc + v * VL, acc[i * V + v], last)
            else:
                vstore(c + i * ldc + v * VL, acc[i * V + v])


cdef inline inlined_void panel(
    const int V, const int transposed, Py_ssize_t rows, Py_ssize_t depth,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b, Py_ssize_t strip,
) noexcept nogil:
    """`tile` for any number of rows; arguments as there.

    next_b      packed block of B, as large as this one, that is needed next: each tile asks for a part of it; or NULL
    strip       numbers from one strip of A to the next, if A is as `pack_strips` leaves it; or 0
    """
    cdef Py_ssize_t most = TILE_ROWS_3 if strip > 0 else tile_rows(V)
    cdef Py_ssize_t tiles = (rows + most - 1) // most
    cdef Py_ssize_t small = rows // tiles, larger = rows % tiles, t, r
    cdef const real *ahead = b if next_b == NULL else next_b
    cdef Py_ssize_t pace = 0 if next_b == NULL else (V * VL + tiles - 1) // tiles
    for t in range(tiles):
        r = small + 1 if t < larger else small
        if r == 1:
            tile(1, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif r == 2:
            tile(2, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif r == 3:
            tile(3, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif r == 4:
            tile(4, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 5 and r == 5:
            tile(5, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 6 and r == 6:
            tile(6, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 7 and r == 7:
            tile(7, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 8 and r == 8:
            tile(8, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 9 and r == 9:
            tile(9, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 10 and r == 10:
            tile(10, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 11 and r == 11:
            tile(11, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        elif tile_rows(V) >= 12:
            tile(12, V, transposed, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, ahead, pace)
        ahead += pace * depth
        a += strip if strip > 0 else r if transposed else r * lda
        c += r * ldc
        if start != NULL:
            start += r * ld_start


# One function per width and orientation: in a single one they would be too much for the register allocator.
cdef inline separate_void panel_1_rows(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b,
) noexcept nogil:
    panel(1, 0, rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, 0)


cdef inline separate_void panel_1_columns(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b, Py_ssize_t strip,
) noexcept nogil:
    panel(1, 1, rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, strip)


cdef inline separate_void panel_2_rows(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b,
) noexcept nogil:
    panel(2, 0, rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, 0)


cdef inline separate_void panel_2_columns(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b, Py_ssize_t strip,
) noexcept nogil:
    panel(2, 1, rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, strip)


cdef inline separate_void panel_3_rows(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b,
) noexcept nogil:
    panel(3, 0, rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, 0)


cdef inline separate_void panel_3_columns(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last, const real *next_b, Py_ssize_t strip,
) noexcept nogil:
    panel(3, 1, rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, strip)


cdef inline void multiply_panel(
    int V, bint transposed, Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda,
    const real *b, Py_ssize_t ldb, real *c, Py_ssize_t ldc, const real *start, Py_ssize_t ld_start, int last,
    const real *next_b, Py_ssize_t strip,
) noexcept nogil:
    """C[rows, V * VL] = start + A B, or A^T B if transposed; arguments as in `panel`."""
    if transposed:
        if V == 3:
            panel_3_columns(rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, strip)
        elif V == 2:
            panel_2_columns(rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, strip)
        else:
            panel_1_columns(rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b, strip)
    else:
        if V == 3:
            panel_3_rows(rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b)
        elif V == 2:
            panel_2_rows(rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b)
        else:
            panel_1_rows(rows, depth, a, lda, b, ldb, c, ldc, start, ld_start, last, next_b)


cdef inline inlined_vreal load_edge(const real *p, Py_ssize_t n) noexcept nogil:
    """The first n numbers at p, or VL where n is more, or none where n <= 0; the other lanes zero."""
    if n >= VL:
        return vload(p)
    if n > 0:
        return vload_first(p, <int> n)
    return vset(0)


cdef inline inlined_void store_edge(real *p, vreal x, Py_ssize_t n) noexcept nogil:
    """The first n lanes of x to p, all where n is more than VL, nothing where n <= 0."""
    if n >= VL:
        vstore(p, x)
    elif n > 0:
        vstore_first(p, x, <int> n)


cdef inline void pack_panel(
    const real *b, Py_ssize_t ldb, Py_ssize_t depth, Py_ssize_t columns, int V, real *packed,
) noexcept nogil:
    """Copy B[depth, columns] to [depth][V * VL], zeros past the last column."""
    cdef Py_ssize_t _row
    cdef int v
    for _row in range(depth):
        for v in range(V):
            vstore(packed + v * VL, load_edge(b + v * VL, columns - v * VL))
        packed += V * VL
        b += ldb


cdef inline Py_ssize_t strip_size(Py_ssize_t depth) noexcept nogil:
    """Numbers from one of `pack_strips` to the next: not a multiple of what would put all on the same cache sets."""
    return depth * TILE_ROWS_3 + LINE


cdef inline void pack_strips(
    const real *a, Py_ssize_t lda, Py_ssize_t depth, Py_ssize_t rows, real *packed,
) noexcept nogil:
    """Copy A^T, rows of C by depth, to a strip for each tile of C: [depth][TILE_ROWS_3], shared out as in `panel`.

    A tile then reads one stream instead of a cache line here and there, of which it would use a half.

    a       IN   A[i, p] at a[p * lda + i]
    packed  OUT  strips strip_size(depth) apart
    """
    cdef Py_ssize_t strips = (rows + TILE_ROWS_3 - 1) // TILE_ROWS_3
    cdef Py_ssize_t small = rows // strips, larger = rows % strips, p, t, r
    cdef const real *row
    cdef real *out
    cdef int v
    for p in range(depth):
        row = a + p * lda
        out = packed + p * TILE_ROWS_3
        for t in range(strips):
            r = small + 1 if t < larger else small
            prefetch_line(row + 12 * lda)       # rows are pages apart
            prefetch_to_write(out + 2 * LINE)
            if TILE_ROWS_3 < VL:
                vstore_half(out, load_edge(row, r))
            else:
                for v in range(TILE_ROWS_3 // VL):
                    vstore(out + v * VL, load_edge(row + v * VL, r - v * VL))
            row += r
            out += strip_size(depth)


cdef inline inlined_void transpose_block(vreal *t) noexcept nogil:
    """Transpose VL vectors of VL lanes: each round of interleaving moves one bit of the index from row to lane."""
    cdef vreal s[16]
    cdef int i, width = 1
    while width < VL:
        for i in range(VL):
            s[i] = t[i]
        for i in range(VL // 2):
            t[2 * i] = vinterleave_lower(s[i], s[i + VL // 2])
            t[2 * i + 1] = vinterleave_upper(s[i], s[i + VL // 2])
        width *= 2


cdef inline void pack_transposed(
    const real *w, Py_ssize_t ldw, Py_ssize_t rows, Py_ssize_t depth, int V, int first, int end, real *packed,
) noexcept nogil:
    """Copy the transpose of W[rows, depth], rows <= V * VL, to [depth][V * VL], zeros past the last row.

    Only the vectors first..end of each row of the result.
    """
    cdef vreal t[16]
    cdef Py_ssize_t p = 0
    cdef int v, i
    while p < depth:
        for v in range(first, end):
            for i in range(VL):
                t[i] = load_edge(w + (v * VL + i) * ldw + p, depth - p) if v * VL + i < rows else vset(0)
            transpose_block(t)
            for i in range(VL):
                if p + i < depth:
                    vstore(packed + (p + i) * V * VL + v * VL, t[i])
        p += VL


cdef inline separate_void inner_products(
    Py_ssize_t rows, Py_ssize_t depth, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb, Py_ssize_t columns,
    real *c,
) noexcept nogil:
    """C[rows, VL] = A B^T for VL rows of B, each product summed in VL parts.

    a        IN   [rows, depth]
    b        IN   [columns, depth]; where columns < VL the last one stands in for those missing
    c        OUT  VL numbers for each row of A
    """
    cdef vreal acc[16]
    cdef vreal x
    cdef const real *row
    cdef Py_ssize_t i, p, whole = depth // VL * VL
    cdef int k
    for i in range(rows):
        for k in range(VL):
            acc[k] = vset(0)
        p = 0
        while p < whole:
            x = vload(a + i * lda + p)
            for k in range(VL):
                acc[k] = acc[k] + x * vload(b + min(k, columns - 1) * ldb + p)
            p += VL
        if p < depth:
            x = vload_first(a + i * lda + p, <int> (depth - p))
            for k in range(VL):
                row = b + min(k, columns - 1) * ldb + p
                acc[k] = acc[k] + x * vload_first(row, <int> (depth - p))
        transpose_block(acc)
        for k in range(1, VL):
            acc[0] = acc[0] + acc[k]
        vstore(c + i * VL, acc[0])
