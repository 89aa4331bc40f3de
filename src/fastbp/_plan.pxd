"""The plan of a step: from a network's shape, the number of rows and the mode, how the work is cut and what lies where.

Made once for a shape and kept in the workspace.  Nothing but `threads` depends on the number of threads.
"""
from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._layers cimport gradient_scratch, packed_size
from fastbp._losses cimport HeadRule, SOFTMAX_ARRAYS

cdef struct Layer:
    Py_ssize_t fan_in, fan_out
    int activation
    Py_ssize_t weights, biases      # where they start in the flat vector
    Py_ssize_t ld                   # numbers in a padded row of its output
    Py_ssize_t row_at               # numbers that the layers below take of each row of a region
    Py_ssize_t packed, transposed   # where W's and W^T's panels start among the packed ones

cdef struct Net:
    int n_layers
    Layer *layers
    HeadRule rule
    Py_ssize_t n_parameters
    Py_ssize_t packed_size          # numbers in all panels

cdef enum:
    MAX_CHUNKS = 16
    PACK_PARTS = 4                  # that each W and W^T are packed in, for threads to have about the same to do
    GRADIENT_ROWS = 128             # rows of dW in a task, at most
    PACKING_ROWS = 512              # of a batch, at most, for which a narrow layer's W is not worth packing
    OWN_PANELS = 1280 * 1024        # bytes of parameters, at most, that each thread packs for itself
    RANGE = 128                     # parameters: their squares are added up, and they are shared out, by so many

cdef enum Mode:
    TRAIN       # loss and gradient
    VALUE       # loss only
    PREDICT     # outputs only
    TAPE        # outputs, keeping what the way back needs, for a loss of the user's own

cdef struct Plan:
    Py_ssize_t rows
    int mode
    int threads_allowed, threads
    bint brief                      # so short that waking another thread may cost more than it saves
    bint by_chunks
    bint in_place                   # few rows: packing the weights would cost more than the products
    bint own_panels                 # each thread packs all weights for itself: cheaper than to wait and fetch them
    bint gather                     # rows of x are taken in a given order
    bint copy_x                     # so they are copied, or because, as they are, they would fall on few cache sets
    Py_ssize_t ldx                  # numbers in a row of x, padded if it is copied
    Py_ssize_t n_chunks             # by chunks
    Py_ssize_t slab_rows, n_slabs   # by phases
    bint pack_dz                    # once, for all tasks of a layer's dW
    Py_ssize_t block_rows
    Py_ssize_t asked_rows           # rows of the next block that are asked for at a time, on the way forward and back
    Py_ssize_t n_losses             # chunks, or blocks of all slabs
    # sizes and places in a workspace, in numbers
    Py_ssize_t region_size, n_regions, scratch_size, gradient_size
    Py_ssize_t gathered_at, panels_at   # within scratch
    Py_ssize_t packed_at, regions_at, dz_at, scratch_at, gradients_at, total

cdef inline bint falls_on_few_sets(Py_ssize_t ld) noexcept nogil:
    cdef Py_ssize_t size = ld * <Py_ssize_t> sizeof(real)
    return size >= 512 and size % 256 == 0


cdef inline Py_ssize_t padded_width(Py_ssize_t n) noexcept nogil:
    """Numbers in a padded row: whole vectors, and one more where rows would fall on few cache sets."""
    cdef Py_ssize_t width = vectors(n) * VL
    return width + VL if falls_on_few_sets(width) else width


cdef inline Py_ssize_t in_lines(Py_ssize_t n) noexcept nogil:
    """n numbers rounded up to whole cache lines."""
    return (n + 15) // 16 * 16


cdef inline Py_ssize_t apart(Py_ssize_t n) noexcept nogil:
    """n numbers, and a gap to what another thread works in: prefetchers run ahead and would take lines away from it."""
    return in_lines(n) + 4096 // <Py_ssize_t> sizeof(real)


