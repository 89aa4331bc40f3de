"""The compiled layer: one module per (instruction set x dtype) is built from this file and what it cimports.

Here arrays come in, by way of _arrays.pxd; everything that computes is in the other .pxd files (CONTRIBUTING.md lists
them), and the functions that are not of a network in _functions.pxi.  Methods of `Network` return None when an array is
not as needed: then the caller (_evaluation.py, mlp.py) finds out what is wrong, converts what can be converted, and
calls again.  Nothing is written before all is checked.
"""
cimport cython
cimport numpy as np
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.math cimport isfinite, log
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastbp._simd cimport *
from fastbp._activations cimport activation_names
from fastbp._layers cimport packed_size
from fastbp._update cimport *
from fastbp._plan cimport *
from fastbp._blocks cimport INTERRUPTED, NO_SUCH_ROW, Step
from fastbp._step cimport run_step
from fastbp._pace cimport run_at_pace
from fastbp._workspace cimport *
from fastbp._arrays cimport *
from fastbp._batches cimport *

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

ACTIVATION_NAMES = activation_names()
LOSS_NAMES = ("squared_error", "binary_cross_entropy", "cross_entropy", "poisson")
VECTOR_LANES = VL
READABLE_PAST_PARAMETERS = VL   # numbers that a step may read, and ignore, after the parameters

cdef int thread_limit = 0       # 0: OpenMP's own
cdef int most_threads = 1       # never more


def limit_threads(int limit, int most):
    """At most `limit` threads (0: as OpenMP says), and never more than `most`."""
    global thread_limit, most_threads
    thread_limit = limit
    most_threads = most


cdef inline int allowed_threads() noexcept nogil:
    cdef int n = thread_limit if thread_limit > 0 else omp_get_max_threads()
    return max(1, min(n, most_threads))


# ---- optimizers ------------------------------------------------------------------------------------------------------

@cython.final
cdef class UpdateState:
    """What an optimizer keeps for one network: two vectors like the parameters, and how many steps were taken."""
    cdef Optimizer optimizer
    cdef readonly object owner, first, second

    def __init__(self, object owner, str rule, object first, object second):
        self.owner = owner      # the network's identity
        self.first = first
        self.second = second
        self.optimizer.update.rule = update_names().index(rule)
        self.optimizer.update.first = NULL if first is None else <real *> np.PyArray_DATA(first)
        self.optimizer.update.second = NULL if second is None else <real *> np.PyArray_DATA(second)
        self.optimizer.steps = 0

    @property
    def steps(self):
        return self.optimizer.steps

    @steps.setter
    def steps(self, Py_ssize_t value):
        self.optimizer.steps = value

    def set(self, double learning_rate, double weight_decay, bint decoupled, double momentum, bint nesterov,
            double beta1, double beta2, double eps, bint eps_hat):
        """The hyperparameters of the next step."""
        cdef Update *u = &self.optimizer.update
        self.optimizer.eps_hat = eps_hat
        self.optimizer.log_beta1 = log(beta1)
        self.optimizer.log_beta2 = log(beta2)
        u.learning_rate = learning_rate
        u.weight_decay = weight_decay
        u.decoupled = decoupled
        u.momentum = momentum
        u.nesterov = nesterov
        u.beta1 = beta1
        u.beta2 = beta2
        u.eps = eps

    def step(self, np.ndarray parameters, np.ndarray gradient):
        """Update parameters along a gradient; both vectors of the dtype, C order."""
        cdef Update u = next_update(&self.optimizer, <real *> np.PyArray_DATA(parameters))
        cdef Py_ssize_t n = np.PyArray_SIZE(parameters)
        with nogil:
            update_range(&u, <real *> np.PyArray_DATA(gradient), 0, n)


