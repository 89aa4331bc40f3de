"""A whole step: loss and gradient of a network on a batch, and the parameters' update.

(a) Rows go through all layers, forward and back, in blocks small enough that every layer's activations stay in cache.
(b) What is added up never depends on the number of threads, so results are the same to the bit for any.  Sizes alone
    choose between two ways:
    by chunks   few parameters: the rows are cut into a fixed number of chunks, each with a gradient of its own; these
                are added two and two, always the same ones.  Tasks are chunks, then ranges of parameters.
    by phases   many parameters, for which gradients of their own would cost more than the products: all rows forward
                and back in blocks, keeping every layer's a and dE/dz; then each part of dW over all rows in order.
                Large batches go through in slabs of rows, so that memory is bounded.
(c) W and W^T are packed into panels once a step, those of a large network by all threads together, else by each for
    itself; a few rows read W where it stands.
(d) A step too small to gain from a second thread never wakes one.  Whether a brief one gains is measured (_pace.pxd).
"""
from libc.string cimport memset

from cython.parallel cimport parallel, threadid

from fastbp._simd cimport *
from fastbp._update cimport NO_UPDATE
from fastbp._plan cimport *
from fastbp._blocks cimport *
from fastbp._tasks cimport *
from fastbp._watch cimport given_up

# What is done is a list of stages, each a number of tasks that do not depend on each other.

cdef enum:
    NUMBERS_APART = 16      # two cache lines: some processors fetch them in pairs

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
        return 0 if s.plan.in_place or s.plan.own_panels else 2 * PACK_PARTS * s.net.n_layers
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
    static inline Py_ssize_t take_number(Py_ssize_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_ACQ_REL); }
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
    Py_ssize_t[NUMBERS_APART] arrived       # at all the points where they wait for each other
    Py_ssize_t[2 * MAX_SHARES * NUMBERS_APART] taken    # tasks of each share, of this stage or every other one
    Py_ssize_t[MAX_CHUNKS * NUMBERS_APART] joined       # halves of each sum of gradients that are there


cdef inline void join_gradients(const Step *s, Py_ssize_t chunk, int threads, Team *team) noexcept nogil:
    """Add up chunks' gradients by halves of halves, once both are there; the sum of all is left to `finish`."""
    cdef Py_ssize_t[4] begins
    cdef Py_ssize_t[4] middles
    cdef Py_ssize_t[4] sums
    cdef Py_ssize_t begin = 0, end = s.plan.n_chunks, middle, sum = 1
    cdef int depth = 0
    while end - begin > 1:
        middle = (begin + end) // 2
        begins[depth], middles[depth], sums[depth] = begin, middle, sum
        depth += 1
        if chunk < middle:
            end = middle
            sum = 2 * sum
        else:
            begin = middle
            sum = 2 * sum + 1
    while depth > 1:
        depth -= 1
        if chunk < middles[depth] if threads == 1 else take_number(&team.joined[sums[depth] * NUMBERS_APART]) == 0:
            return
        add_gradients(chunk_gradient(s, begins[depth]), chunk_gradient(s, middles[depth]), s.net.n_parameters,
                      chunk_gradient(s, begins[depth]))


cdef inline void do_task(
    Step *s, int stage, Py_ssize_t slab, Py_ssize_t task, int threads, int thread, Team *team,
) noexcept nogil:
    if stage == JUDGE:
        judge(s)
    elif given_up(s.watch, thread):
        return
    elif stage == PACK:
        pack_task(s, task, s.memory + s.plan.packed_at)
    elif stage == CHUNKS:
        chunk_task(s, task, thread)
        join_gradients(s, task, threads, team)
    elif stage == BLOCKS:
        block_task(s, slab, task, thread)
    elif stage == GRADIENTS:
        gradient_task(s, slab, task, shares_of(threads), thread)
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


cdef inline void pack_own(const Step *s, int threads, int thread) noexcept nogil:
    """All panels for one thread; first what is made of the parameters that it updates itself: the others it fetches."""
    cdef real *panels = panels_of(s, s.memory + s.plan.scratch_at + thread * s.plan.scratch_size)
    cdef int k
    for k in range(threads):
        pack_part(s, threads, thread, (thread + k) % threads, panels)


cdef inline Py_ssize_t tasks_before(const Step *s, int stage, Py_ssize_t shares, Py_ssize_t k) noexcept nogil:
    """The first task of share k of a stage's."""
    return gradient_tasks_before(s, shares, k) if stage == GRADIENTS else share(tasks_of(s, stage), shares, k)


cdef inline void share_tasks(
    Step *s, int stage, Py_ssize_t slab, int parity, int threads, int thread, Team *team,
) noexcept nogil:
    """A thread's part of the tasks of a stage: its share of them, then what is left of the others'.

    A share's first task is its owner's, who takes it without asking; numbers are taken for the rest.  A line of cache
    that only its owner writes stays with it: between cores far apart each change of hands takes 0.2 microseconds.
    """
    cdef Py_ssize_t shares = shares_of(threads), helped, k, begin, end, task
    for helped in range(shares):
        k = (thread + helped) % shares
        begin = tasks_before(s, stage, shares, k)
        end = tasks_before(s, stage, shares, k + 1)
        if k == thread and begin < end:
            do_task(s, stage, slab, begin, threads, thread, team)
        task = begin + 1
        while task < end:
            task = begin + 1 + take_number(&team.taken[(2 * k + parity) * NUMBERS_APART])
            if task < end:
                do_task(s, stage, slab, task, threads, thread, team)


cdef inline separate_void run_thread(Step *s, int threads, int thread, Team *team) noexcept nogil:
    """A thread's part of all stages.  OpenMP's own loops would do, but wait once more at the end of a step."""
    cdef Py_ssize_t k, task, n, last = n_stages(s) - 1, meetings = 0
    cdef int stage
    if s.plan.own_panels:
        pack_own(s, threads, thread)
    for k in range(last + 1):
        stage = stage_at(s, k)
        n = tasks_of(s, stage)
        if n == 0:
            continue
        if threads > 1 and thread < MAX_SHARES:     # nobody looks at them before the next meeting
            team.taken[(2 * thread + (meetings + 1) % 2) * NUMBERS_APART] = 0
        if stage == FINISH:
            finish(s, first_parameter(s, threads, thread), first_parameter(s, threads, thread + 1))
        elif stage == UPDATE:
            update_guarded(s, first_parameter(s, threads, thread), first_parameter(s, threads, thread + 1))
        elif threads > 1:
            share_tasks(s, stage, slab_at(s, k), meetings % 2, threads, thread, team)
        else:
            for task in range(n):
                do_task(s, stage, slab_at(s, k), task, threads, thread, team)
        if k < last and threads > 1:
            meetings += 1
            wait_for_all(team.arrived, meetings * threads)


cdef inline double run_step(Step *s) noexcept nogil:
    """Do what s asks for; the loss of the batch, if it is trained on."""
    cdef Team team
    if s.threads > 1:
        memset(&team, 0, sizeof(Team))
        with parallel(num_threads=s.threads):   # or fewer: OpenMP has limits of its own
            run_thread(s, omp_get_num_threads(), threadid(), &team)
    else:
        run_thread(s, 1, 0, &team)
    return s.loss if s.guarded else total_loss(s)
