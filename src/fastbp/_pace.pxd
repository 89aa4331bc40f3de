"""One thread or all, for something brief: whichever was faster lately.

A thread that has to be woken first, or whose core is busy with something else, can cost more than the work.
"""
from fastbp._simd cimport *
from fastbp._blocks cimport Step
from fastbp._step cimport run_step
from fastbp._watch cimport omp_get_wtime

cdef enum:
    FIRST_PAUSE = 4         # times as long on one thread as was lost by trying all; it may have been a chance event
    PAUSE = 24              # the same where that follows another such pause
    LONGEST_TRY = 8         # milliseconds lost: two or three ticks of a scheduler that moves a thread to an idle core

cdef struct Pace:           # of the steps of one shape in one workspace, say; all zero at first
    double alone            # seconds on one thread: the least seen, forgotten slowly
    double alone_until      # when to try all again
    int runs
    int slow                # parallel runs in a row that took longer than that
    double lost             # by them
    double allowed          # to be lost before giving up: longer tries from time to time, for as long as none succeeds


cdef inline int choose_threads(Pace *pace, int most, double now) noexcept nogil:
    if pace.runs % 1024 == 1 or now < pace.alone_until:     # a comparison, now and then
        return 1
    return most


cdef inline void keep_pace(Pace *pace, int threads, double begin, double end) noexcept nogil:
    cdef double seconds = end - begin
    pace.runs = (pace.runs + 1) & 0xffffff
    if threads == 1:
        pace.alone = min(seconds, 1.05 * pace.alone) if pace.alone > 0 else seconds
    elif pace.alone > 0 and seconds > pace.alone:
        pace.slow += 1
        pace.lost += seconds - pace.alone
        if pace.slow >= 3 and pace.lost > pace.allowed:
            pace.alone_until = end + (PAUSE if pace.allowed > 0 else FIRST_PAUSE) * pace.lost
            pace.allowed = min(1e-3 * LONGEST_TRY, 2 * pace.lost)
            pace.slow = 0
            pace.lost = 0
    else:
        pace.slow = 0
        pace.lost = 0
        pace.allowed = 0


cdef inline double run_at_pace(Step *s, Pace *pace) noexcept nogil:
    """`run_step` on one thread or on all that the plan has, whichever was faster lately."""
    cdef double begin, loss
    if s.plan.threads == 1 or not s.plan.brief:
        s.threads = s.plan.threads
        return run_step(s)
    begin = omp_get_wtime()
    s.threads = choose_threads(pace, s.plan.threads, begin)
    loss = run_step(s)
    keep_pace(pace, s.threads, begin, omp_get_wtime())
    return loss
