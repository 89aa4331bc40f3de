"""What a step that takes long looks at meanwhile: the clock, and whether somebody has pressed Ctrl-C.

A step changes no parameter before its gradient is whole, so until then it can be given up as if it had not begun.
Python's handler, which may do anything, is not run here: the interrupt is left for it.
"""
cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    #include <time.h>
    static double omp_get_wtime(void) { return (double) time(NULL); }
    #endif
    #if defined(__GNUC__)
    #define load_flag(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define set_flag(p) __atomic_store_n((p), 1, __ATOMIC_RELAXED)
    #else
    #define load_flag(p) (*(volatile int *)(p))
    #define set_flag(p) (*(volatile int *)(p) = 1)
    #endif
    """
    double omp_get_wtime() nogil
    int load_flag(int *p) noexcept nogil
    void set_flag(int *p) noexcept nogil

cdef extern from "Python.h":
    int PyOS_InterruptOccurred() noexcept
    void PyErr_SetInterrupt() noexcept

cdef struct Watch:          # of a call
    double next_look
    int interrupted         # a flag that other threads read


cdef inline Watch watch_from(double now) noexcept nogil:
    cdef Watch watch
    watch.next_look = now + 0.1
    watch.interrupted = 0
    return watch


cdef inline bint interrupt_is_pending() noexcept with gil:
    """Whether this is Python's main thread, and it has been interrupted."""
    if PyOS_InterruptOccurred():    # which forgets it
        PyErr_SetInterrupt()
        return True
    return False


cdef inline bint given_up(Watch *watch, int thread) noexcept nogil:
    """Whether to leave the step (watch NULL: it is brief).  The thread that called looks, ten times a second."""
    cdef double now
    if watch == NULL:
        return False
    if thread == 0:
        now = omp_get_wtime()
        if now > watch.next_look:
            watch.next_look = now + 0.1
            if interrupt_is_pending():
                set_flag(&watch.interrupted)
    return load_flag(&watch.interrupted)
