"""The compiled layer: one module per (instruction set x dtype) is built from this file.

Everything that computes is in the .pxd files: _gemm (products), _math and _activations (elementary functions), _table
(the list of activations), _layers (one layer), _losses (the head), _plan and _step (a whole step), _update
(optimizers).  Here arrays come in.  Methods of `Network` take arrays only as they need them (C order, aligned, native,
of the dtype, of the right shape, with values in their range), and return None when one is otherwise: then the caller
(fastbp/mlp.py) finds out what is wrong, converts what can be converted, and calls again.  Nothing is written before all
is checked.
"""
cimport cython
cimport numpy as np
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

import time

from fastbp._simd cimport *
from fastbp._gemm cimport *
from fastbp._dropout cimport mixed64
from fastbp._math cimport *
from fastbp._activations cimport *
from fastbp._layers cimport *
from fastbp._losses cimport *
from fastbp._table cimport *
from fastbp._update cimport *
from fastbp._plan cimport *
from fastbp._step cimport *

np.import_array()

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #else
    static int omp_get_max_threads(void) { return 1; }
    #endif
    """
    int omp_get_max_threads() nogil

cdef extern from *:
    """
    #include <float.h>
    #ifdef FASTBP_F32
    #define LARGEST FLT_MAX
    #else
    #define LARGEST DBL_MAX
    #endif
    """
    const real LARGEST

cdef int REAL = np.NPY_FLOAT32 if sizeof(real) == 4 else np.NPY_FLOAT64
READABLE_PAST_PARAMETERS = VL     # numbers that a step may read, and ignore, after the parameters
cdef int thread_limit = 0   # 0: OpenMP's own
cdef int most_threads = 1   # never more

VECTOR_LANES = VL


def limit_threads(int limit, int most):
    """At most `limit` threads (0: as OpenMP says), and never more than `most`."""
    global thread_limit, most_threads
    thread_limit = limit
    most_threads = most


cdef inline int allowed_threads() noexcept nogil:
    cdef int n = thread_limit if thread_limit > 0 else omp_get_max_threads()
    return max(1, min(n, most_threads))


cdef inline real *on_a_line(void *p) noexcept nogil:
    """The first cache line from p on: vectors that straddle two are slow."""
    return <real *> ((<uintptr_t> p + 63) & ~<uintptr_t> 63)


# ---- arrays ----------------------------------------------------------------------------------------------------------

cdef inline void *plain(object array, int dtype, int dimensions, Py_ssize_t first, Py_ssize_t second, bint writable):
    """The data of an array that is just as asked for (first, second < 0: any length but 0), else NULL."""
    if not np.PyArray_CheckExact(array):
        return NULL
    if np.PyArray_TYPE(array) != dtype or np.PyArray_NDIM(array) != dimensions:
        return NULL
    if not (np.PyArray_ISCARRAY(array) if writable else np.PyArray_ISCARRAY_RO(array)):
        return NULL
    cdef np.npy_intp *shape = np.PyArray_DIMS(array)
    if shape[0] != first and (first >= 0 or shape[0] < 1):
        return NULL
    if dimensions == 2 and shape[1] != second:
        return NULL
    return np.PyArray_DATA(array)


cdef inline bint overlap(const void *p, Py_ssize_t p_bytes, const void *q, Py_ssize_t q_bytes) noexcept:
    return q != NULL and <uintptr_t> p < <uintptr_t> q + q_bytes and <uintptr_t> q < <uintptr_t> p + p_bytes


cdef bint targets_in_domain(const real *t, Py_ssize_t n, int loss) noexcept nogil:
    cdef vint bad = vseti(0)
    cdef vreal x
    cdef vreal most = vset(1) if loss == BINARY_CROSS_ENTROPY else vset(LARGEST)
    cdef real lanes[16]
    cdef Py_ssize_t i = 0
    cdef int v
    if loss == SQUARED_ERROR:
        return True
    while i < n:
        x = load_edge(t + i, n - i)
        bad = bad | ~vless_equal(vset(0), x) | ~vless_equal(x, most)
        i += VL
    vstore(lanes, vkeep(bad, vset(1)))
    for v in range(VL):
        if lanes[v] != 0:
            return False
    return True


cdef bint labels_in_range(const int64_t *labels, Py_ssize_t n, Py_ssize_t classes) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint bad = False
    for i in range(n):
        bad = bad | (labels[i] < 0) | (labels[i] >= classes)
    return not bad


cdef double total_weight(const double *weights, Py_ssize_t n) noexcept nogil:
    """The sum of weights, or 0 if they are not all finite and nonnegative."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        if not weights[i] >= 0:
            return 0
        total += weights[i]
    return total if isfinite(total) else 0


