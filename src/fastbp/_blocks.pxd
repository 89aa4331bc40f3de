"""A step over a batch, as its stages see it, and what is done with a block of its rows in all layers.

A block goes through all layers forward and, from the head's dE/dz, back.  In a region each layer has its two blocks, a
and g, of region_rows rows.  In training the last layer's are one and the same: the head replaces the logits by dE/dz.
"""
from libc.math cimport NAN
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._dropout cimport Dropout, Mask, apply_mask, mask_of
from fastbp._gather cimport *
from fastbp._layers cimport *
from fastbp._losses cimport *
from fastbp._table cimport *
from fastbp._update cimport Update
from fastbp._plan cimport *
from fastbp._watch cimport Watch

cdef enum Failure:
    LOSS_NOT_FINITE = 1
    GRADIENT_NOT_FINITE
    SQUARE_NOT_FINITE       # of the gradient, where the optimizer keeps that
    NO_SUCH_ROW             # in the order
    INTERRUPTED

cdef struct Step:
    const Net *net
    const Plan *plan
    const real *parameters          # and VL readable numbers after them
    Py_ssize_t rows
    const real *x                   # [rows, fan_in of the first layer] without padding
    Targets targets
    const uint32_t *order           # plan.gather: the batch is these rows of x and of the targets; NULL: the first ones
    Py_ssize_t order_rest           # its entries to the end of the pass: those of this batch and of the next ones
    Py_ssize_t order_rows           # how many rows x has for it to choose from
    Dropout dropout
    real *gradient                  # OUT
    real *input_gradient            # OUT or NULL
    real *output                    # OUT  PREDICT, TAPE: [rows, last width]
    const real *output_gradient     # IN   TAPE: dE/dy, [rows, last width]
    Update update
    bint guarded                    # update only along a finite gradient of a finite loss, with these three:
    double max_norm                 # the gradient's; it is scaled down to it
    double penalty                  # 0.5 * penalty * sum of W^2 is added to the loss
    double loss_divisor             # by which the loss without that is divided before it is reported
    Watch *watch                    # guarded: of what to look at meanwhile, or NULL
    int threads                     # that take part: at most plan.threads
    real *memory                    # plan.total numbers
    double *losses                  # plan.n_losses
    double *squares                 # guarded: sums of g^2 and of W^2 in each range of parameters
    double norm, loss               # OUT  guarded: of the whole gradient, and with the penalty
    int failure                     # OUT  guarded: the Failure for which there was no update, or 0


# ---- packed weights --------------------------------------------------------------------------------------------------

cdef inline real *panels_of(const Step *s, real *scratch) noexcept nogil:
    """Where a thread finds the packed weights, given its scratch."""
    return scratch + s.plan.panels_at if s.plan.own_panels else s.memory + s.plan.packed_at


cdef inline Weights weights_of(const Step *s, Py_ssize_t index, real *scratch) noexcept nogil:
    cdef const Layer *layer = &s.net.layers[index]
    cdef Weights w
    w.w = s.parameters + layer.weights
    w.bias = s.parameters + layer.biases
    w.fan_in = layer.fan_in
    w.fan_out = layer.fan_out
    w.packed = NULL
    w.transposed = NULL
    if not reads_in_place(s.plan, layer):
        w.packed = panels_of(s, scratch) + layer.packed
    if not s.plan.in_place:
        w.transposed = panels_of(s, scratch) + layer.transposed
    return w


# ---- rows and targets of the batch -----------------------------------------------------------------------------------

cdef inline const real *input_rows(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t batch_row,
) noexcept nogil:
    """The first layer's input: x, or the copy of it that `forward_block` made at row `row` of the region."""
    if not s.plan.copy_x:
        return s.x + batch_row * s.net.layers[0].fan_in
    return region + region_rows * s.net.layers[s.net.n_layers].row_at + row * s.plan.ldx


