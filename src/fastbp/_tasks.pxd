"""The tasks of a step, each for one thread; how many of them there are and in which order is said in _step.pxd.

A task works in the scratch, and where the whole batch has no region also in the region, of the thread that does it.
"""
from libc.math cimport isfinite, sqrt

from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._activations cimport SOFTMAX
from fastbp._layers cimport pack_weights, pack_weights_transposed, through_activation
from fastbp._losses cimport softmax_backward
from fastbp._update cimport *
from fastbp._plan cimport *
from fastbp._blocks cimport *
from fastbp._watch cimport given_up, load_flag

cdef enum:
    MAX_SHARES = 16         # that a stage's tasks are cut into

# ---- loss and gradient -----------------------------------------------------------------------------------------------

cdef inline Py_ssize_t first_parameter(const Step *s, int threads, int thread) noexcept nogil:
    """Parameters are shared out once for all: they stay in the cache of the core that updates them."""
    return min(s.net.n_parameters, RANGE * share(blocks_of(s.net.n_parameters, RANGE), threads, thread))


cdef inline void pack_task(const Step *s, Py_ssize_t task, real *panels) noexcept nogil:
    """Pack a part of the rows of W (even tasks) or of the vectors of W^T (odd tasks) of a layer."""
    cdef Py_ssize_t index = task // (2 * PACK_PARTS), part = task // 2 % PACK_PARTS
    cdef Py_ssize_t fan_in = s.net.layers[index].fan_in, n = fan_in if task % 2 == 0 else vectors(fan_in)
    cdef Py_ssize_t begin = share(n, PACK_PARTS, part), end = share(n, PACK_PARTS, part + 1)
    if task % 2 == 0:
        pack_rows_of_w(s, index, begin, end, panels)
    else:
        pack_vectors_of_wt(s, index, begin, end, panels)


cdef inline void pack_rows_of_w(
    const Step *s, Py_ssize_t index, Py_ssize_t begin, Py_ssize_t end, real *panels,
) noexcept nogil:
    cdef const Layer *layer = &s.net.layers[index]
    if reads_in_place(s.plan, layer):
        return
    pack_weights(s.parameters + layer.weights, s.parameters + layer.biases, layer.fan_in, layer.fan_out, begin, end,
                 panels + layer.packed)


cdef inline void pack_vectors_of_wt(
    const Step *s, Py_ssize_t index, Py_ssize_t begin, Py_ssize_t end, real *panels,
) noexcept nogil:
    """Of W^T, where the way back needs it."""
    cdef const Layer *layer = &s.net.layers[index]
    if s.plan.mode == TAPE or (index > 0 and s.plan.mode == TRAIN):
        pack_weights_transposed(s.parameters + layer.weights, layer.fan_in, layer.fan_out, begin, end,
                                panels + layer.transposed)


