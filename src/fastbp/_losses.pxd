"""The head of a network: output activation and loss together, from the logits z to the loss and dE/dz.

(a) Nothing is formed by subtracting two nearly equal numbers.  An output activation gives y, 1 - y, their logs and
    quotients, and y's distance from what it saturates at, from z (`Head` in _activations.pxd); softmax gives 1 - y_k as
    the sum of the other exponentials.
(b) log(max(y, c)): whether the clip is active is decided from z, by two numbers made when the network is: y > c
    exactly where z > z_low, and 1 - y > c exactly where z < z_high.  Without a clip these are -inf and inf.
(c) The loss is added up in double.
(d) nan stays nan: comparisons are written so that a nan is on the side that computes.
(e) poisson is half the Poisson deviance, 0 and flat at y = t: there it is a square, and computed as one.
"""
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._math cimport *
from fastbp._activations cimport *

cdef enum Loss:
    SQUARED_ERROR
    BINARY_CROSS_ENTROPY
    CROSS_ENTROPY
    POISSON

cdef struct HeadRule:
    int activation
    int loss
    bint clipped            # log(max(y, clip)); false where loss and activation are partners and clip is None
    double clip, log_clip
    double z_low, z_high    # numbers of the dtype

cdef struct Targets:
    const real *dense       # [rows, n], or NULL where there are labels
    const int64_t *labels   # [rows]
    const uint8_t *bytes    # in place of labels, where rows are gathered: one each
    const double *weights   # [rows], or NULL: all 1
    double scale            # 1 / sum of weights, or 1


cdef inline double row_weight(const Targets *t, Py_ssize_t i) noexcept nogil:
    return t.scale if t.weights == NULL else t.scale * t.weights[i]


# ---- losses that are a sum over outputs of something of one output each ----------------------------------------------

cdef inline inlined_vreal half_deviance(vreal residual, vreal y, vreal log_y, vreal t, vint clipped) noexcept nogil:
    """y - t - t log(y / t) for t > 0, given residual = y - t; log_y stands for log(y) where clipped.

    The logarithm is that of the quotient, unless that may be out of range.
    """
    cdef vreal f = residual / t, ratio = y / t, log_ratio
    cdef vint comparable = vless(vset(<real> 1e-6), ratio) & vless(ratio, vset(<real> 1e6)) & ~clipped
    cdef vint close = vless(vabs(f), vset(<real> 0.25)) & ~clipped
    log_ratio = vlog_near(vselect(comparable, ratio, t), vselect(comparable, f, t - vset(1)))
    log_ratio = vselect(comparable, log_ratio, log_y - log_ratio)
    return vselect(close, t * log_gap(f), residual - t * log_ratio)


cdef inline inlined_void elementwise_loss(
    const int loss, const HeadRule *rule, const Head *h, vreal z, vreal t, vreal *value, vreal *dz,
) noexcept nogil:
    """value = l(y, t), dz = dl/dz, for one output."""
    cdef vreal one = vset(1), half = vset(<real> 0.5), zero = vset(0), residual, rest
    cdef vint low, high, present
    if loss == SQUARED_ERROR:
        residual = (h.anchor - t) + h.beyond
        value[0] = half * residual * residual
        dz[0] = residual * h.slope
    elif loss == POISSON:
        residual = (h.anchor - t) + h.beyond
        low = vless_equal(z, vset(<real> rule.z_low))
        rest = half_deviance(residual, h.y, vselect(low, vset(<real> rule.log_clip), h.log_y), t, low)
        value[0] = vselect(vequal(t, zero) | ~vless(h.y, vset(<real> INFINITY)), h.y, rest)
        dz[0] = vselect(low, h.slope, residual * h.slope_over_y)
    else:
        low = vless_equal(z, vset(<real> rule.z_low))       # y <= c: clipped
        present = ~vequal(t, zero)
        value[0] = vkeep(present, -t * vselect(low, vset(<real> rule.log_clip), h.log_y))
        dz[0] = vkeep(present & ~low, -t * h.slope_over_y)
        if loss == BINARY_CROSS_ENTROPY:
            rest = one - t
            high = vless_equal(vset(<real> rule.z_high), z)
            present = ~vequal(rest, zero)
            value[0] = value[0] - vkeep(present, rest * vselect(high, vset(<real> rule.log_clip), h.log_below_one))
            dz[0] = dz[0] + vkeep(present & ~high, rest * h.slope_over_below_one)
        value[0] = vselect(vequal(h.y, h.y), value[0], h.y)     # the logarithms may lose a nan