# ---- optimizer state -------------------------------------------------------------------------------------------------

@cython.final
cdef class UpdateState:
    """What an optimizer keeps for one network: two vectors like the parameters, and how many steps were taken."""
    cdef Update update
    cdef bint eps_hat
    cdef readonly object first, second
    cdef public Py_ssize_t steps

    def __init__(self, str rule, object first, object second):
        self.update.rule = update_names().index(rule)
        self.first = first
        self.second = second
        self.update.first = NULL if first is None else <real *> np.PyArray_DATA(first)
        self.update.second = NULL if second is None else <real *> np.PyArray_DATA(second)
        self.steps = 0

    def set(self, double learning_rate, double weight_decay, bint decoupled, double momentum, bint nesterov,
            double beta1, double beta2, double eps, bint eps_hat):
        """The hyperparameters of the next step; eps_hat: eps is added to sqrt(v) before v's correction."""
        self.eps_hat = eps_hat
        self.update.learning_rate = learning_rate
        self.update.weight_decay = weight_decay
        self.update.decoupled = decoupled
        self.update.momentum = momentum
        self.update.nesterov = nesterov
        self.update.beta1 = beta1
        self.update.beta2 = beta2
        self.update.eps = eps

    cdef Update next_update(self, real *parameters) noexcept nogil:
        cdef Update u = self.update
        self.steps += 1
        u.parameters = parameters
        u.correction1 = 1 - u.beta1 ** self.steps
        u.correction2 = 1 - u.beta2 ** self.steps
        if self.eps_hat:
            u.eps /= sqrt(u.correction2)
        return u

    def step(self, np.ndarray parameters, np.ndarray gradient):
        """Update parameters along a gradient; both vectors of the dtype, C order."""
        cdef Update u = self.next_update(<real *> np.PyArray_DATA(parameters))
        cdef Py_ssize_t n = np.PyArray_SIZE(parameters)
        with nogil:
            update_range(&u, <real *> np.PyArray_DATA(gradient), 0, n)


# ---- the batches of a pass -------------------------------------------------------------------------------------------

cdef enum Failure:
    LOSS_NOT_FINITE = 1
    GRADIENT_NOT_FINITE

cdef struct Batches:
    Step whole              # x and targets are those of all rows
    const int64_t *order    # of rows, or NULL
    Py_ssize_t end, size    # of the pass, of a batch
    bint mean
    double penalty          # of a batch whose weights add up to 1
    uint64_t key            # of the pass, for dropout


cdef inline Step batch_at(const Batches *b, Py_ssize_t begin, Py_ssize_t n_steps) noexcept nogil:
    """The step over the batch that begins there, in an optimizer's life its (n_steps + 1)-th."""
    cdef Step s = b.whole
    cdef double total
    cdef Py_ssize_t i
    s.rows = min(b.size, b.end - begin)
    total = s.rows
    if s.targets.weights != NULL:
        total = 0
        for i in range(begin, begin + s.rows):
            total += s.targets.weights[i if b.order == NULL else b.order[i]]
    if b.order != NULL:
        s.order = b.order + begin
    else:
        s.x += begin * s.net.layers[0].fan_in
        s.targets = targets_of(&s, begin, s.rows, NULL)
    # A batch of weight 0 has loss and gradient 0.
    s.penalty = b.penalty / total if total > 0 else 0
    if b.mean:
        s.targets.scale = 1 / total if total > 0 else 0
    s.dropout.key = mixed64(b.key) + <uint64_t> n_steps * <uint64_t> 0x100000001b3u
    return s