cdef inline inlined_void ask_ahead(
    const Step *s, Py_ssize_t next_row, int part,
) noexcept nogil:
    """Ask for a part of the block that begins at next_row, which this thread will probably take after this one."""
    cdef Py_ssize_t fan_in = s.net.layers[0].fan_in
    cdef Py_ssize_t begin = next_row + part * s.plan.asked_rows
    cdef Py_ssize_t rows = min(s.plan.asked_rows, s.order_rest - begin)
    if s.order != NULL and is_narrow(fan_in) and rows > 0:
        ask_for_rows(s.x, fan_in, &s.targets, s.net.layers[s.net.n_layers - 1].fan_out, s.order + begin, rows)


cdef inline bint order_is_valid(const Step *s, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    """Whether what the order says of some rows of the batch are rows of x."""
    return s.order == NULL or rows_in_range(s.order + row, rows, s.order_rows)


cdef inline Targets targets_of(const Step *s, Py_ssize_t row, Py_ssize_t rows, real *gathered) noexcept nogil:
    """The targets of some rows of the batch; brought together at `gathered`, if they have to be."""
    cdef Py_ssize_t n = s.net.layers[s.net.n_layers - 1].fan_out
    cdef Targets t = s.targets
    if s.order != NULL:
        return gather_targets(&s.targets, n, s.order + row, rows, s.plan.block_rows, gathered)
    if t.dense != NULL:
        t.dense += row * n
    if t.labels != NULL:
        t.labels += row
    if t.weights != NULL:
        t.weights += row
    return t


# ---- through all layers ----------------------------------------------------------------------------------------------

cdef inline real *block_a(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t index, Py_ssize_t row,
) noexcept nogil:
    return region + region_rows * s.net.layers[index].row_at + row * s.net.layers[index].ld


cdef inline real *block_g(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t index, Py_ssize_t row,
) noexcept nogil:
    return block_a(s, region, region_rows, index, row) + (
        0 if s.plan.mode != TAPE and index == s.net.n_layers - 1 else region_rows * s.net.layers[index].ld)


cdef inline bint drops(const Step *s, int index) noexcept nogil:
    """Whether some of a layer's outputs are dropped."""
    return s.dropout.rates != NULL and index < s.net.n_layers - 1 and s.dropout.rates[index] > 0


cdef inline void forward_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    Py_ssize_t next_row, real *scratch,
) noexcept nogil:
    """All layers' activations for some rows of the batch; the last layer's logits."""
    cdef const Layer *layer = NULL
    cdef const real *below = input_rows(s, region, region_rows, row, batch_row)
    cdef Py_ssize_t ld_below = s.plan.ldx
    cdef Weights w
    cdef Mask mask
    cdef real *a
    cdef int i
    if s.plan.copy_x and order_is_valid(s, batch_row, rows):
        copy_rows(s.x, s.net.layers[0].fan_in, &s.targets, s.net.layers[s.net.n_layers - 1].fan_out, s.order, batch_row,
                  rows, <real *> below, s.plan.ldx)
    for i in range(s.net.n_layers):
        ask_ahead(s, next_row, i)
        layer = &s.net.layers[i]
        a = block_a(s, region, region_rows, i, row)
        w = weights_of(s, i, scratch)
        layer_forward(rows, &w, layer.activation if i < s.net.n_layers - 1 else IDENTITY,
                      s.plan.mode == TRAIN or s.plan.mode == TAPE, below, ld_below, a,
                      block_g(s, region, region_rows, i, row), layer.ld)
        if drops(s, i):
            mask = mask_of(&s.dropout, i)
            apply_mask(&mask, batch_row, rows, 0, layer.fan_out, a, layer.ld)
        below = a
        ld_below = layer.ld


cdef inline void head_of_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    real *scratch, double *total,
) noexcept nogil:
    cdef Py_ssize_t last = s.net.n_layers - 1, n = s.net.layers[last].fan_out
    cdef Targets t
    if not order_is_valid(s, batch_row, rows):
        total[0] = NAN
        return
    t = targets_of(s, batch_row, rows, scratch + s.plan.gathered_at)
    if t.labels != NULL and not labels_in_range(t.labels, rows, n):     # somebody has changed them during a pass
        total[0] = NAN
        return
    head_block(&s.net.rule, rows, n, block_a(s, region, region_rows, last, row), s.net.layers[last].ld, &t, scratch,
               total)


