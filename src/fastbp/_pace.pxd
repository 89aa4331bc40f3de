"""One thread or all, for a brief step: whichever was faster lately.

A thread that has to be woken first, or whose core is busy with something else, can cost more than the step.
"""
from fastbp._simd cimport *
from fastbp._plan cimport Plan
from fastbp._blocks cimport Step
from fastbp._step cimport run_step

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
