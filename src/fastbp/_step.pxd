"""A whole step: loss and gradient of a network on a batch, and the parameters' update.

(a) Rows go through all layers, forward and back, in blocks small enough that every layer's activations stay in cache.
(b) What is added up never depends on the number of threads, so results are the same to the bit for any.  Sizes alone
    choose between two ways:
    by chunks   few parameters: the rows are cut into a fixed number of chunks, each with a gradient of its own; these
                are added in order.  Tasks are chunks, then ranges of parameters.
    by phases   many parameters, for which gradients of their own would cost more than the products: all rows forward
                and back in blocks, keeping every layer's a and dE/dz; then each part of dW over all rows in order.
                Large batches go through in slabs of rows, so that memory is bounded.
(c) W and W^T are packed into panels once a step, by all threads; a few rows read W where it stands.
(d) A step too small to gain from a second thread never wakes one.  Whether a brief one gains is measured: a thread that
    has to be woken first, or whose core is busy with something else, can cost more than the step (`Pace`).
"""
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from cython.parallel cimport parallel, threadid

from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._dropout cimport Dropout, Mask, apply_mask, mask_of
from fastbp._layers cimport *
from fastbp._losses cimport *
from fastbp._table cimport *
from fastbp._update cimport *
from fastbp._plan cimport *

cdef struct Step:
    const Net *net
    const Plan *plan
    const real *parameters          # and VL readable numbers after them
    Py_ssize_t rows                 # of one of the batches of a pass: tells which plan it needs
    const real *x                   # [rows, fan_in of the first layer] without padding
    Targets targets
    const int64_t *order            # plan.gather: the batch is these rows of x and of the targets; NULL: the first ones
    Dropout dropout
    real *gradient                  # OUT
    real *input_gradient            # OUT or NULL
    real *output                    # OUT  PREDICT, TAPE: [rows, last width]
    const real *output_gradient     # IN   TAPE: dE/dy, [rows, last width]
    Update update
    bint guarded                    # update only along a finite gradient of a finite loss, with these two:
    double max_norm                 # the gradient's; it is scaled down to it
    double penalty                  # 0.5 * penalty * sum of W^2 is added to the loss
    int threads                     # that take part: at most plan.threads
    real *memory                    # plan.total numbers
    double *losses                  # plan.n_losses
    double *squares                 # guarded: sums of g^2 and of W^2 in each range of parameters
    double norm, loss               # OUT  guarded: of the whole gradient, and with the penalty


# ---- lines that go from core to core ---------------------------------------------------------------------------------

cdef inline void claim_lines(real *p, Py_ssize_t n) noexcept nogil:
    """Become the only owner of the cache lines of n numbers that another core wrote and this one has read.

    Left in both caches, each would cost the other core's next write a round trip of its own, one after the other;
    owned by one, they are fetched many at a time.  (Zen 3 and 4: 30 ns a line against 6.)  No other thread may use
    them meanwhile: they are written, with what they hold.
    """
    cdef Py_ssize_t i = 0
    while i < n:
        write_back(p + i)
        i += LINE


# ---- packing ---------------------------------------------------------------------------------------------------------

cdef inline real *panels_of(const Step *s, real *scratch) noexcept nogil:
    """Where a thread finds the packed weights, given its scratch."""
    return scratch + s.plan.panels_at if s.plan.own_panels else s.memory + s.plan.packed_at


cdef inline void pack_task(const Step *s, Py_ssize_t task, real *panels) noexcept nogil:
    """Pack W (even tasks) or W^T (odd tasks) of a layer."""
    cdef Py_ssize_t index = task // 2
    cdef const Layer *layer = &s.net.layers[index]
    if task % 2 == 0:
        pack_weights(s.parameters + layer.weights, s.parameters + layer.biases, layer.fan_in, layer.fan_out,
                     panels + layer.packed)
    elif s.plan.mode == TAPE or (index > 0 and s.plan.mode == TRAIN):
        pack_weights_transposed(s.parameters + layer.weights, layer.fan_in, layer.fan_out, panels + layer.transposed)


