"""The memory that a step works in, and the plan for it: kept from step to step."""
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from fastbp._simd cimport *
from fastbp._plan cimport *
from fastbp._blocks cimport Step
from fastbp._pace cimport Pace

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    /* Pages of 2 MB, where the system has them to give: wide layers touch more small pages than a core can keep the
     * addresses of.  NumPy asks the same for its arrays. */
    static void ask_for_huge_pages(void *p, size_t size)
    {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        (void)madvise(p, size, MADV_HUGEPAGE);
    #else
        (void)p; (void)size;
    #endif
    }
    """
    void ask_for_huge_pages(void *p, size_t size) noexcept nogil

cdef enum:
    LINE_BYTES = 64
    HUGE_PAGE = 2 * 1024 * 1024

cdef struct Workspace:
    Plan plan
    Pace pace
    void *raw
    real *memory            # on a cache line, or if there is much of it, on a huge page
    Py_ssize_t capacity     # numbers
    double *losses
    Py_ssize_t losses_capacity
    void *raw_gradient
    real *gradient          # as long as the parameters, for steps whose gradient nobody sees; NULL until there is one
    Workspace *next


cdef inline real *aligned(void *p, Py_ssize_t size) noexcept nogil:
    """The first address from p on that is a multiple of a power of two."""
    return <real *> ((<uintptr_t> p + <uintptr_t> size - 1) & ~(<uintptr_t> size - 1))


cdef inline real *on_a_line(void *p) noexcept nogil:
    """The first cache line from p on: vectors that straddle two are slow."""
    return aligned(p, LINE_BYTES)


cdef inline void free_workspace(Workspace *w) noexcept:
    if w != NULL:
        PyMem_RawFree(w.raw)
        PyMem_RawFree(w.losses)
        PyMem_RawFree(w.raw_gradient)
        PyMem_RawFree(w)


cdef inline real *allocate(Py_ssize_t n, void **raw) noexcept:
    """Room for n numbers on a cache line, or if they are many, on a huge page; NULL if there is none.

    raw  OUT  what is to be freed
    """
    cdef Py_ssize_t size = n * <Py_ssize_t> sizeof(real)
    cdef Py_ssize_t unit = HUGE_PAGE if size >= HUGE_PAGE else LINE_BYTES
    cdef real *memory
    size = (size + unit - 1) // unit * unit
    raw[0] = PyMem_RawMalloc(size + unit)
    if raw[0] == NULL:
        return NULL
    memory = aligned(raw[0], unit)
    if unit == HUGE_PAGE:
        ask_for_huge_pages(memory, size)
    return memory


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
        w.memory = allocate(w.plan.total, &w.raw)
        if w.memory == NULL:
            return False
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
