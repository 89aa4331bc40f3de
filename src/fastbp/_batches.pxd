"""The batches of a pass over all rows: a step each, without the GIL."""
cimport numpy as np
from libc.stdint cimport uint32_t, uint64_t

from fastbp._simd cimport *
from fastbp._dropout cimport mixed64
from fastbp._update cimport Optimizer, next_update
from fastbp._plan cimport *
from fastbp._gather cimport rows_in_range
from fastbp._blocks cimport INTERRUPTED, NO_SUCH_ROW, Step, targets_of
from fastbp._pace cimport run_at_pace
from fastbp._watch cimport Watch, omp_get_wtime, watch_from
from fastbp._workspace cimport Workspace, work_in
from fastbp._arrays cimport plain, point_at

cdef struct Batches:
    Step whole              # x and targets are those of all rows
    const uint32_t *order   # of rows, or NULL
    Py_ssize_t end, size    # of the pass, of a batch
    bint mean
    double penalty          # of a batch whose weights add up to 1
    uint64_t key            # of the pass, for dropout


cdef inline bint read_pass(
    Batches *b, const Net *net, np.ndarray parameters, object X, object Y, object sample_weight, object order,
    Py_ssize_t begin, Py_ssize_t batch_size, bint mean, object dropout, uint64_t key,
) noexcept:
    """What all batches of a pass share but the gradient; False if an argument is not as needed.

    Whoever begins a pass has checked what Y and sample_weight hold.  It takes many calls, and if each looked at all of
    them and of the order first, long passes would take much longer: what is an index is checked where it is used.
    """
    if not point_at(&b.whole, net, X, Y, sample_weight):
        return False
    b.whole.parameters = <const real *> np.PyArray_DATA(parameters)
    b.mean = mean
    b.penalty = 0
    b.key = key
    b.order = NULL
    b.end = b.whole.rows
    if order is not None:
        b.order = <const uint32_t *> plain(order, np.NPY_UINT32, 1, -1, 0, False)
        if b.order == NULL:
            return False
        b.end = np.PyArray_DIMS(order)[0]
    elif b.whole.targets.bytes != NULL:
        return False
    b.size = batch_size
    if dropout is not None:
        b.whole.dropout.rates = <const double *> plain(dropout, np.NPY_FLOAT64, 1, net.n_layers - 1, 0, False)
        if b.whole.dropout.rates == NULL:
            return False
    return 0 <= begin <= b.end and batch_size > 0


cdef inline bint batch_is_valid(const Batches *b, Py_ssize_t begin) noexcept nogil:
    """Whether what the order says for the batch that begins there are rows."""
    return b.order == NULL or rows_in_range(b.order + begin, min(b.size, b.end - begin), b.whole.rows)


cdef inline Step batch_at(const Batches *b, Py_ssize_t begin, Py_ssize_t n_steps) noexcept nogil:
    """The step over the batch that begins there, in an optimizer's life its (n_steps + 1)-th."""
    cdef Step s = b.whole
    cdef double total
    cdef Py_ssize_t i
    s.rows = min(b.size, b.end - begin)
    total = s.rows
    if s.targets.weights != NULL and batch_is_valid(b, begin):
        total = 0
        for i in range(begin, begin + s.rows):
            total += s.targets.weights[i if b.order == NULL else b.order[i]]
    if b.order != NULL:
        s.order = b.order + begin
        s.order_rest = b.end - begin
        s.order_rows = b.whole.rows
    else:
        s.x += begin * s.net.layers[0].fan_in
        s.targets = targets_of(&s, begin, s.rows, NULL)
    # A batch of weight 0 has loss and gradient 0.
    s.penalty = b.penalty / total if total > 0 else 0
    if b.mean:
        s.targets.scale = 1 / total if total > 0 else 0
    s.dropout.key = mixed64(b.key) + <uint64_t> n_steps * <uint64_t> 0x100000001b3u
    return s


cdef inline Py_ssize_t run_batches(
    Batches *b, Py_ssize_t begin, Optimizer *optimizer, Workspace *full, Workspace *last, double *losses,
    double seconds, int *failure,
) noexcept nogil:
    """Where it stopped.  A batch of which something is not finite, or that was interrupted, changes nothing."""
    cdef Step s
    cdef Workspace *w
    cdef double now = omp_get_wtime(), end_time = now + seconds
    cdef Watch watch = watch_from(now)
    while begin < b.end:
        s = batch_at(b, begin, optimizer.steps)
        w = last if last != NULL and s.rows < b.size else full
        work_in(&s, w)
        s.watch = NULL if w.plan.brief else &watch
        s.update = next_update(optimizer, <real *> s.parameters)
        losses[begin // b.size] = run_at_pace(&s, &w.pace)
        if s.failure:
            optimizer.steps -= 1
            failure[0] = s.failure if s.failure == INTERRUPTED or batch_is_valid(b, begin) else NO_SUCH_ROW
            break
        begin += s.rows
        if omp_get_wtime() > end_time:
            break
    return begin