cdef inline Weights weights_of(const Step *s, Py_ssize_t index, real *scratch) noexcept nogil:
    cdef const Layer *layer = &s.net.layers[index]
    cdef Weights w
    w.w = s.parameters + layer.weights
    w.bias = s.parameters + layer.biases
    w.fan_in = layer.fan_in
    w.fan_out = layer.fan_out
    w.packed = NULL
    w.transposed = NULL
    if not s.plan.in_place:
        w.packed = panels_of(s, scratch) + layer.packed
        w.transposed = panels_of(s, scratch) + layer.transposed
    return w


# ---- a block of rows through all layers ------------------------------------------------------------------------------
# In a region each layer has its two blocks, a and g, of region_rows rows.  In training the last layer's are one and the
# same: the head replaces the logits by dE/dz.

cdef inline real *block_a(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t index, Py_ssize_t row,
) noexcept nogil:
    return region + region_rows * s.net.layers[index].row_at + row * s.net.layers[index].ld


cdef inline real *block_g(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t index, Py_ssize_t row,
) noexcept nogil:
    return block_a(s, region, region_rows, index, row) + (
        0 if s.plan.mode != TAPE and index == s.net.n_layers - 1 else region_rows * s.net.layers[index].ld)


cdef inline Py_ssize_t batch_row_at(const Step *s, Py_ssize_t row) noexcept nogil:
    """Which row of x is row `row` of the batch."""
    return row if s.order == NULL else s.order[row]


cdef inline bint drops(const Step *s, int index) noexcept nogil:
    """Whether some of a layer's outputs are dropped."""
    return s.dropout.rates != NULL and index < s.net.n_layers - 1 and s.dropout.rates[index] > 0


cdef inline const real *input_rows(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t batch_row,
) noexcept nogil:
    """The first layer's input: x, or the copy of it that `forward_block` made at row `row` of the region."""
    if not s.plan.copy_x:
        return s.x + batch_row * s.net.layers[0].fan_in
    return region + region_rows * s.net.layers[s.net.n_layers].row_at + row * s.plan.ldx


cdef inline separate_void copy_rows(const Step *s, Py_ssize_t batch_row, Py_ssize_t rows, real *copy) noexcept nogil:
    """Copy some rows of the batch, as x has them or as `order` says.  Those that come next are asked for meanwhile."""
    cdef Py_ssize_t fan_in = s.net.layers[0].fan_in, n = s.net.layers[s.net.n_layers - 1].fan_out, i, k, next
    cdef Py_ssize_t ahead = 2 + min(<Py_ssize_t> 14, 1024 // (fan_in * <Py_ssize_t> sizeof(real)))
    cdef const real *x
    for i in range(rows):
        if s.order != NULL and i + ahead < rows:
            next = s.order[batch_row + i + ahead]
            for k in range((fan_in + LINE - 1) // LINE):
                prefetch_line(s.x + next * fan_in + k * LINE)
            if s.targets.dense != NULL:
                prefetch_line(s.targets.dense + next * n)
            if s.targets.labels != NULL:
                prefetch_line(<const real *> (s.targets.labels + next))
        x = s.x + batch_row_at(s, batch_row + i) * fan_in
        if fan_in > 16:
            memcpy(copy + i * s.plan.ldx, x, fan_in * sizeof(real))
        else:       # less than a call costs
            for k in range(fan_in):
                copy[i * s.plan.ldx + k] = x[k]


cdef inline void forward_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    real *scratch,
) noexcept nogil:
    """All layers' activations for some rows of the batch; the last layer's logits."""
    cdef const Layer *layer = NULL
    cdef const real *below = input_rows(s, region, region_rows, row, batch_row)
    cdef Py_ssize_t ld_below = s.plan.ldx
    cdef Weights w
    cdef Mask mask
    cdef real *a
    cdef int i
    if s.plan.copy_x:
        copy_rows(s, batch_row, rows, <real *> below)
    for i in range(s.net.n_layers):
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


cdef inline real *dz_panels(const Step *s, Py_ssize_t index) noexcept nogil:
    """Where a layer's dE/dz is packed for its dW; NULL if it is not."""
    if not s.plan.pack_dz or gradient_tasks(&s.net.layers[index]) < 2:
        return NULL
    return s.memory + s.plan.dz_at + s.plan.slab_rows * s.net.layers[index].row_at // 2


cdef inline void pack_dz(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t index, Py_ssize_t row, Py_ssize_t rows,
) noexcept nogil:
    cdef real *panels = dz_panels(s, index)
    if panels != NULL:
        pack_rows(row, rows, s.net.layers[index].fan_out, block_g(s, region, region_rows, index, row),
                  s.net.layers[index].ld, panels, s.plan.slab_rows)


cdef inline void backward_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    real *scratch,
) noexcept nogil:
    """All hidden layers' dE/dz for some rows, from the last layer's; and dE/dx, if wanted."""
    cdef Weights w
    cdef Mask mask
    cdef int i
    pack_dz(s, region, region_rows, s.net.n_layers - 1, row, rows)
    for i in range(s.net.n_layers - 1, 0, -1):
        w = weights_of(s, i, scratch)
        if drops(s, i - 1):
            mask = mask_of(&s.dropout, i - 1)
        layer_backward(rows, &w, s.net.layers[i - 1].activation, block_g(s, region, region_rows, i, row),
                       s.net.layers[i].ld, block_a(s, region, region_rows, i - 1, row),
                       block_g(s, region, region_rows, i - 1, row), s.net.layers[i - 1].ld,
                       &mask if drops(s, i - 1) else NULL, batch_row, scratch)
        pack_dz(s, region, region_rows, i - 1, row, rows)
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