cdef inline Py_ssize_t share(Py_ssize_t n, Py_ssize_t parts, Py_ssize_t k) noexcept nogil:
    """Where part k of n things starts, shared out evenly among parts."""
    return n // parts * k + min(k, n % parts)


cdef inline Py_ssize_t blocks_of(Py_ssize_t rows, Py_ssize_t block_rows) noexcept nogil:
    return (rows + block_rows - 1) // block_rows


cdef inline Py_ssize_t gradient_tasks(const Layer *layer) noexcept nogil:
    """Tasks that a layer's dW is cut into, by rows of dW: what is added up should stay in the second-level cache.

    An even number where there is much to do, for two threads or four.
    """
    cdef bint wide = layer.fan_out * GRADIENT_ROWS * <Py_ssize_t> sizeof(real) > SECOND_CACHE // 2
    cdef Py_ssize_t rows = GRADIENT_ROWS // 2 if wide else GRADIENT_ROWS
    if layer.fan_in * layer.fan_out < 8192:
        return blocks_of(layer.fan_in, rows)
    return 2 * blocks_of(layer.fan_in, 2 * rows)


cdef inline bint reads_in_place(const Plan *plan, const Layer *layer) noexcept nogil:
    """Whether the way forward reads W where it stands: for few rows of a batch, or more where those of W are short.

    A tape's copy of the parameters has nothing readable past its end.
    """
    if plan.mode == TAPE or plan.rows > PACKING_ROWS:
        return False
    return plan.in_place or (layer.fan_out * <Py_ssize_t> sizeof(real) <= 1024
                             and (PANEL_CACHE > 1 or not falls_on_few_sets(layer.fan_out)))