cdef inline Py_ssize_t rows_before(const Step *s, Py_ssize_t index, Py_ssize_t parameter) noexcept nogil:
    """Rows of a layer's W that begin before one of the parameters."""
    cdef const Layer *layer = &s.net.layers[index]
    cdef Py_ssize_t n = parameter - layer.weights
    return max(0, min(layer.fan_in, (n + layer.fan_out - 1) // layer.fan_out)) if n > 0 else 0


cdef inline void pack_part(const Step *s, int threads, int thread, int owner, real *panels) noexcept nogil:
    """Pack, for one thread, what `owner` updates of all layers.

    W^T is packed by VL rows of W: where owners share some, each of them packs these among its own.
    """
    cdef Py_ssize_t begin, end, i
    cdef bint is_last
    for i in range(s.net.n_layers):
        begin = rows_before(s, i, first_parameter(s, threads, owner))
        end = rows_before(s, i, first_parameter(s, threads, owner + 1))
        if begin < end:
            pack_rows_of_w(s, i, begin, end, panels)
        is_last = begin < end and end == s.net.layers[i].fan_in
        begin = vectors(begin) if owner == thread + 1 else begin // VL
        end = vectors(end) if owner == thread or is_last else end // VL
        if begin < end:
            pack_vectors_of_wt(s, i, begin, end, panels)


cdef inline Py_ssize_t shares_of(int threads) noexcept nogil:
    return min(threads, MAX_SHARES)


cdef inline Py_ssize_t task_after(Py_ssize_t task, Py_ssize_t n, int threads, int thread) noexcept nogil:
    """The task that a thread will probably do after this one of n: n + k, if that is the k-th of the next stage.

    See `share_tasks` in _step.pxd: a thread's tasks lie next to each other.
    """
    cdef Py_ssize_t shares = shares_of(threads), k = thread % shares
    cdef Py_ssize_t begin = share(n, shares, k), end = share(n, shares, k + 1)
    return task + 1 if begin <= task < end - 1 else n + begin


cdef inline real *chunk_gradient(const Step *s, Py_ssize_t chunk) noexcept nogil:
    return s.memory + s.plan.gradients_at + chunk * apart(s.net.n_parameters)


cdef inline void chunk_task(const Step *s, Py_ssize_t chunk, int thread) noexcept nogil:
    """Loss and gradient of one chunk of rows, block by block."""
    cdef const Plan *plan = s.plan
    cdef Py_ssize_t begin = share(plan.rows, plan.n_chunks, chunk)
    cdef Py_ssize_t size = share(plan.rows, plan.n_chunks, chunk + 1) - begin
    cdef Py_ssize_t blocks = blocks_of(size, plan.block_rows), b, row, rows, next_row, after
    cdef real *region = s.memory + plan.regions_at + thread * plan.region_size
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef real *gradient = chunk_gradient(s, chunk) if plan.n_chunks > 1 else s.gradient
    cdef double total = 0       # a place in s.losses shares its cache line with what other threads write
    cdef int i
    for b in range(blocks):
        if given_up(s.watch, thread):
            break
        row = begin + share(size, blocks, b)
        rows = begin + share(size, blocks, b + 1) - row
        next_row = row + rows
        if b == blocks - 1:
            after = task_after(chunk, plan.n_chunks, s.threads, thread)
            next_row = plan.rows * (after // plan.n_chunks) + share(plan.rows, plan.n_chunks, after % plan.n_chunks)
        forward_block(s, region, plan.block_rows, 0, rows, row, next_row, scratch)
        head_of_block(s, region, plan.block_rows, 0, rows, row, scratch, &total)
        backward_block(s, region, plan.block_rows, 0, rows, row, next_row, scratch)
        for i in range(s.net.n_layers):
            gradient_part(s, region, plan.block_rows, rows, row, i, 0, s.net.layers[i].fan_in, gradient, b > 0, scratch)
    s.losses[chunk] = total


cdef inline Py_ssize_t slab_begin(const Plan *plan, Py_ssize_t slab) noexcept nogil:
    return min(plan.rows, slab * plan.slab_rows)


cdef inline void block_task(const Step *s, Py_ssize_t slab, Py_ssize_t block, int thread) noexcept nogil:
    """One block of a slab's rows forward and back."""
    cdef const Plan *plan = s.plan
    cdef Py_ssize_t begin = slab_begin(plan, slab)
    cdef Py_ssize_t row = block * plan.block_rows
    cdef Py_ssize_t rows = min(slab_begin(plan, slab + 1) - begin - row, plan.block_rows)
    cdef Py_ssize_t blocks = blocks_of(plan.slab_rows, plan.block_rows)
    cdef Py_ssize_t after = task_after(block, blocks, s.threads, thread)
    cdef Py_ssize_t next_row = slab_begin(plan, slab + after // blocks) + after % blocks * plan.block_rows
    cdef real *region = s.memory + plan.regions_at
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef double total = 0
    if rows > 0:
        forward_block(s, region, plan.slab_rows, row, rows, begin + row, next_row, scratch)
        head_of_block(s, region, plan.slab_rows, row, rows, begin + row, scratch, &total)
        backward_block(s, region, plan.slab_rows, row, rows, begin + row, next_row, scratch)
    s.losses[slab * blocks + block] = total


cdef inline Py_ssize_t gradient_tasks_before(const Step *s, Py_ssize_t shares, Py_ssize_t k) noexcept nogil:
    """Parts of gradients before share k of them, which has a share of every layer's: some are much more work."""
    cdef Py_ssize_t total = 0
    cdef int i
    for i in range(s.net.n_layers):
        total += share(gradient_tasks(&s.net.layers[i]), shares, k)
    return total


cdef inline void gradient_task(
    const Step *s, Py_ssize_t slab, Py_ssize_t task, Py_ssize_t shares, int thread,
) noexcept nogil:
    """One part of a layer's gradient over all rows of a slab."""
    cdef const Plan *plan = s.plan
    cdef Py_ssize_t begin = slab_begin(plan, slab), parts = gradient_tasks(&s.net.layers[0]), k = 0, here, fan_in
    cdef int i = 0
    while gradient_tasks_before(s, shares, k + 1) <= task:
        k += 1
    task -= gradient_tasks_before(s, shares, k)
    here = share(parts, shares, k + 1) - share(parts, shares, k)
    while task >= here:
        task -= here
        i += 1
        parts = gradient_tasks(&s.net.layers[i])
        here = share(parts, shares, k + 1) - share(parts, shares, k)
    task += share(parts, shares, k)
    fan_in = s.net.layers[i].fan_in
    gradient_part(s, s.memory + plan.regions_at, plan.slab_rows, slab_begin(plan, slab + 1) - begin,
                  begin, i, share(fan_in, parts, task), share(fan_in, parts, task + 1), s.gradient, slab > 0,
                  s.memory + plan.scratch_at + thread * plan.scratch_size)


# ---- adding up and updating, a range of parameters each --------------------------------------------------------------

cdef inline separate_void add_gradients(
    const real *first, const real *second, Py_ssize_t n, real *total,
) noexcept nogil:
    """total = first + second, n numbers each."""
    cdef Py_ssize_t i = 0
    while i < n:
        store_edge(total + i, load_edge(first + i, n - i) + load_edge(second + i, n - i), n - i)
        i += VL


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


cdef inline void take_squares(const Step *s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Add the penalty to some ranges of the gradient, and up their squares and those of the weights."""
    cdef Py_ssize_t range_end
    while begin < end:
        range_end = min(begin + RANGE, end)
        s.squares[begin // RANGE * 2 + 1] = add_penalty(s, begin, range_end) if s.penalty != 0 else 0
        s.squares[begin // RANGE * 2] = sum_of_squares(s.gradient + begin, range_end - begin)
        begin = range_end


cdef inline void finish(const Step *s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Add the two halves of the gradient for some ranges of parameters, and update these; if guarded, only prepare it.

    A few ranges at a time, so that the sum is in the first-level cache still.  Other cores have read the parameters:
    their lines are taken back all at once, for one by one each write would wait for a round trip.
    """
    cdef Py_ssize_t next_begin = begin
    while s.threads > 1 and s.update.rule != NO_UPDATE and next_begin < end:
        prefetch_to_write(s.update.parameters + next_begin)
        next_begin += LINE
    while begin < end:
        next_begin = min(begin + 8 * RANGE, end)
        if s.plan.n_chunks > 1:
            add_gradients(chunk_gradient(s, 0) + begin, chunk_gradient(s, s.plan.n_chunks // 2) + begin,
                          next_begin - begin, s.gradient + begin)
        if s.guarded:
            take_squares(s, begin, next_begin)
        else:
            update_range(&s.update, s.gradient, begin, next_begin)
        begin = next_begin


cdef inline double total_loss(const Step *s) noexcept nogil:
    """The batch's loss, and if guarded the penalty."""
    cdef double loss = 0, squares = 0
    cdef Py_ssize_t k
    for k in range(s.plan.n_losses):
        loss += s.losses[k]
    if s.guarded:
        loss /= s.loss_divisor
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


cdef inline void judge(Step *s) noexcept nogil:
    """Whether the step can be taken, before it is.

    A square that overflows would stay infinite in the optimizer's mean of them, and its parameter would never move
    again, while nothing looked wrong.
    """
    cdef double taken
    s.loss = total_loss(s)
    s.norm = gradient_norm(s)
    taken = min(s.norm, s.max_norm)
    s.failure = 0
    if s.watch != NULL and load_flag(&s.watch.interrupted):
        s.failure = INTERRUPTED
    elif not isfinite(s.loss):
        s.failure = LOSS_NOT_FINITE
    elif not isfinite(s.norm):
        s.failure = GRADIENT_NOT_FINITE
    elif s.update.second != NULL and taken * taken > LARGEST:
        s.failure = SQUARE_NOT_FINITE


cdef inline void update_guarded(const Step *s, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Update some parameters, if the step can be taken."""
    cdef Py_ssize_t k
    if s.failure:
        return
    if s.norm > s.max_norm:
        for k in range(begin, end):
            s.gradient[k] = <real> (s.gradient[k] * (s.max_norm / s.norm))
    update_range(&s.update, s.gradient, begin, end)


# ---- outputs, and a loss of the user's own ---------------------------------------------------------------------------

cdef inline void forward_task(const Step *s, Py_ssize_t block, int thread) noexcept nogil:
    cdef const Plan *plan = s.plan
    cdef real *region = s.memory + plan.regions_at + thread * plan.region_size
    cdef Py_ssize_t row = share(plan.rows, plan.n_chunks, block)
    cdef Py_ssize_t rows = share(plan.rows, plan.n_chunks, block + 1) - row
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef double total = 0
    forward_block(s, region, plan.block_rows, 0, rows, row, 0, scratch)
    if plan.mode == PREDICT:
        output_of_block(s, region, plan.block_rows, 0, rows, row, scratch)
    else:
        head_of_block(s, region, plan.block_rows, 0, rows, row, scratch, &total)
        s.losses[block] = total


cdef inline void tape_forward_task(const Step *s, Py_ssize_t block, int thread) noexcept nogil:
    cdef const Plan *plan = s.plan
    cdef real *region = s.memory + plan.regions_at
    cdef real *scratch = s.memory + plan.scratch_at + thread * plan.scratch_size
    cdef Py_ssize_t row = block * plan.block_rows
    cdef Py_ssize_t rows = min(plan.rows - row, plan.block_rows)
    forward_block(s, region, plan.slab_rows, row, rows, row, 0, scratch)
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
    backward_block(s, region, plan.slab_rows, row, rows, row, 0, scratch)