cdef inline inlined_void elementwise_rows(
    head_function head, const int loss, const HeadRule *rule, Py_ssize_t rows, Py_ssize_t n,
    real *z, Py_ssize_t ld, const Targets *t, double *total,
) noexcept nogil:
    cdef Head h
    cdef vreal target, value, dz
    cdef vsums sums
    cdef double weight
    cdef Py_ssize_t i, column, left
    memset(&sums, 0, sizeof(vsums))
    for i in range(rows):
        weight = row_weight(t, i)
        column = 0
        while column < n:
            left = n - column
            target = load_edge(t.dense + i * n + column, left)
            head(vload(z + i * ld + column), &h)
            elementwise_loss(loss, rule, &h, vload(z + i * ld + column), target, &value, &dz)
            vstore(z + i * ld + column, vset(<real> weight) * dz)
            vsums_add(&sums, weight, value if left >= VL else vfirst(value, <int> left))
            column += VL
    total[0] += vsums_total(&sums)


cdef inline inlined_void elementwise_of(
    head_function head, const HeadRule *rule, Py_ssize_t rows, Py_ssize_t n, real *z, Py_ssize_t ld,
    const Targets *t, double *total,
) noexcept nogil:
    """The losses with logarithms share one loop: one for each would double the size of the modules."""
    if rule.loss == SQUARED_ERROR:
        elementwise_rows(head, SQUARED_ERROR, rule, rows, n, z, ld, t, total)
    else:
        elementwise_rows(head, rule.loss, rule, rows, n, z, ld, t, total)


# ---- softmax ---------------------------------------------------------------------------------------------------------
# VL rows at a time, transposed: a lane is a row, so that sums and maxima over classes need no shuffles.

cdef enum:
    SOFTMAX_ARRAYS = 4  # of n vectors each, in scratch


cdef inline inlined_void load_rows_transposed(
    const real *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t n, real *columns,
) noexcept nogil:
    """columns[k, :rows] = z[:rows, k]; rows past the last repeat the first."""
    cdef vreal t[16]
    cdef Py_ssize_t k = 0
    cdef int i
    while k < n:
        for i in range(VL):
            t[i] = load_edge(z + (i * ld if i < rows else 0) + k, n - k)
        transpose_block(t)
        for i in range(VL):
            if k + i < n:
                vstore(columns + (k + i) * VL, t[i])
        k += VL


cdef inline inlined_void store_rows_transposed(
    const real *columns, Py_ssize_t rows, Py_ssize_t n, real *z, Py_ssize_t ld,
) noexcept nogil:
    """z[:rows, k] = columns[k, :rows]."""
    cdef vreal t[16]
    cdef Py_ssize_t k = 0
    cdef int i
    while k < n:
        for i in range(VL):
            t[i] = vload(columns + (k + i) * VL) if k + i < n else vset(0)
        transpose_block(t)
        for i in range(VL):
            if i < rows:
                store_edge(z + i * ld + k, t[i], n - k)
        k += VL


cdef inline inlined_void exponentials(Py_ssize_t n, real *z, vreal *largest, vreal *where, vreal *rest) noexcept nogil:
    """z[k] = exp(z[k] - max); the maximum, its first place, and the sum of all other exponentials."""
    cdef vreal top = vload(z), at = vset(0), others = vset(0), e
    cdef vint more
    cdef Py_ssize_t k
    for k in range(1, n):
        more = ~vless_equal(vload(z + k * VL), top)     # a nan is carried along
        top = vselect(more, vload(z + k * VL), top)
        at = vselect(more, vset(<real> k), at)
    for k in range(n):
        e = vexp_nonpositive(vload(z + k * VL) - top)
        vstore(z + k * VL, e)
        others = others + vkeep(~vequal(at, vset(<real> k)), e)
    largest[0] = top
    where[0] = at
    rest[0] = others


cdef extern from "<math.h>" nogil:
    long double expl(long double x)

cdef struct Rows:       # the logits of the rows at hand, as they are
    const real *z
    Py_ssize_t ld, rows, n
    double clip


cdef inline bint is_clipped(const Rows *r, Py_ssize_t row, Py_ssize_t k, bint of_rest) noexcept nogil:
    """Whether y_k <= c, or 1 - y_k <= c if of_rest, in extended precision."""
    cdef long double others = 0, c = r.clip
    cdef const real *z = r.z + row * r.ld
    cdef Py_ssize_t j
    for j in range(r.n):
        if j != k:
            others += expl(<long double> z[j] - <long double> z[k])
    return others * (1 - c) <= c if of_rest else 1 - c <= c * others