cdef inline Targets targets_of(const Step *s, Py_ssize_t row, Py_ssize_t rows, real *gathered) noexcept nogil:
    """The targets of some rows of the batch; brought together at `gathered`, if they have to be."""
    cdef Targets t = s.targets
    cdef Py_ssize_t n = s.net.layers[s.net.n_layers - 1].fan_out, i
    cdef double *weights = <double *> gathered
    cdef int64_t *labels
    cdef real *dense
    if s.order == NULL:
        if t.dense != NULL:
            t.dense += row * n
        if t.labels != NULL:
            t.labels += row
        if t.weights != NULL:
            t.weights += row
        return t
    labels = <int64_t *> (weights + s.plan.block_rows)
    dense = <real *> (labels + s.plan.block_rows)
    if t.dense != NULL:
        for i in range(rows):
            memcpy(dense + i * n, t.dense + s.order[row + i] * n, n * sizeof(real))
        t.dense = dense
    if t.labels != NULL:
        for i in range(rows):
            labels[i] = t.labels[s.order[row + i]]
        t.labels = labels
    if t.weights != NULL:
        for i in range(rows):
            weights[i] = t.weights[s.order[row + i]]
        t.weights = weights
    return t


cdef inline void head_of_block(
    const Step *s, real *region, Py_ssize_t region_rows, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t batch_row,
    real *scratch, double *total,
) noexcept nogil:
    cdef Targets t = targets_of(s, batch_row, rows, scratch + s.plan.gathered_at)
    cdef Py_ssize_t last = s.net.n_layers - 1
    head_block(&s.net.rule, rows, s.net.layers[last].fan_out, block_a(s, region, region_rows, last, row),
               s.net.layers[last].ld, &t, scratch, total)


# ---- tasks -----------------------------------------------------------------------------------------------------------