cdef inline Py_ssize_t gathered_size(const Plan *plan, Py_ssize_t fan_out) noexcept nogil:
    """Numbers that the targets of a block take, gathered: as many classes or labels, and weights."""
    return plan.block_rows * (fan_out + 16 // <Py_ssize_t> sizeof(real)) if plan.gather else 0


cdef inline void make_plan(
    const Net *net, Py_ssize_t rows, int threads_allowed, int mode, bint gather, Plan *plan,
) noexcept nogil:
    cdef Py_ssize_t row_size = 0, multiply_adds = 0, widest = 0, fan_in = net.layers[0].fan_in, here
    cdef Py_ssize_t row_limit, most
    cdef const Layer *layer
    cdef int i, products
    cdef bint few
    plan.rows = rows
    plan.threads_allowed = threads_allowed
    plan.mode = mode
    plan.gather = gather
    plan.copy_x = gather or falls_on_few_sets(fan_in)
    plan.ldx = padded_width(fan_in) if plan.copy_x else fan_in
    if plan.copy_x:
        row_size = plan.ldx
    for i in range(net.n_layers):
        layer = &net.layers[i]
        widest = max(widest, layer.fan_out)
        row_size += 2 * layer.ld
        products = 1 if mode == PREDICT or mode == VALUE else 3 if i > 0 or mode == TAPE else 2
        multiply_adds += products * rows * layer.fan_in * layer.fan_out
    # Rows of W that are pages apart are read slowly in place, and so only by very few rows.
    plan.in_place = mode != TAPE and (rows <= 4 or (rows <= 16 and widest * <Py_ssize_t> sizeof(real) <= 1024))
    # Waking and joining threads costs about a microsecond, as much as this many multiply-adds.
    plan.threads = threads_allowed if multiply_adds > 300000 else 1
    plan.brief = multiply_adds < 400000000
    few = net.n_parameters * <Py_ssize_t> sizeof(real) <= 192 * 1024
    plan.by_chunks = mode == PREDICT or mode == VALUE or (mode == TRAIN and few)
    row_limit = max(16, min(96, (160 * 1024 // <Py_ssize_t> sizeof(real)) // row_size))
    if mode == PREDICT or mode == VALUE:
        plan.n_chunks = blocks_of(rows, row_limit)
        if multiply_adds > 300000 and plan.n_chunks < 4:
            plan.n_chunks = min(rows, 4)
        plan.block_rows = (rows + plan.n_chunks - 1) // plan.n_chunks
        plan.n_slabs = 1
        plan.slab_rows = rows
        plan.threads = <int> min(plan.threads, plan.n_chunks)
        plan.n_regions = plan.threads
        plan.region_size = apart(plan.block_rows * row_size)
        plan.n_losses = plan.n_chunks if mode == VALUE else 0
        plan.gradient_size = 0
    elif plan.by_chunks:
        most = min(MAX_CHUNKS, rows // 64)
        most += most % 2 if most > 1 else 0     # an even number, for two threads
        if most < 2 and multiply_adds > 300000:
            most = 2
        plan.n_chunks = max(1, min(most, rows))
        here = (rows + plan.n_chunks - 1) // plan.n_chunks
        plan.block_rows = (here + blocks_of(here, row_limit) - 1) // blocks_of(here, row_limit)
        plan.threads = <int> min(plan.threads, plan.n_chunks)
        plan.n_slabs = 1
        plan.slab_rows = rows
        plan.n_regions = plan.threads
        plan.region_size = apart(plan.block_rows * row_size)
        plan.n_losses = plan.n_chunks
        plan.gradient_size = apart(net.n_parameters) * plan.n_chunks if plan.n_chunks > 1 else 0
    else:
        plan.n_chunks = 1
        most = max(512, (8 * 1024 * 1024 // <Py_ssize_t> sizeof(real)) // row_size)
        plan.n_slabs = 1 if mode == TAPE else blocks_of(rows, most)
        plan.slab_rows = (rows + plan.n_slabs - 1) // plan.n_slabs
        # W passes by once for each block; an even number of them, for two threads
        here = max(1, min(ROW_BLOCK, (plan.slab_rows + 3) // 4 if plan.slab_rows >= 96 else (plan.slab_rows + 1) // 2))
        most = 2 * blocks_of(plan.slab_rows, 2 * here)
        plan.block_rows = (plan.slab_rows + most - 1) // most
        plan.n_regions = 1
        plan.region_size = apart(plan.slab_rows * row_size)
        plan.n_losses = plan.n_slabs * blocks_of(plan.slab_rows, plan.block_rows) if mode == TRAIN else 0
        plan.gradient_size = 0
    plan.asked_rows = (plan.block_rows + 2 * net.n_layers - 2) // (2 * net.n_layers - 1)
    here = plan.block_rows if plan.by_chunks else plan.slab_rows
    plan.scratch_size = in_lines(max(max(gradient_scratch(here, GRADIENT_ROWS), plan.block_rows * TILE_VECTORS * VL),
                                     SOFTMAX_ARRAYS * net.layers[net.n_layers - 1].fan_out * VL))
    plan.gathered_at = plan.scratch_size
    plan.scratch_size += in_lines(gathered_size(plan, net.layers[net.n_layers - 1].fan_out))
    plan.own_panels = net.n_parameters * <Py_ssize_t> sizeof(real) <= OWN_PANELS and mode != TAPE and not plan.in_place
    plan.panels_at = plan.scratch_size
    if plan.own_panels:
        plan.scratch_size += in_lines(net.packed_size)
    plan.scratch_size = apart(plan.scratch_size)
    plan.packed_at = 0
    plan.regions_at = 0 if plan.own_panels or plan.in_place else in_lines(net.packed_size)
    plan.pack_dz = mode == TRAIN and not plan.by_chunks and plan.slab_rows >= 128
    plan.dz_at = plan.regions_at + plan.n_regions * plan.region_size
    plan.scratch_at = plan.dz_at + (plan.slab_rows * net.layers[net.n_layers].row_at // 2 if plan.pack_dz else 0)
    plan.gradients_at = plan.scratch_at + plan.threads * plan.scratch_size
    plan.total = plan.gradients_at + plan.gradient_size