cdef Py_ssize_t run_batches(
    const Batches *b, Py_ssize_t begin, UpdateState state, Workspace *full, Workspace *last, double *losses,
    double seconds, int *failure,
) noexcept nogil:
    """Where it stopped.  A batch whose loss or gradient is not finite changes nothing."""
    cdef Step s
    cdef Workspace *w
    cdef double end_time = omp_get_wtime() + seconds
    while begin < b.end:
        s = batch_at(b, begin, state.steps)
        w = last if last != NULL and s.rows < b.size else full
        work_in(&s, w)
        s.update = state.next_update(<real *> s.parameters)
        losses[begin // b.size] = run_at_pace(&s, &w.pace)
        if not isfinite(s.loss) or not isfinite(s.norm):
            state.steps -= 1
            failure[0] = GRADIENT_NOT_FINITE if isfinite(s.loss) else LOSS_NOT_FINITE
            break
        begin += s.rows
        if omp_get_wtime() > end_time:
            break
    return begin


# ---- networks --------------------------------------------------------------------------------------------------------

cdef struct Workspace:
    Plan plan
    Pace pace
    void *raw
    real *memory            # on a cache line
    Py_ssize_t capacity     # numbers
    double *losses
    Py_ssize_t losses_capacity
    Workspace *next


cdef void free_workspace(Workspace *w) noexcept:
    if w != NULL:
        PyMem_RawFree(w.raw)
        PyMem_RawFree(w.losses)
        PyMem_RawFree(w)


cdef bint fit_workspace(Workspace *w, const Net *net, Py_ssize_t rows, int mode, bint gather) noexcept:
    """Plan for so many rows and make room; False if there is no memory."""
    cdef int threads = allowed_threads()
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


@cython.final
cdef class Tape:
    """What `Network.backward` needs of a `Network.forward`: activations, slopes, and copies of x and the parameters."""
    cdef Network network
    cdef Workspace *workspace
    cdef object x, parameters, y
    cdef readonly Py_ssize_t rows
    cdef bint spent     # the way back overwrites the slopes: a second one runs forward again

    def __dealloc__(self):
        free_workspace(self.workspace)


@cython.final
cdef class Network:
    """Shapes, activations and loss of a network, and the memory its steps work in."""
    cdef Net net
    cdef Workspace *idle    # one for each call that was ever under way at the same time
    cdef Py_ssize_t fan_in, fan_out

    def __cinit__(self, sizes, activations, int loss, bint clipped, double clip, double log_clip, double z_low,
                  double z_high):
        cdef Py_ssize_t at = 0, row_at = 0, packed = 0
        cdef Layer *layer
        cdef int i
        self.net.n_layers = len(sizes) - 1
        self.net.layers = <Layer *> PyMem_RawMalloc((self.net.n_layers + 1) * sizeof(Layer))
        if self.net.layers == NULL:
            raise MemoryError
        for i in range(self.net.n_layers):
            layer = &self.net.layers[i]
            layer.fan_in = sizes[i]
            layer.fan_out = sizes[i + 1]
            layer.activation = activations[i]
            layer.weights = at
            layer.biases = at + layer.fan_in * layer.fan_out
            at = layer.biases + layer.fan_out
            layer.ld = padded_width(layer.fan_out)
            layer.row_at = row_at
            row_at += 2 * layer.ld
            layer.packed = packed
            packed += packed_size(layer.fan_in + 1, layer.fan_out)
            layer.transposed = packed
            packed += packed_size(layer.fan_out, layer.fan_in)
        self.net.layers[self.net.n_layers].row_at = row_at      # where a copy of x starts
        self.net.n_parameters = at
        self.net.packed_size = packed
        self.net.rule.activation = activations[self.net.n_layers - 1]
        self.net.rule.loss = loss
        self.net.rule.clipped = clipped
        self.net.rule.clip = clip
        self.net.rule.log_clip = log_clip
        self.net.rule.z_low = z_low
        self.net.rule.z_high = z_high
        self.fan_in = sizes[0]
        self.fan_out = sizes[self.net.n_layers]

    def __dealloc__(self):
        cdef Workspace *w
        while self.idle != NULL:
            w = self.idle
            self.idle = w.next
            free_workspace(w)
        PyMem_RawFree(self.net.layers)

    cdef Workspace *take(self, Py_ssize_t rows, int mode, bint gather) except NULL:
        """A workspace that no other thread uses, planned for so many rows."""
        cdef Workspace *w
        with cython.critical_section(self):
            w = self.idle
            if w != NULL:
                self.idle = w.next
        if w == NULL:
            w = <Workspace *> PyMem_RawMalloc(sizeof(Workspace))
            if w == NULL:
                raise MemoryError
            memset(w, 0, sizeof(Workspace))
        if not fit_workspace(w, &self.net, rows, mode, gather):
            free_workspace(w)
            raise MemoryError(f"no memory for a batch of {rows} rows")
        return w

    cdef void give_back(self, Workspace *w) noexcept:
        with cython.critical_section(self):
            w.next = self.idle
            self.idle = w

    cdef bint read_batch(self, Step *s, object X, object Y, object sample_weight, bint mean) noexcept:
        """Point s at X, Y and sample_weight; False if one of them is not as needed."""
        cdef Py_ssize_t rows
        cdef double total
        memset(s, 0, sizeof(Step))
        s.net = &self.net
        s.x = <const real *> plain(X, REAL, 2, -1, self.fan_in, False)
        if s.x == NULL:
            return False
        rows = np.PyArray_DIMS(X)[0]
        s.targets.dense = <const real *> plain(Y, REAL, 2, rows, self.fan_out, False)
        if s.targets.dense == NULL:
            if self.net.rule.activation != SOFTMAX or self.net.rule.loss != CROSS_ENTROPY:
                return False
            s.targets.labels = <const int64_t *> plain(Y, np.NPY_INT64, 1, rows, 0, False)
            if s.targets.labels == NULL or not labels_in_range(s.targets.labels, rows, self.fan_out):
                return False
        elif not targets_in_domain(s.targets.dense, rows * self.fan_out, self.net.rule.loss):
            return False
        s.targets.scale = 1. / rows if mean else 1.
        if sample_weight is not None:
            s.targets.weights = <const double *> plain(sample_weight, np.NPY_FLOAT64, 1, rows, 0, False)
            if s.targets.weights == NULL:
                return False
            total = total_weight(s.targets.weights, rows)
            if total <= 0:
                return False
            s.targets.scale = 1. / total if mean else 1.
        return True

    cdef bint clear_of_inputs(
        self, object out, np.ndarray parameters, object X, object Y, object sample_weight,
    ) noexcept:
        """Whether out shares no memory with what the step reads."""
        cdef char *p = <char *> np.PyArray_DATA(out)
        cdef Py_ssize_t size = np.PyArray_NBYTES(out)
        if overlap(p, size, np.PyArray_DATA(parameters), np.PyArray_NBYTES(parameters)):
            return False
        if overlap(p, size, np.PyArray_DATA(X), np.PyArray_NBYTES(X)):
            return False
        if Y is not None and overlap(p, size, np.PyArray_DATA(Y), np.PyArray_NBYTES(Y)):
            return False
        return sample_weight is None or not overlap(p, size, np.PyArray_DATA(sample_weight),
                                                    np.PyArray_NBYTES(sample_weight))

    cdef double run(self, Step *s, np.ndarray parameters, object X, int mode, UpdateState state) except? -1:
        """Run a step in a workspace of its own; with a state, update the parameters."""
        cdef Workspace *w = self.take(np.PyArray_DIMS(X)[0], mode, False)
        cdef double loss
        s.parameters = <const real *> np.PyArray_DATA(parameters)
        work_in(s, w)
        if state is not None:
            s.update = state.next_update(<real *> s.parameters)
        with nogil:
            loss = run_at_pace(s, &w.pace)
        self.give_back(w)
        return loss

    def value_and_grad(self, np.ndarray parameters, object X, object Y, object sample_weight, object out, bint mean):
        """(loss, gradient), the gradient in `out` if given; None if an argument is not as needed."""
        cdef Step s
        cdef np.npy_intp n = self.net.n_parameters
        if not self.read_batch(&s, X, Y, sample_weight, mean):
            return None
        if out is None:
            out = np.PyArray_EMPTY(1, &n, REAL, 0)
        elif plain(out, REAL, 1, n, 0, True) == NULL or not self.clear_of_inputs(out, parameters, X, Y, sample_weight):
            return None
        s.gradient = <real *> np.PyArray_DATA(out)
        return self.run(&s, parameters, X, TRAIN, None), out

    def value(self, np.ndarray parameters, object X, object Y, object sample_weight, bint mean):
        """The loss; None if an argument is not as needed."""
        cdef Step s
        if not self.read_batch(&s, X, Y, sample_weight, mean):
            return None
        return self.run(&s, parameters, X, VALUE, None)

    def train_step(self, np.ndarray parameters, object X, object Y, object sample_weight, np.ndarray gradient,
                   UpdateState state, bint mean):
        """The loss before an update of the parameters; None if an argument is not as needed."""
        cdef Step s
        if not self.read_batch(&s, X, Y, sample_weight, mean):
            return None
        s.gradient = <real *> np.PyArray_DATA(gradient)
        return self.run(&s, parameters, X, TRAIN, state)

    cdef bint read_pass(
        self, Batches *b, np.ndarray parameters, object X, object Y, object sample_weight, object order,
        Py_ssize_t begin, Py_ssize_t batch_size, np.ndarray gradient, bint mean, object dropout, uint64_t key,
    ) noexcept:
        """What all batches of a pass share; False if an argument is not as needed."""
        cdef Py_ssize_t rows, k
        cdef bint bad = False
        if not self.read_batch(&b.whole, X, Y, sample_weight, mean):
            return False
        b.whole.parameters = <const real *> np.PyArray_DATA(parameters)
        b.whole.gradient = <real *> np.PyArray_DATA(gradient)
        b.mean = mean
        b.penalty = 0
        b.key = key
        b.order = NULL
        b.end = rows = np.PyArray_DIMS(X)[0]
        if order is not None:
            b.order = <const int64_t *> plain(order, np.NPY_INT64, 1, -1, 0, False)
            if b.order == NULL:
                return False
            b.end = np.PyArray_DIMS(order)[0]
            for k in range(b.end):
                bad = bad | (b.order[k] < 0) | (b.order[k] >= rows)
        b.size = batch_size
        if dropout is not None:
            b.whole.dropout.rates = <const double *> plain(dropout, np.NPY_FLOAT64, 1, self.net.n_layers - 1, 0, False)
            if b.whole.dropout.rates == NULL:
                return False
        return not bad and 0 <= begin <= b.end and batch_size > 0

    def batch_gradient(
        self, np.ndarray parameters, object X, object Y, object sample_weight, object order, Py_ssize_t begin,
        Py_ssize_t batch_size, object out, bint mean, object dropout, uint64_t key, Py_ssize_t step,
    ):
        """The loss of a batch, its gradient in `out`; None if an argument is not as needed."""
        cdef Batches b
        cdef Step s
        cdef Workspace *w
        cdef double loss
        if plain(out, REAL, 1, self.net.n_parameters, 0, True) == NULL:
            return None
        if not self.read_pass(&b, parameters, X, Y, sample_weight, order, begin, batch_size, out, mean, dropout, key):
            return None
        if begin == b.end or not self.clear_of_inputs(out, parameters, X, Y, sample_weight):
            return None
        s = batch_at(&b, begin, step)
        w = self.take(s.rows, TRAIN, order is not None)
        work_in(&s, w)
        with nogil:
            loss = run_at_pace(&s, &w.pace)
        self.give_back(w)
        return loss

    def train_batches(
        self, np.ndarray parameters, object X, object Y, object sample_weight, object order, Py_ssize_t begin,
        Py_ssize_t batch_size, np.ndarray losses, np.ndarray gradient, UpdateState state, bint mean, double penalty,
        double max_norm, object dropout, uint64_t key, double seconds,
    ):
        """Steps over the batches of a pass, for so many seconds: (where it ended, 0 or the Failure there).

        None if an argument is not as needed.
        """
        cdef Batches b
        cdef Workspace *w
        cdef Workspace *last = NULL
        cdef int failure = 0
        cdef double *loss_of = <double *> np.PyArray_DATA(losses)
        if not self.read_pass(
            &b, parameters, X, Y, sample_weight, order, begin, batch_size, gradient, mean, dropout, key,
        ):
            return None
        if plain(losses, np.NPY_FLOAT64, 1, blocks_of(b.end, batch_size), 0, True) == NULL:
            return None
        b.whole.guarded = True
        b.whole.max_norm = max_norm
        b.penalty = penalty
        w = self.take(min(batch_size, b.end), TRAIN, order is not None)
        try:
            if b.end > batch_size and b.end % batch_size != 0:
                last = self.take(b.end % batch_size, TRAIN, order is not None)
            b.whole.squares = <double *> PyMem_RawMalloc(2 * blocks_of(self.net.n_parameters, RANGE) * sizeof(double))
            if b.whole.squares == NULL:
                raise MemoryError
            with nogil:
                begin = run_batches(&b, begin, state, w, last, loss_of, seconds, &failure)
        finally:
            PyMem_RawFree(b.whole.squares)
            if last != NULL:
                self.give_back(last)
            self.give_back(w)       # on top, to be the first that is taken next time
        return begin, failure

    def predict(self, np.ndarray parameters, object X, object out):
        """Outputs [rows, fan_out]; None if an argument is not as needed."""
        cdef Step s
        cdef np.npy_intp[2] shape
        memset(&s, 0, sizeof(Step))
        s.net = &self.net
        s.x = <const real *> plain(X, REAL, 2, -1, self.fan_in, False)
        if s.x == NULL:
            return None
        shape[0] = np.PyArray_DIMS(X)[0]
        shape[1] = self.fan_out
        if out is None:
            out = np.PyArray_EMPTY(2, shape, REAL, 0)
        elif plain(out, REAL, 2, shape[0], shape[1], True) == NULL:
            return None
        elif not self.clear_of_inputs(out, parameters, X, None, None):
            return None
        s.output = <real *> np.PyArray_DATA(out)
        self.run(&s, parameters, X, PREDICT, None)
        return out

    def forward(self, np.ndarray parameters, object X):
        """(outputs, tape); None if X is not as needed."""
        cdef Tape tape
        cdef np.npy_intp[2] shape
        if plain(X, REAL, 2, -1, self.fan_in, False) == NULL:
            return None
        tape = Tape.__new__(Tape)
        tape.network = self
        tape.rows = shape[0] = np.PyArray_DIMS(X)[0]
        shape[1] = self.fan_out
        tape.x = X.copy()
        tape.parameters = parameters.copy()
        tape.y = np.PyArray_EMPTY(2, shape, REAL, 0)
        tape.workspace = <Workspace *> PyMem_RawMalloc(sizeof(Workspace))
        if tape.workspace == NULL:
            raise MemoryError
        memset(tape.workspace, 0, sizeof(Workspace))
        if not fit_workspace(tape.workspace, &self.net, tape.rows, TAPE, False):
            raise MemoryError(f"no memory for a batch of {tape.rows} rows")
        self.run_tape(tape, None, None, None)
        return tape.y.copy(), tape

    cdef void run_tape(self, Tape tape, object dY, object dX, object gradient) noexcept:
        """Forward, or back where dY is given."""
        cdef Step s
        memset(&s, 0, sizeof(Step))
        s.net = &self.net
        work_in(&s, tape.workspace)
        s.parameters = <const real *> np.PyArray_DATA(tape.parameters)
        s.x = <const real *> np.PyArray_DATA(tape.x)
        s.output = <real *> np.PyArray_DATA(tape.y)
        if dY is not None:
            s.output_gradient = <const real *> np.PyArray_DATA(dY)
            s.input_gradient = <real *> np.PyArray_DATA(dX)
            s.gradient = <real *> np.PyArray_DATA(gradient)
        s.threads = s.plan.threads
        with nogil:
            run_step(&s)

    def backward(self, Tape tape, object dY, object out):
        """(dE/dX, gradient); None if an argument is not as needed."""
        cdef np.npy_intp n = self.net.n_parameters
        cdef np.npy_intp[2] shape
        if tape.network is not self or plain(dY, REAL, 2, tape.rows, self.fan_out, False) == NULL:
            return None
        if out is None:
            out = np.PyArray_EMPTY(1, &n, REAL, 0)
        elif plain(out, REAL, 1, n, 0, True) == NULL or not self.clear_of_inputs(out, tape.parameters, dY, None, None):
            return None
        shape[0] = tape.rows
        shape[1] = self.fan_in
        dX = np.PyArray_EMPTY(2, shape, REAL, 0)
        if tape.spent:
            self.run_tape(tape, None, None, None)
        tape.spent = True
        self.run_tape(tape, dY, dX, out)
        return dX, out


# ---- one layer, products and functions by themselves -----------------------------------------------------------------
# The arrays are the caller's to check (fastbp/ops.py): all of the dtype, C order, of fitting shapes.

def matmul(np.ndarray A, np.ndarray B, np.ndarray out, bint transposed=False):
    """out = A B, or A^T B: the register tiles that a step is made of, on one thread, for tests and benchmarks."""
    cdef Py_ssize_t rows = out.shape[0], columns = out.shape[1], depth = B.shape[0], column = 0
    cdef const real *a = <const real *> np.PyArray_DATA(A)
    cdef const real *b = <const real *> np.PyArray_DATA(B)
    cdef real *c = <real *> np.PyArray_DATA(out)
    cdef Py_ssize_t lda = A.shape[1]
    cdef int V, last
    cdef void *raw = PyMem_RawMalloc(depth * TILE_VECTORS * VL * sizeof(real) + 64)
    cdef real *packed = on_a_line(raw)
    if raw == NULL:
        raise MemoryError
    with nogil:
        while column < columns:
            V = next_panel(vectors(columns - column))
            last = <int> min(VL, columns - column - (V - 1) * VL)
            pack_panel(b + column, columns, depth, columns - column, V, packed)
            multiply_deep(V, transposed, rows, depth, a, lda, packed, V * VL, c + column, columns, NULL, 0, last)
            column += V * VL
    PyMem_RawFree(raw)


def dense_forward(np.ndarray X, np.ndarray W, np.ndarray b, int activation, np.ndarray a, np.ndarray z):
    """z = X W + b, a = act(z)."""
    cdef Py_ssize_t rows = X.shape[0], fan_in = W.shape[0], fan_out = W.shape[1], ld = padded_width(fan_out)
    cdef Py_ssize_t row = 0, here, i, most = 96
    cdef Py_ssize_t size = packed_size(fan_in + 1, fan_out)
    cdef const real *x = <const real *> np.PyArray_DATA(X)
    cdef real *out_a = <real *> np.PyArray_DATA(a)
    cdef real *out_z = <real *> np.PyArray_DATA(z)
    cdef real *block
    cdef Weights w
    cdef void *raw = PyMem_RawMalloc((size + min(most, rows) * ld) * sizeof(real) + 64)
    cdef real *packed = on_a_line(raw)
    if raw == NULL:
        raise MemoryError
    with nogil:
        block = packed + size
        pack_weights(<const real *> np.PyArray_DATA(W), <const real *> np.PyArray_DATA(b), fan_in, fan_out, packed)
        w.packed = packed
        w.fan_in = fan_in
        w.fan_out = fan_out
        while row < rows:
            here = min(most, rows - row)
            layer_forward(here, &w, IDENTITY, False, x + row * fan_in, fan_in, block, NULL, ld)
            for i in range(here):
                memcpy(out_z + (row + i) * fan_out, block + i * ld, fan_out * sizeof(real))
            if activation == SOFTMAX:
                return_softmax(here, fan_out, block, ld, out_a + row * fan_out)
            else:
                activate(activation, False, here, fan_out, block, NULL, ld)
                for i in range(here):
                    memcpy(out_a + (row + i) * fan_out, block + i * ld, fan_out * sizeof(real))
            row += here
    PyMem_RawFree(raw)


cdef void return_softmax(Py_ssize_t rows, Py_ssize_t n, const real *z, Py_ssize_t ld, real *y) noexcept nogil:
    """Rows one by one, for the single layer's sake: no scratch of the size of a block."""
    cdef Py_ssize_t i, k
    cdef real top, total
    cdef real lanes[16]
    for i in range(rows):
        top = z[i * ld]
        for k in range(n):
            top = z[i * ld + k] if not z[i * ld + k] <= top else top
        total = 0
        for k in range(n):
            vstore(lanes, vexp_nonpositive(vset(z[i * ld + k] - top)))
            y[i * n + k] = lanes[0]
            total += lanes[0]
        for k in range(n):
            y[i * n + k] /= total


def dense_backward(np.ndarray dA, np.ndarray X, np.ndarray W, np.ndarray z, int activation, np.ndarray dX,
                   np.ndarray dW, np.ndarray db):
    """dz = dA * act'(z); dX = dz W^T, dW = X^T dz, db = column sums of dz."""
    cdef Py_ssize_t rows = X.shape[0], fan_in = W.shape[0], fan_out = W.shape[1], ld = padded_width(fan_out)
    cdef Py_ssize_t row = 0, here, i, column, most = 96
    cdef Py_ssize_t size = packed_size(fan_out, fan_in)
    cdef const real *x = <const real *> np.PyArray_DATA(X)
    cdef const real *da = <const real *> np.PyArray_DATA(dA)
    cdef const real *logits = <const real *> np.PyArray_DATA(z)
    cdef real *dx = <real *> np.PyArray_DATA(dX)
    cdef real *dw = <real *> np.PyArray_DATA(dW)
    cdef real *a
    cdef real *g
    cdef Weights w
    cdef void *raw = PyMem_RawMalloc((size + 3 * min(most, rows) * ld) * sizeof(real) + 64)
    cdef real *packed = on_a_line(raw)
    if raw == NULL:
        raise MemoryError
    with nogil:
        a = packed + size
        pack_weights_transposed(<const real *> np.PyArray_DATA(W), fan_in, fan_out, packed)
        w.transposed = packed
        w.fan_in = fan_in
        w.fan_out = fan_out
        while row < rows:
            here = min(most, rows - row)
            g = a + here * ld
            for i in range(here):
                column = 0
                while column < fan_out:
                    vstore(a + i * ld + column, load_edge(logits + (row + i) * fan_out + column, fan_out - column))
                    column += VL
            activate(activation, True, here, fan_out, a, g, ld)
            column = 0
            while column < fan_out:
                for i in range(here):
                    vstore(g + here * ld + i * VL, load_edge(da + (row + i) * fan_out + column, fan_out - column))
                through_activation(activation, here, 1, g + here * ld, a + column, g + column, ld)
                column += VL
            input_gradient(here, &w, g, ld, dx + row * fan_in)
            weight_gradient(here, 0, fan_in, fan_out, x + row * fan_in, fan_in, g, ld, NULL, 0, dw, row > 0, NULL)
            bias_gradient(here, fan_out, g, ld, <real *> np.PyArray_DATA(db), row > 0)
            row += here
    PyMem_RawFree(raw)


def safe_log(np.ndarray y, double clip, np.ndarray out, object derivative):
    """out = log(max(y, clip)), and its derivative if an array for it is given: 1 / y where y > clip, else 0."""
    cdef Py_ssize_t n = np.PyArray_SIZE(y), i = 0
    cdef const real *p = <const real *> np.PyArray_DATA(y)
    cdef real *q = <real *> np.PyArray_DATA(out)
    cdef real *d = NULL if derivative is None else <real *> np.PyArray_DATA(derivative)
    cdef vreal x, c = vset(<real> clip)
    cdef vint clipped
    with nogil:
        while i < n:
            x = load_edge(p + i, n - i)
            clipped = vless_equal(x, c)
            store_edge(q + i, vlog(vselect(clipped, c, x)), n - i)
            if d != NULL:
                store_edge(d + i, vkeep(~clipped, vset(1) / x), n - i)
            i += VL


cdef inline vreal elementary(int which, vreal x) noexcept nogil:
    if which == 0:
        return vexp(x)
    if which == 1:
        return vlog(x)
    if which == 2:
        return vlog1p(x)
    if which == 3:
        return vexpm1(x)
    if which == 4:
        return vtanh(x)
    return vsigmoid(x)


ELEMENTARY = ("exp", "log", "log1p", "expm1", "tanh", "sigmoid")


def vmath(str name, np.ndarray x, np.ndarray out):
    """An elementary function, an activation ("gelu") or its derivative ("gelu'") of each number, for tests."""
    cdef Py_ssize_t n = np.PyArray_SIZE(x), i = 0
    cdef const real *p = <const real *> np.PyArray_DATA(x)
    cdef real *q = <real *> np.PyArray_DATA(out)
    cdef bint slope = name.endswith("'")
    cdef int which
    cdef Job job
    if name in ELEMENTARY:
        which = ELEMENTARY.index(name)
        while i < n:
            store_edge(q + i, elementary(which, load_edge(p + i, n - i)), n - i)
            i += VL
        return
    job.task = ELEMENTS
    job.with_slope = slope
    job.n = n
    job.x = p
    job.out = q
    for_activation(ACTIVATION_NAMES.index(name.rstrip("'")), &job)


cdef double peak_sum = 0    # not a local variable: what has a result that others may see is not dropped or moved

cdef separate_void multiply_adds(Py_ssize_t turns) noexcept nogil:
    """Run independent multiply-adds in registers, from another start each time."""
    global peak_sum
    cdef vreal acc[12]
    cdef vreal x = vset(<real> 0.75), y = vset(<real> 0.5)
    cdef real lanes[16]
    cdef Py_ssize_t _turn
    cdef int i
    for i in range(12):
        acc[i] = vset(<real> (peak_sum + i + 3))   # none is a fixed point, which the compiler would see and drop
    for _turn in range(turns):
        for i in range(12):
            acc[i] = acc[i] * x + y
    for i in range(1, 12):
        acc[0] = acc[0] + acc[i]
    vstore(lanes, acc[0])
    peak_sum = lanes[0]


def peak(double seconds=0.2):
    """GFLOP/s of multiply-adds in registers on one core: the best of several runs, within about so many seconds."""
    cdef Py_ssize_t turns = 100000
    cdef double best = 0, end = time.perf_counter() + seconds, begin, taken
    while True:
        begin = time.perf_counter()
        with nogil:
            multiply_adds(turns)
        taken = time.perf_counter() - begin
        best = max(best, 2. * 12 * VL * turns / taken / 1e9)
        if time.perf_counter() > end:
            return best


ACTIVATION_NAMES = activation_names()
LOSS_NAMES = ("squared_error", "binary_cross_entropy", "cross_entropy", "poisson")