cdef inline void chunk_task(const Step *s, Py_ssize_t chunk, int thread) noexcept nogil:
    """Loss and gradient of one chunk of rows, block by block."""
    cdef const Plan *plan = s.plan
    cdef Py_ssize_t begin = share(plan.rows, plan.n_chunks, chunk)
    cdef Py_ssize_t size = share(plan.rows, plan.n_chunks, chunk + 1) - begin
    cdef Py_ssize_t blocks = blocks_of(size, plan.block_rows), b, row, rows
    cdef real *region = s.memory + plan.regions_at + thread * plan.region_size
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef real *gradient = s.gradient
    cdef int i
    if plan.n_chunks > 1:
        gradient = s.memory + plan.gradients_at + chunk * in_lines(s.net.n_parameters)
    s.losses[chunk] = 0
    for b in range(blocks):
        row = begin + share(size, blocks, b)
        rows = begin + share(size, blocks, b + 1) - row
        forward_block(s, region, plan.block_rows, 0, rows, row, scratch)
        head_of_block(s, region, plan.block_rows, 0, rows, row, scratch, &s.losses[chunk])
        backward_block(s, region, plan.block_rows, 0, rows, row, scratch)
        for i in range(s.net.n_layers):
            gradient_part(s, region, plan.block_rows, rows, row, i, 0, s.net.layers[i].fan_in, gradient, b > 0, scratch)


cdef inline Py_ssize_t slab_begin(const Plan *plan, Py_ssize_t slab) noexcept nogil:
    return min(plan.rows, slab * plan.slab_rows)


cdef inline void block_task(const Step *s, Py_ssize_t slab, Py_ssize_t block, int thread) noexcept nogil:
    """One block of a slab's rows forward and back."""
    cdef const Plan *plan = s.plan
    cdef Py_ssize_t begin = slab_begin(plan, slab)
    cdef Py_ssize_t row = block * plan.block_rows
    cdef Py_ssize_t rows = min(slab_begin(plan, slab + 1) - begin - row, plan.block_rows)
    cdef real *region = s.memory + plan.regions_at
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef double *total = &s.losses[slab * blocks_of(plan.slab_rows, plan.block_rows) + block]
    total[0] = 0
    if rows <= 0:
        return
    forward_block(s, region, plan.slab_rows, row, rows, begin + row, scratch)
    head_of_block(s, region, plan.slab_rows, row, rows, begin + row, scratch, total)
    backward_block(s, region, plan.slab_rows, row, rows, begin + row, scratch)


cdef inline void gradient_task(const Step *s, Py_ssize_t slab, Py_ssize_t task, int thread) noexcept nogil:
    """One part of a layer's gradient over all rows of a slab."""
    cdef const Plan *plan = s.plan
    cdef Py_ssize_t begin = slab_begin(plan, slab), parts, fan_in
    cdef int i = 0
    while task >= gradient_tasks(&s.net.layers[i]):
        task -= gradient_tasks(&s.net.layers[i])
        i += 1
    parts = gradient_tasks(&s.net.layers[i])
    fan_in = s.net.layers[i].fan_in
    gradient_part(s, s.memory + plan.regions_at, plan.slab_rows, slab_begin(plan, slab + 1) - begin,
                  begin, i, share(fan_in, parts, task), share(fan_in, parts, task + 1), s.gradient, slab > 0,
                  s.memory + plan.scratch_at + thread * plan.scratch_size)


cdef inline separate_void add_gradients(
    real *parts, Py_ssize_t stride, Py_ssize_t n_parts, Py_ssize_t n, real *total, bint claim,
) noexcept nogil:
    """total = parts[0] + parts[1] + ..., n numbers each, stride apart; claim: other threads wrote some of them."""
    cdef Py_ssize_t i, k
    cdef vreal sum
    i = 0
    while i < n:
        sum = load_edge(parts + i, n - i)
        for k in range(1, n_parts):
            sum = sum + load_edge(parts + k * stride + i, n - i)
        store_edge(total + i, sum, n - i)
        i += VL
    if claim:
        for k in range(n_parts):
            claim_lines(parts + k * stride, n)


cdef inline double sum_of_squares(const real *x, Py_ssize_t n) noexcept nogil:
    """Of at most RANGE numbers, so that the dtype's accuracy is enough."""
    cdef vreal s0 = vset(0), s1 = vset(0), y0, y1
    cdef real lanes[16]
    cdef double total = 0
    cdef Py_ssize_t i = 0
    while i < n:
        y0 = load_edge(x + i, n - i)
        y1 = load_edge(x + i + VL, n - i - VL)
        s0 = s0 + y0 * y0
        s1 = s1 + y1 * y1
        i += 2 * VL
    vstore(lanes, s0 + s1)
    for i in range(VL):
        total += lanes[i]
    return total