# ---- networks --------------------------------------------------------------------------------------------------------

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
    """Shapes, activations and loss of a network, its parameters, and the memory its steps work in."""
    cdef Net net
    cdef Workspace *idle    # one for each call that was ever under way at the same time
    cdef Py_ssize_t fan_in, fan_out
    cdef bint mean
    cdef np.ndarray parameters, view    # all of them, and as users have them: these may make that read-only
    cdef readonly object identity       # what an optimizer knows it by

    def __cinit__(self, np.ndarray parameters, np.ndarray view, sizes, activations, int loss, bint mean, bint clipped,
                  double clip, double log_clip, double z_low, double z_high):
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
        self.parameters = parameters
        self.view = view
        self.mean = mean
        self.identity = object()
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
        if not fit_workspace(w, &self.net, rows, allowed_threads(), mode, gather):
            free_workspace(w)
            raise MemoryError(f"no memory for a batch of {rows} rows")
        return w

    cdef int add_gradient(self, Workspace *w) except -1:
        if w.gradient == NULL:
            w.gradient = allocate(self.net.n_parameters, &w.raw_gradient)
            if w.gradient == NULL:
                raise MemoryError(f"no memory for a gradient of {self.net.n_parameters} numbers")
        return 0

    cdef void give_back(self, Workspace *w) noexcept:
        with cython.critical_section(self):
            w.next = self.idle
            self.idle = w

    cdef double run(self, Step *s, object X, int mode, UpdateState state) except? -1:
        """Run a step in a workspace of its own; with a state, update the parameters."""
        cdef Workspace *w = self.take(np.PyArray_DIMS(X)[0], mode, False)
        cdef double loss
        s.parameters = <const real *> np.PyArray_DATA(self.parameters)
        work_in(s, w)
        if state is not None:
            self.add_gradient(w)
            s.gradient = w.gradient
            s.update = next_update(&state.optimizer, <real *> s.parameters)
        with nogil:
            loss = run_at_pace(s, &w.pace)
        self.give_back(w)
        return loss

    def value_and_grad(self, object X, object Y, object sample_weight, object out):
        """(loss, gradient), the gradient in `out` if given; None if an argument is not as needed."""
        cdef Step s
        cdef np.npy_intp n = self.net.n_parameters
        if not read_batch(&s, &self.net, X, Y, sample_weight, self.mean):
            return None
        if out is None:
            out = np.PyArray_EMPTY(1, &n, REAL, 0)
        elif plain(out, REAL, 1, n, 0, True) == NULL or not clear_of_inputs(out, self.parameters, X, Y, sample_weight):
            return None
        s.gradient = <real *> np.PyArray_DATA(out)
        return self.run(&s, X, TRAIN, None), out

    def value(self, object X, object Y, object sample_weight):
        """The loss; None if an argument is not as needed."""
        cdef Step s
        if not read_batch(&s, &self.net, X, Y, sample_weight, self.mean):
            return None
        return self.run(&s, X, VALUE, None)

    def train_step(self, object X, object Y, object sample_weight, object state):
        """The loss before an update of the parameters; None if these or an argument are not as needed."""
        cdef Step s
        if not isinstance(state, UpdateState) or (<UpdateState> state).owner is not self.identity:
            return None
        if not np.PyArray_ISWRITEABLE(self.view):
            return None
        if not read_batch(&s, &self.net, X, Y, sample_weight, self.mean):
            return None
        return self.run(&s, X, TRAIN, state)

    def batch_gradient(
        self, object X, object Y, object sample_weight, object order, Py_ssize_t begin, Py_ssize_t batch_size,
        object out, object dropout, uint64_t key, Py_ssize_t step,
    ):
        """The loss of a batch, its gradient in `out`; None if an argument is not as needed."""
        cdef Batches b
        cdef Step s
        cdef Workspace *w
        cdef double loss
        if plain(out, REAL, 1, self.net.n_parameters, 0, True) == NULL:
            return None
        if not read_pass(
            &b, &self.net, self.parameters, X, Y, sample_weight, order, begin, batch_size, self.mean, dropout, key,
        ):
            return None
        if begin == b.end:
            return None
        if not clear_of_inputs(out, self.parameters, X, Y, sample_weight):
            return None
        b.whole.gradient = <real *> np.PyArray_DATA(out)
        s = batch_at(&b, begin, step)
        w = self.take(s.rows, TRAIN, order is not None)
        work_in(&s, w)
        with nogil:
            loss = run_at_pace(&s, &w.pace)
        self.give_back(w)
        return loss if isfinite(loss) or batch_is_valid(&b, begin) else None

    def train_batches(
        self, object X, object Y, object sample_weight, object order, Py_ssize_t begin, Py_ssize_t batch_size,
        np.ndarray losses, UpdateState state, double penalty, double loss_divisor, double max_norm, object dropout,
        uint64_t key, double seconds,
    ):
        """Steps over the batches of a pass, for so many seconds: (where it ended, 0 or the Failure there).

        None if an argument is not as needed.
        """
        cdef Batches b
        cdef Workspace *w
        cdef Workspace *last = NULL
        cdef int failure = 0
        cdef double *loss_of = <double *> np.PyArray_DATA(losses)
        if not read_pass(
            &b, &self.net, self.parameters, X, Y, sample_weight, order, begin, batch_size, self.mean, dropout, key,
        ):
            return None
        if plain(losses, np.NPY_FLOAT64, 1, blocks_of(b.end, batch_size), 0, True) == NULL:
            return None
        b.whole.guarded = True
        b.whole.max_norm = max_norm
        b.whole.loss_divisor = loss_divisor
        b.penalty = penalty
        w = self.take(min(batch_size, b.end), TRAIN, order is not None)
        try:
            self.add_gradient(w)
            b.whole.gradient = w.gradient
            if b.end > batch_size and b.end % batch_size != 0:
                last = self.take(b.end % batch_size, TRAIN, order is not None)
            b.whole.squares = <double *> PyMem_RawMalloc(2 * blocks_of(self.net.n_parameters, RANGE) * sizeof(double))
            if b.whole.squares == NULL:
                raise MemoryError
            with nogil:
                begin = run_batches(&b, begin, &state.optimizer, w, last, loss_of, seconds, &failure)
        finally:
            PyMem_RawFree(b.whole.squares)
            if last != NULL:
                self.give_back(last)
            self.give_back(w)       # on top, to be the first that is taken next time
        if failure == INTERRUPTED:
            PyErr_CheckSignals()    # calls Python's handler; if that does not raise, the batch is still to be done
            failure = 0
        return None if failure == NO_SUCH_ROW else (begin, failure)

    def predict(self, object X, object out):
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
        elif not clear_of_inputs(out, self.parameters, X, None, None):
            return None
        s.output = <real *> np.PyArray_DATA(out)
        self.run(&s, X, PREDICT, None)
        return out

    def forward(self, object X):
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
        tape.parameters = self.parameters.copy()
        tape.y = np.PyArray_EMPTY(2, shape, REAL, 0)
        tape.workspace = <Workspace *> PyMem_RawMalloc(sizeof(Workspace))
        if tape.workspace == NULL:
            raise MemoryError
        memset(tape.workspace, 0, sizeof(Workspace))
        if not fit_workspace(tape.workspace, &self.net, tape.rows, allowed_threads(), TAPE, False):
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
        elif plain(out, REAL, 1, n, 0, True) == NULL or not clear_of_inputs(out, self.parameters, dY, None, None):
            return None
        shape[0] = tape.rows
        shape[1] = self.fan_in
        dX = np.PyArray_EMPTY(2, shape, REAL, 0)
        if tape.spent:
            self.run_tape(tape, None, None, None)
        tape.spent = True
        self.run_tape(tape, dY, dX, out)
        return dX, out


include "_functions.pxi"
