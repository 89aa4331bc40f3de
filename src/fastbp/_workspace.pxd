"""The memory that a step works in, and the plan for it: kept from step to step."""
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from fastbp._simd cimport *
from fastbp._plan cimport *
from fastbp._blocks cimport Step
from fastbp._pace cimport Pace

cdef struct Workspace:
    Plan plan
    Pace pace
    void *raw
    real *memory            # on a cache line
    Py_ssize_t capacity     # numbers
    double *losses
    Py_ssize_t losses_capacity
    Workspace *next


cdef inline real *on_a_line(void *p) noexcept nogil:
    """The first cache line from p on: vectors that straddle two are slow."""
    return <real *> ((<uintptr_t> p + 63) & ~<uintptr_t> 63)


cdef inline void free_workspace(Workspace *w) noexcept:
    if w != NULL:
        PyMem_RawFree(w.raw)
        PyMem_RawFree(w.losses)
        PyMem_RawFree(w)


cdef inline bint fit_workspace(
    Workspace *w, const Net *net, Py_ssize_t rows, int threads, int mode, bint gather,
) noexcept:
    """Plan for so many rows and make room; False if there is no memory."""
    if (w.plan.rows == rows and w.plan.threads_allowed == threads and w.plan.mode == mode
            and w.plan.gather == gather and w.raw != NULL):
        return True
    make_plan(net, rows, threads, mode, gather, &w.plan)
    memset(&w.pace, 0, sizeof(Pace))
    if w.plan.total > w.capacity:
        PyMem_RawFree(w.raw)
        w.capacity = 0
        w.raw = PyMem_RawMalloc(w.plan.total * sizeof(real) + 64)
        if w.raw == NULL:
            return False
        w.memory = on_a_line(w.raw)
        w.capacity = w.plan.total
    if w.plan.n_losses > w.losses_capacity:
        PyMem_RawFree(w.losses)
        w.losses_capacity = 0
        w.losses = <double *> PyMem_RawMalloc(w.plan.n_losses * sizeof(double))
        if w.losses == NULL:
            w.plan.rows = -1
            return False
        w.losses_capacity = w.plan.n_losses
    return True


cdef inline void work_in(Step *s, const Workspace *w) noexcept nogil:
    s.plan = &w.plan
    s.memory = w.memory
    s.losses = w.losses