cdef inline double add_penalty(const Step *s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Add penalty * W to the gradient of those of the parameters begin..end that are weights; the sum of their W^2."""
    cdef const Layer *layer
    cdef real penalty = <real> s.penalty
    cdef double total = 0
    cdef Py_ssize_t first, last, k
    cdef int i
    for i in range(s.net.n_layers):
        layer = &s.net.layers[i]
        first = max(begin, layer.weights)
        last = min(end, layer.biases)
        if first < last:
            for k in range(first, last):
                s.gradient[k] += penalty * s.parameters[k]
            total += sum_of_squares(s.parameters + first, last - first)
    return total


cdef inline Py_ssize_t first_parameter(const Step *s, int threads, int thread) noexcept nogil:
    """Parameters are shared out once for all: they stay in the cache of the core that updates them."""
    return min(s.net.n_parameters, RANGE * share(blocks_of(s.net.n_parameters, RANGE), threads, thread))


cdef inline void finish(const Step *s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Add up the chunks' gradients for some ranges of parameters, and update these; if guarded, only prepare it."""
    cdef Py_ssize_t range_end
    if s.plan.n_chunks > 1:
        add_gradients(s.memory + s.plan.gradients_at + begin, in_lines(s.net.n_parameters), s.plan.n_chunks,
                      end - begin, s.gradient + begin, s.threads > 1)
    if not s.guarded:
        update_range(&s.update, s.gradient, begin, end)
        return
    while begin < end:
        range_end = min(begin + RANGE, end)
        s.squares[begin // RANGE * 2 + 1] = add_penalty(s, begin, range_end) if s.penalty != 0 else 0
        s.squares[begin // RANGE * 2] = sum_of_squares(s.gradient + begin, range_end - begin)
        begin = range_end


cdef inline double total_loss(const Step *s) noexcept nogil:
    """The batch's loss, and if guarded the penalty."""
    cdef double loss = 0, squares = 0
    cdef Py_ssize_t k
    for k in range(s.plan.n_losses):
        loss += s.losses[k]
    if s.guarded and s.penalty != 0:
        for k in range(blocks_of(s.net.n_parameters, RANGE)):
            squares += s.squares[2 * k + 1]
        loss += 0.5 * s.penalty * squares
    return loss


cdef inline double gradient_norm(const Step *s) noexcept nogil:
    """The norm of the whole gradient, from its squares in ranges; not finite if an entry is not."""
    cdef double squares = 0, largest = 0, x
    cdef Py_ssize_t k
    for k in range(blocks_of(s.net.n_parameters, RANGE)):
        squares += s.squares[2 * k]
    if isfinite(squares) and squares > (1e-30 if sizeof(real) == 4 else 1e-280):
        return sqrt(squares)
    for k in range(s.net.n_parameters):     # squares may leave the dtype's range when their root does not
        x = <double> s.gradient[k]
        if not isfinite(x):
            return squares
        largest = max(largest, abs(x))
    if largest == 0:
        return 0
    squares = 0
    for k in range(s.net.n_parameters):
        squares += (<double> s.gradient[k] / largest) ** 2
    return largest * sqrt(squares)


cdef inline void update_guarded(const Step *s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Update some parameters, if the step can be taken."""
    cdef Py_ssize_t k
    if not isfinite(s.norm) or not isfinite(s.loss):
        return
    if s.norm > s.max_norm:
        for k in range(begin, end):
            s.gradient[k] = <real> (s.gradient[k] * (s.max_norm / s.norm))
    update_range(&s.update, s.gradient, begin, end)


# ---- outputs, and a loss of the user's own ---------------------------------------------------------------------------

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


cdef inline void forward_task(const Step *s, Py_ssize_t block, int thread) noexcept nogil:
    cdef const Plan *plan = s.plan
    cdef real *region = s.memory + plan.regions_at + thread * plan.region_size
    cdef Py_ssize_t row = share(plan.rows, plan.n_chunks, block)
    cdef Py_ssize_t rows = share(plan.rows, plan.n_chunks, block + 1) - row
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    forward_block(s, region, plan.block_rows, 0, rows, row, scratch)
    if plan.mode == PREDICT:
        output_of_block(s, region, plan.block_rows, 0, rows, row, scratch)
    else:
        s.losses[block] = 0
        head_of_block(s, region, plan.block_rows, 0, rows, row, scratch, &s.losses[block])


cdef inline void tape_forward_task(const Step *s, Py_ssize_t block, int thread) noexcept nogil:
    cdef const Plan *plan = s.plan
    cdef real *region = s.memory + plan.regions_at
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef Py_ssize_t row = block * plan.block_rows
    cdef Py_ssize_t rows = min(plan.rows - row, plan.block_rows)
    forward_block(s, region, plan.slab_rows, row, rows, row, scratch)
    output_of_block(s, region, plan.slab_rows, row, rows, row, scratch)


cdef inline void tape_backward_task(const Step *s, Py_ssize_t block, int thread) noexcept nogil:
    """dE/dz of all layers and dE/dx for a block of rows, from dE/dy."""
    cdef const Plan *plan = s.plan
    cdef real *region = s.memory + plan.regions_at
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef Py_ssize_t row = block * plan.block_rows, index = s.net.n_layers - 1, i, column = 0
    cdef Py_ssize_t rows = min(plan.rows - row, plan.block_rows)
    cdef Py_ssize_t n = s.net.layers[index].fan_out, ld = s.net.layers[index].ld
    cdef real *a = block_a(s, region, plan.slab_rows, index, row)
    cdef real *g = block_g(s, region, plan.slab_rows, index, row)
    cdef const real *dy = s.output_gradient + row * n
    if s.net.rule.activation == SOFTMAX:
        softmax_backward(rows, n, a, ld, dy, g, ld)
    else:
        while column < n:
            for i in range(rows):
                vstore(scratch + i * VL, load_edge(dy + i * n + column, n - column))
            through_activation(s.net.rule.activation, rows, 1, scratch, a + column, g + column, ld)
            column += VL
    backward_block(s, region, plan.slab_rows, row, rows, row, scratch)


# ---- the step --------------------------------------------------------------------------------------------------------
# What is done is a list of stages, each a number of tasks that do not depend on each other.

cdef enum:
    NUMBERS_APART = 16

cdef enum Stage:
    PACK
    CHUNKS
    BLOCKS
    GRADIENTS
    FINISH
    JUDGE
    UPDATE
    FORWARD
    TAPE_FORWARD
    TAPE_BACKWARD


cdef inline Py_ssize_t tasks_of(const Step *s, int stage) noexcept nogil:
    cdef Py_ssize_t total = 0
    cdef int i
    if stage == PACK:
        return 0 if s.plan.in_place or s.plan.own_panels else 2 * s.net.n_layers
    if stage == JUDGE:
        return 1
    if stage == CHUNKS or stage == FORWARD:
        return s.plan.n_chunks
    if stage == FINISH or stage == UPDATE:
        return 0 if s.plan.n_chunks == 1 and s.update.rule == NO_UPDATE else 1
    if stage == GRADIENTS:
        for i in range(s.net.n_layers):
            total += gradient_tasks(&s.net.layers[i])
        return total
    return blocks_of(s.plan.slab_rows, s.plan.block_rows)


cdef inline void do_task(Step *s, int stage, Py_ssize_t slab, Py_ssize_t task, int thread) noexcept nogil:
    if stage == PACK:
        pack_task(s, task, s.memory + s.plan.packed_at)
    elif stage == CHUNKS:
        chunk_task(s, task, thread)
    elif stage == BLOCKS:
        block_task(s, slab, task, thread)
    elif stage == GRADIENTS:
        gradient_task(s, slab, task, thread)
    elif stage == JUDGE:
        s.norm = gradient_norm(s)
        s.loss = total_loss(s)
    elif stage == FORWARD:
        forward_task(s, task, thread)
    elif stage == TAPE_FORWARD:
        tape_forward_task(s, task, thread)
    else:
        tape_backward_task(s, task, thread)


cdef inline Py_ssize_t n_stages(const Step *s) noexcept nogil:
    if s.plan.mode != TRAIN:
        return 2
    return 1 + (1 if s.plan.by_chunks else 2 * s.plan.n_slabs) + (3 if s.guarded else 1)


cdef inline int stage_at(const Step *s, Py_ssize_t k) noexcept nogil:
    """The k-th stage of a step; in training by phases, two for each slab."""
    if s.plan.mode == TAPE and s.output_gradient != NULL:
        return TAPE_BACKWARD if k == 0 else GRADIENTS
    if k == 0:
        return PACK
    if s.plan.mode == PREDICT or s.plan.mode == VALUE:
        return FORWARD
    if s.plan.mode == TAPE:
        return TAPE_FORWARD
    if k == n_stages(s) - 1:
        return UPDATE if s.guarded else FINISH
    if s.guarded and k >= n_stages(s) - 3:
        return FINISH if k == n_stages(s) - 3 else JUDGE
    if s.plan.by_chunks:
        return CHUNKS
    return BLOCKS if k % 2 == 1 else GRADIENTS


cdef inline Py_ssize_t slab_at(const Step *s, Py_ssize_t k) noexcept nogil:
    return (k - 1) // 2 if s.plan.mode == TRAIN else 0


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_get_num_threads(void) { return 1; }
    #endif
    #if defined(_OPENMP) && defined(__GNUC__)
    #if !defined(_WIN32)
    #include <sched.h>
    #else
    #define sched_yield() ((void)0)
    #endif
    static inline Py_ssize_t take_number(Py_ssize_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
    /* Spin, in the hope that it is brief: OpenMP's own barrier enters the kernel each time.  A thread whose core is
     * wanted by others gives way. */
    static inline void wait_for_all(Py_ssize_t *arrived, Py_ssize_t all)
    {
        int turns = 0;
        __atomic_fetch_add(arrived, 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(arrived, __ATOMIC_ACQUIRE) < all) {
            if (++turns > 20000) sched_yield();
    #if defined(__x86_64__)
            __builtin_ia32_pause();
    #endif
        }
    }
    #elif defined(_OPENMP)      /* MSVC */
    #include <intrin.h>
    static __inline Py_ssize_t take_number(Py_ssize_t *next) { return (Py_ssize_t)_InterlockedExchangeAdd64(next, 1); }
    static void wait_for_all(Py_ssize_t *arrived, Py_ssize_t all)
    {
        (void)arrived; (void)all;
    #pragma omp barrier
    }
    #else
    #define take_number(next) ((*(next))++)
    #define wait_for_all(arrived, all) ((void)0)
    #endif
    """
    int omp_get_num_threads() nogil
    Py_ssize_t take_number(Py_ssize_t *next) noexcept nogil
    void wait_for_all(Py_ssize_t *arrived, Py_ssize_t all) noexcept nogil

cdef struct Team:           # what the threads of a step share, cache lines apart; all zero at first
    Py_ssize_t[NUMBERS_APART] before
    Py_ssize_t[NUMBERS_APART] next_task     # numbers of tasks, of this stage or
    Py_ssize_t[NUMBERS_APART] next_task_2   # every other one
    Py_ssize_t[NUMBERS_APART] arrived       # of all at all the points where they wait for each other


cdef inline void pack_own(Step *s, int threads, int thread, Team *team, Py_ssize_t *meetings) noexcept nogil:
    """All panels for one thread.  What others will update, one of its readers then claims for the time being."""
    cdef real *panels = panels_of(s, s.memory + s.plan.scratch_at + thread * s.plan.scratch_size)
    cdef Py_ssize_t task, begin
    cdef int next = (thread + 1) % threads
    for task in range(2 * s.net.n_layers):
        pack_task(s, task, panels)
    if threads > 1 and s.update.rule != NO_UPDATE:
        meetings[0] += 1
        wait_for_all(team.arrived, meetings[0] * threads)
        begin = first_parameter(s, threads, next)
        claim_lines(s.update.parameters + begin, first_parameter(s, threads, next + 1) - begin)


cdef inline separate_void run_thread(Step *s, int threads, int thread, Team *team) noexcept nogil:
    """A thread's part of all stages.  OpenMP's own loops would do, but wait once more at the end of a step.

    Its first task of a stage is known; for more it takes a number.
    """
    cdef Py_ssize_t k, task, n, last = n_stages(s) - 1, meetings = 0
    cdef Py_ssize_t *next_task = team.next_task
    cdef Py_ssize_t *next_task_2 = team.next_task_2
    cdef int stage
    if s.plan.own_panels:
        pack_own(s, threads, thread, team, &meetings)
    for k in range(last + 1):
        stage = stage_at(s, k)
        n = tasks_of(s, stage)
        if n == 0:
            continue
        if thread == 0:
            next_task_2[0] = 0
        if stage == FINISH:
            finish(s, first_parameter(s, threads, thread), first_parameter(s, threads, thread + 1))
        elif stage == UPDATE:
            update_guarded(s, first_parameter(s, threads, thread), first_parameter(s, threads, thread + 1))
        else:
            task = thread
            while task < n:
                do_task(s, stage, slab_at(s, k), task, thread)
                task = threads + take_number(next_task)
        next_task, next_task_2 = next_task_2, next_task
        if k < last and threads > 1:
            meetings += 1
            wait_for_all(team.arrived, meetings * threads)


cdef inline double run_step(Step *s) noexcept nogil:
    """Do what s asks for; the loss of the batch, if it is trained on."""
    cdef Team team
    memset(&team, 0, sizeof(Team))
    if s.threads > 1:
        with parallel(num_threads=s.threads):   # or fewer: OpenMP has limits of its own
            run_thread(s, omp_get_num_threads(), threadid(), &team)
    else:
        run_thread(s, 1, 0, &team)
    return s.loss if s.guarded else total_loss(s)


# ---- one thread or all -----------------------------------------------------------------------------------------------

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    #include <time.h>
    static double omp_get_wtime(void) { return (double) time(NULL); }
    #endif
    """
    double omp_get_wtime() nogil

cdef enum:
    FIRST_PAUSE = 16
    LONGEST_PAUSE = 4096

cdef struct Pace:       # of the steps of one shape in one workspace; all zero at first
    double alone        # seconds on one thread: the least seen, forgotten slowly
    int runs
    int slow            # parallel runs in a row that took longer than that
    int pause           # runs to come on one thread
    int next_pause


cdef inline int choose_threads(Pace *pace, const Plan *plan) noexcept nogil:
    if plan.threads == 1 or not plan.brief:
        return plan.threads
    if pace.pause > 0:
        pace.pause -= 1
        return 1
    return 1 if pace.runs % 1024 == 1 else plan.threads     # a comparison, now and then


cdef inline void keep_pace(Pace *pace, int threads, double seconds) noexcept nogil:
    pace.runs = (pace.runs + 1) & 0xffffff
    if threads == 1:
        pace.alone = min(seconds, 1.05 * pace.alone) if pace.alone > 0 else seconds
    elif pace.alone > 0 and seconds > pace.alone:
        pace.slow += 1
        if pace.slow == 3:
            pace.slow = 0
            pace.next_pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * pace.next_pause))
            pace.pause = pace.next_pause
    else:
        pace.slow = 0
        pace.next_pause = 0


cdef inline double run_at_pace(Step *s, Pace *pace) noexcept nogil:
    """`run_step` on one thread or on all that the plan has, whichever was faster lately."""
    cdef double begin, loss
    s.threads = choose_threads(pace, s.plan)
    if s.plan.threads == 1 or not s.plan.brief:
        return run_step(s)
    begin = omp_get_wtime()
    loss = run_step(s)
    keep_pace(pace, s.threads, omp_get_wtime() - begin)
    return loss