cdef inline vint clipped_lanes(
    const Rows *r, vreal it, vreal other, vreal k, bint of_rest,
) noexcept nogil:
    """Rows in which it (1 - c) <= c other, for positive sums of exponentials `it` and `other`; close calls are looked
    at again.  k is the class of each lane, `it` its exponential, or the sum of the others' if of_rest.
    """
    cdef vreal left = it * vset(<real> (1 - r.clip)), right = vset(<real> r.clip) * other
    cdef vreal doubt = vset(<real> (2e-5 if sizeof(real) == 4 else 1e-13))
    cdef vint clipped = vless_equal(left, right)
    cdef real close[16]
    cdef real answer[16]
    cdef real classes[16]
    cdef Py_ssize_t i
    vstore(close, vkeep(vless_equal(vabs(left - right), doubt * right), vset(1)))
    vstore(answer, vkeep(clipped, vset(1)))
    vstore(classes, k)
    for i in range(r.rows):
        if close[i] != 0:
            answer[i] = is_clipped(r, i, <Py_ssize_t> classes[i], of_rest)
    return ~vequal(vload(answer), vset(0))


cdef inline inlined_void softmax_labels(
    const HeadRule *rule, const Rows *rows, Py_ssize_t n, real *z, vreal label, vreal weight, vreal *value,
) noexcept nogil:
    """Cross-entropy with the class known.  z  IN OUT  [n] vectors: logits, replaced by weight * dE/dz."""
    cdef vreal top, at, rest, e, at_label = vset(0), others = vset(0), logit = vset(0), factor
    cdef vint hit, clipped
    cdef Py_ssize_t k
    for k in range(n):
        logit = vselect(vequal(label, vset(<real> k)), vload(z + k * VL), logit)
    exponentials(n, z, &top, &at, &rest)
    for k in range(n):
        hit = vequal(label, vset(<real> k))
        e = vload(z + k * VL)
        at_label = at_label + vkeep(hit, e)
        others = others + vkeep(~hit, e)
    value[0] = (top - logit) + vlog1p(rest)
    factor = weight / (at_label + others)
    if rule.clipped:
        clipped = clipped_lanes(rows, at_label, others, label, False)
        value[0] = vselect(clipped, vset(<real> -rule.log_clip), value[0])
        factor = vkeep(~clipped, factor)
    for k in range(n):
        hit = vequal(label, vset(<real> k))
        vstore(z + k * VL, factor * vselect(hit, -others, vload(z + k * VL)))


cdef inline inlined_void softmax_dense(
    const int loss, const HeadRule *rule, const Rows *rows, Py_ssize_t n, real *z, const real *targets, real *scratch,
    vreal weight, vreal *value,
) noexcept nogil:
    """Any loss on y = softmax(z), with p_k = y_k dl/dy_k:  dl/dz_k = p_k (1 - y_k) - y_k * (sum of the other p).

    z        IN OUT  [n] vectors: logits, replaced by weight * dE/dz
    targets  IN      [n] vectors
    scratch  OUT     2 * n vectors: p, and first the sums of e, then those of p, before k
    """
    cdef real *p = scratch
    cdef real *before = scratch + n * VL
    cdef vreal top, at, rest, e, y, others, below_one, t, inverse, total, log_total, residual, q
    cdef vreal one = vset(1), zero = vset(0), half = vset(<real> 0.5)
    cdef vreal log_clip = vset(<real> rule.log_clip), sum_p
    cdef vint low, high, present
    cdef Py_ssize_t k
    value[0] = zero
    if loss == CROSS_ENTROPY and not rule.clipped:
        # sum_k t_k (max - z_k), before the logits are overwritten; log of the sum of exponentials follows below
        top = vload(z)
        for k in range(1, n):
            top = vselect(~vless_equal(vload(z + k * VL), top), vload(z + k * VL), top)
        for k in range(n):
            t = vload(targets + k * VL)
            value[0] = value[0] + vkeep(~vequal(t, zero), t * (top - vload(z + k * VL)))
    exponentials(n, z, &top, &at, &rest)
    log_total = vlog1p(rest)
    total = zero
    for k in range(n):
        vstore(before + k * VL, total)
        total = total + vload(z + k * VL)
    inverse = one / total
    others = zero       # the sum of e after k
    for k in range(n - 1, -1, -1):
        e = vload(z + k * VL)
        t = vload(targets + k * VL)
        below_one = (vload(before + k * VL) + others) * inverse
        others = others + e
        y = e * inverse
        vstore(before + k * VL, below_one)
        vstore(z + k * VL, y)
        if loss == SQUARED_ERROR:
            residual = vselect(vless(half, y), (one - t) - below_one, y - t)
            value[0] = value[0] + half * residual * residual
            vstore(p + k * VL, residual * y)
        else:
            present = ~vequal(t, zero)
            if not rule.clipped:
                value[0] = value[0] + t * log_total
                vstore(p + k * VL, -t)
            else:
                low = clipped_lanes(rows, y, below_one, vset(<real> k), False)
                q = vselect(vless(half, y), vlog1p(-below_one), vlog(y))
                q = vselect(low, log_clip, q)
                if loss == POISSON:
                    residual = vselect(vless(half, y), (one - t) - below_one, y - t)
                    value[0] = value[0] + vselect(present, half_deviance(residual, y, q, t, low), y)
                else:
                    value[0] = value[0] - vkeep(present, t * q)
                residual = vkeep(~low, -t)  # poisson has dl/dy_k = 1 more, which all y_k together, being 1, do not feel
                if loss == BINARY_CROSS_ENTROPY:
                    high = clipped_lanes(rows, below_one, y, vset(<real> k), True)
                    present = ~vequal(t, one)
                    q = vselect(vless(half, y), vlog(below_one), vlog1p(-y))
                    value[0] = value[0] - vkeep(present, (one - t) * vselect(high, log_clip, q))
                    residual = residual + vkeep(present & ~high, (one - t) * y / below_one)
                vstore(p + k * VL, residual)
    sum_p = zero
    for k in range(n):  # weight * (p_k (1 - y_k) - y_k * sum of p before k), and the rest on the way back
        q = vload(p + k * VL)
        vstore(before + k * VL, q * vload(before + k * VL) - vload(z + k * VL) * sum_p)
        sum_p = sum_p + q
    sum_p = zero
    for k in range(n - 1, -1, -1):
        vstore(z + k * VL, weight * (vload(before + k * VL) - vload(z + k * VL) * sum_p))
        sum_p = sum_p + vload(p + k * VL)