cdef inline void output_of_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    real *scratch,
) noexcept nogil:
    """y of some rows from their logits; with a tape also the last layer's slope, or for softmax y in place of z."""
    cdef Py_ssize_t index = s.net.n_layers - 1, i, column
    cdef Py_ssize_t n = s.net.layers[index].fan_out, ld = s.net.layers[index].ld
    cdef real *a = block_a(s, region, region_rows, index, row)
    cdef real *y = s.output + batch_row * n
    if s.net.rule.activation == SOFTMAX:
        softmax_output(rows, n, a, ld, y, n, scratch)
        for i in range(rows):
            memcpy(a + i * ld, y + i * n, n * sizeof(real))
        return
    activate(s.net.rule.activation, s.plan.mode == TAPE, rows, n, a,
             block_g(s, region, region_rows, index, row), ld)
    for i in range(rows):
        column = 0
        while column < n:
            store_edge(y + i * n + column, vload(a + i * ld + column), n - column)
            column += VL


cdef inline real *dz_panels(const Step *s, Py_ssize_t index) noexcept nogil:
    """Where a layer's dE/dz is packed for its dW; NULL if it is not."""
    if not s.plan.pack_dz or gradient_tasks(&s.net.layers[index]) < 2:
        return NULL
    return s.memory + s.plan.dz_at + s.plan.slab_rows * s.net.layers[index].row_at // 2


cdef inline void backward_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    Py_ssize_t next_row, real *scratch,
) noexcept nogil:
    """All hidden layers' dE/dz for some rows, from the last layer's; and dE/dx, if wanted."""
    cdef int i, last = s.net.n_layers - 1
    cdef Weights w
    cdef Mask mask
    if dz_panels(s, last) != NULL:
        pack_rows(row, rows, s.net.layers[last].fan_out, block_g(s, region, region_rows, last, row),
                  s.net.layers[last].ld, dz_panels(s, last), s.plan.slab_rows)
    for i in range(s.net.n_layers - 1, 0, -1):
        ask_ahead(s, next_row, s.net.n_layers + i - 1)
        w = weights_of(s, i, scratch)
        if drops(s, i - 1):
            mask = mask_of(&s.dropout, i - 1)
        layer_backward(rows, &w, s.net.layers[i - 1].activation, block_g(s, region, region_rows, i, row),
                       s.net.layers[i].ld, block_a(s, region, region_rows, i - 1, row),
                       block_g(s, region, region_rows, i - 1, row), s.net.layers[i - 1].ld,
                       &mask if drops(s, i - 1) else NULL, batch_row,
                       dz_panels(s, i - 1), s.plan.slab_rows, row, scratch)
    if s.input_gradient != NULL:
        w = weights_of(s, 0, scratch)
        input_gradient(rows, &w, block_g(s, region, region_rows, 0, row), s.net.layers[0].ld,
                       s.input_gradient + batch_row * s.net.layers[0].fan_in)


cdef inline void gradient_part(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t rows, Py_ssize_t batch_row, int index,
    Py_ssize_t begin, Py_ssize_t end, real *gradient, bint add, real *scratch,
) noexcept nogil:
    """Rows begin..end of a layer's dW, and with the first of them its db, over the first rows of a region."""
    cdef const Layer *layer = &s.net.layers[index]
    cdef const real *dz = block_g(s, region, region_rows, index, 0)
    if index == 0:
        weight_gradient(rows, begin, end, layer.fan_out, input_rows(s, region, region_rows, 0, batch_row),
                        s.plan.ldx, dz,
                        layer.ld, dz_panels(s, index), s.plan.slab_rows, gradient + layer.weights, add, scratch)
    else:
        weight_gradient(rows, begin, end, layer.fan_out, block_a(s, region, region_rows, index - 1, 0),
                        s.net.layers[index - 1].ld, dz, layer.ld, dz_panels(s, index), s.plan.slab_rows,
                        gradient + layer.weights, add, scratch)
    if begin == 0:
        bias_gradient(rows, layer.fan_out, dz, layer.ld, gradient + layer.biases, add)
