"""The table of activations: one row each, from which every loop over one of them is compiled."""
from fastbp._simd cimport *
from fastbp._gemm cimport load_edge, store_edge
from fastbp._activations cimport *
from fastbp._losses cimport HeadRule, Targets, elementwise_of, softmax_rows

cdef enum Task:
    MAP         # a = act(a), slope = act'(a)
    HEAD        # a = dE/dz from the logits a, and the loss
    ELEMENTS    # out = act(x) or act'(x), for tests

cdef struct Job:
    int task
    bint with_slope
    Py_ssize_t rows, n, ld
    real *a                     # MAP, HEAD     IN OUT  [rows, n], rows ld apart
    real *slope                 # MAP           OUT     the same, where with_slope
    const HeadRule *rule        # HEAD
    const Targets *targets      # HEAD
    double *total               # HEAD          IN OUT  the weighted loss is added
    const real *x               # ELEMENTS      IN      [n]
    real *out                   # ELEMENTS      OUT     [n]


cdef inline separate_void for_activation(int activation, const Job *job) noexcept nogil:
    """Do a job with one of the activations but softmax, which is not one lane at a time."""
    if activation == IDENTITY:
        do_job(identity, identity_head, job)
    elif activation == SIGMOID:
        do_job(sigmoid, sigmoid_head, job)
    elif activation == TANH:
        do_job(tanh, tanh_head, job)
    elif activation == RELU:
        do_job(relu, relu_head, job)
    elif activation == LEAKY_RELU:
        do_job(leaky_relu, leaky_relu_head, job)
    elif activation == ELU:
        do_job(elu, elu_head, job)
    elif activation == SOFTPLUS:
        do_job(softplus, softplus_head, job)
    elif activation == GELU:
        do_job(gelu, gelu_head, job)
    elif activation == SILU:
        do_job(silu, silu_head, job)
    elif activation == EXP:
        do_job(exp, exp_head, job)


cdef inline inlined_void do_job(activation_function f, head_function head, const Job *job) noexcept nogil:
    """f and head are constants wherever this is called, and become part of the loops."""
    if job.task == MAP and job.with_slope:
        map_rows(f, True, job.rows, job.n, job.a, job.slope, job.ld)
    elif job.task == MAP:
        map_rows(f, False, job.rows, job.n, job.a, job.slope, job.ld)
    elif job.task == HEAD:
        elementwise_of(head, job.rule, job.rows, job.n, job.a, job.ld, job.targets, job.total)
    else:
        map_elements(f, job.with_slope, job.n, job.x, job.out)


cdef inline inlined_void map_rows(
    activation_function f, const bint with_slope, Py_ssize_t rows, Py_ssize_t n, real *a, real *slope, Py_ssize_t ld,
) noexcept nogil:
    cdef vreal value, derivative
    cdef Py_ssize_t i, k
    for i in range(rows):
        k = 0
        while k < n:
            f(vload(a + i * ld + k), &value, &derivative)
            vstore(a + i * ld + k, value)
            if with_slope:
                vstore(slope + i * ld + k, derivative)
            k += VL


cdef inline inlined_void map_elements(
    activation_function f, bint with_slope, Py_ssize_t n, const real *x, real *out,
) noexcept nogil:
    cdef vreal value, derivative
    cdef Py_ssize_t k = 0
    while k < n:
        f(load_edge(x + k, n - k), &value, &derivative)
        store_edge(out + k, derivative if with_slope else value, n - k)
        k += VL


cdef inline void activate(
    int activation, bint with_slope, Py_ssize_t rows, Py_ssize_t n, real *a, real *slope, Py_ssize_t ld,
) noexcept nogil:
    """a = act(a) and, if with_slope, slope = act'(a), but for activations of two straight lines (see _layers.pxd)."""
    cdef Job job
    if activation == IDENTITY:
        return
    job.task = MAP
    job.with_slope = with_slope and activation != RELU and activation != LEAKY_RELU
    job.rows = rows
    job.n = n
    job.a = a
    job.slope = slope
    job.ld = ld
    for_activation(activation, &job)


cdef inline void head_block(
    const HeadRule *rule, Py_ssize_t rows, Py_ssize_t n, real *z, Py_ssize_t ld, const Targets *t,
    real *scratch, double *total,
) noexcept nogil:
    """Replace the logits z[rows, n] by weight * dE/dz, and add the weighted losses to total."""
    cdef Job job
    if rule.activation == SOFTMAX:
        softmax_rows(rule, rows, n, z, ld, t, scratch, total)
        return
    job.task = HEAD
    job.rows = rows
    job.n = n
    job.a = z
    job.ld = ld
    job.rule = rule
    job.targets = t
    job.total = total
    for_activation(rule.activation, &job)