cdef inline separate_void softmax_rows(
    const HeadRule *rule, Py_ssize_t rows, Py_ssize_t n, real *z, Py_ssize_t ld, const Targets *t,
    real *scratch, double *total,
) noexcept nogil:
    """scratch  OUT  SOFTMAX_ARRAYS * n vectors"""
    cdef real *columns = scratch
    cdef real *targets = scratch + n * VL
    cdef real *rest = targets + n * VL
    cdef real labels[16]
    cdef real weights[16]
    cdef real lanes[16]
    cdef vreal value
    cdef Rows these
    cdef Py_ssize_t row = 0, here
    cdef int i
    these.ld = ld
    these.n = n
    these.clip = rule.clip
    while row < rows:
        here = min(VL, rows - row)
        these.z = z + row * ld
        these.rows = here
        load_rows_transposed(z + row * ld, ld, here, n, columns)
        for i in range(VL):
            weights[i] = <real> row_weight(t, row + i) if i < here else 0
            if t.labels != NULL:
                labels[i] = <real> t.labels[row + i] if i < here else 0
        if t.labels != NULL:
            softmax_labels(rule, &these, n, columns, vload(labels), vload(weights), &value)
        else:
            load_rows_transposed(t.dense + row * n, n, here, n, targets)
            if rule.loss == SQUARED_ERROR:
                softmax_dense(SQUARED_ERROR, rule, &these, n, columns, targets, rest, vload(weights), &value)
            elif rule.loss == BINARY_CROSS_ENTROPY:
                softmax_dense(BINARY_CROSS_ENTROPY, rule, &these, n, columns, targets, rest, vload(weights), &value)
            elif rule.loss == POISSON:
                softmax_dense(POISSON, rule, &these, n, columns, targets, rest, vload(weights), &value)
            else:
                softmax_dense(CROSS_ENTROPY, rule, &these, n, columns, targets, rest, vload(weights), &value)
        store_rows_transposed(columns, here, n, z + row * ld, ld)
        vstore(lanes, value)
        for i in range(<int> here):
            total[0] += row_weight(t, row + i) * lanes[i]
        row += VL


cdef inline separate_void softmax_output(
    Py_ssize_t rows, Py_ssize_t n, const real *z, Py_ssize_t ld, real *y, Py_ssize_t ldy, real *scratch,
) noexcept nogil:
    """y = softmax(z) for some rows.  scratch  OUT  n vectors"""
    cdef vreal top, at, rest, inverse
    cdef Py_ssize_t row = 0, here, k
    while row < rows:
        here = min(VL, rows - row)
        load_rows_transposed(z + row * ld, ld, here, n, scratch)
        exponentials(n, scratch, &top, &at, &rest)
        inverse = vset(1) / (vset(1) + rest)
        for k in range(n):
            vstore(scratch + k * VL, vload(scratch + k * VL) * inverse)
        store_rows_transposed(scratch, here, n, y + row * ldy, ldy)
        row += VL


cdef inline separate_void softmax_backward(
    Py_ssize_t rows, Py_ssize_t n, const real *y, Py_ssize_t ldy, const real *dy, real *dz, Py_ssize_t ld,
) noexcept nogil:
    """dz_k = y_k (dy_k - sum_j dy_j y_j), for a loss of the user's own.  dy  IN  [rows, n] without padding"""
    cdef Py_ssize_t i, k
    cdef real total
    for i in range(rows):
        total = 0
        for k in range(n):
            total += dy[i * n + k] * y[i * ldy + k]
        for k in range(n):
            dz[i * ld + k] = y[i * ldy + k] * (dy[i * n + k] - total)
