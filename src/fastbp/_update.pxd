"""Optimizers: one pass over a range of parameters, their gradient and the optimizer's state.

Plain loops over scalars: the compiler makes vectors of them.
"""
from libc.math cimport sqrt

from fastbp._simd cimport *

cdef enum Rule:
    NO_UPDATE
    SGD_UPDATE
    ADAM_UPDATE
    RMSPROP_UPDATE

cdef inline tuple update_names():
    return None, "sgd", "adam", "rmsprop"

cdef struct Update:
    int rule
    real *parameters        # IN OUT
    real *first             # IN OUT  SGD, RMSprop: velocity (NULL without momentum); Adam: mean of g
    real *second            # IN OUT  Adam, RMSprop: mean of g^2
    double learning_rate
    double momentum         # SGD, RMSprop
    bint nesterov
    double beta1, beta2, eps            # Adam; RMSprop: beta2 and eps
    double correction1, correction2     # Adam: 1 - beta^t
    double weight_decay
    bint decoupled          # weight decay shrinks the parameters (AdamW) rather than adding to the gradient (L2)


cdef struct Optimizer:      # of one network
    Update update
    bint eps_hat            # eps is added to sqrt(v) before v's correction
    Py_ssize_t steps        # that were taken


cdef inline Update next_update(Optimizer *optimizer, real *parameters) noexcept nogil:
    """The update of the next step, which counts from now on."""
    cdef Update u = optimizer.update
    optimizer.steps += 1
    u.parameters = parameters
    u.correction1 = 1 - u.beta1 ** optimizer.steps
    u.correction2 = 1 - u.beta2 ** optimizer.steps
    if optimizer.eps_hat:
        u.eps /= sqrt(u.correction2)
    return u


cdef inline separate_void sgd_range(
    Py_ssize_t n, real *w, const real *g, real *velocity, real rate, real momentum, bint nesterov, real decay,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real slope
    if velocity == NULL:
        for i in range(n):
            w[i] -= rate * (g[i] + decay * w[i])
    elif nesterov:
        for i in range(n):
            slope = g[i] + decay * w[i]
            velocity[i] = momentum * velocity[i] + slope
            w[i] -= rate * (slope + momentum * velocity[i])
    else:
        for i in range(n):
            velocity[i] = momentum * velocity[i] + (g[i] + decay * w[i])
            w[i] -= rate * velocity[i]


cdef inline separate_void adam_range(
    Py_ssize_t n, real *w, const real *g, real *first, real *second, real rate, real beta1, real beta2, real rest1,
    real rest2, real root_scale, real eps, real decay, real shrink,
) noexcept nogil:
    """w = shrink * w - rate * m / (sqrt(v) * root_scale + eps), after m and v took up g + decay * w."""
    cdef Py_ssize_t i
    cdef real slope, m, v
    for i in range(n):
        slope = g[i] + decay * w[i]
        m = beta1 * first[i] + rest1 * slope
        v = beta2 * second[i] + rest2 * slope * slope
        first[i] = m
        second[i] = v
        w[i] = shrink * w[i] - rate * m / (real_sqrt(v) * root_scale + eps)


cdef inline separate_void rmsprop_range(
    Py_ssize_t n, real *w, const real *g, real *velocity, real *second, real rate, real momentum, real beta2,
    real rest2, real eps, real decay,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real slope
    for i in range(n):
        slope = g[i] + decay * w[i]
        second[i] = beta2 * second[i] + rest2 * slope * slope
        velocity[i] = momentum * velocity[i] + slope / (real_sqrt(second[i]) + eps)
        w[i] -= rate * velocity[i]


cdef inline void update_range(const Update *u, const real *gradient, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Step parameters begin..end along their gradient (a pointer to the whole of it)."""
    if u.rule == SGD_UPDATE:
        sgd_range(end - begin, u.parameters + begin, gradient + begin, NULL if u.first == NULL else u.first + begin,
                  <real> u.learning_rate, <real> u.momentum, u.nesterov, <real> u.weight_decay)
    elif u.rule == ADAM_UPDATE:
        adam_range(end - begin, u.parameters + begin, gradient + begin, u.first + begin, u.second + begin,
                   <real> (u.learning_rate / u.correction1), <real> u.beta1, <real> u.beta2,
                   <real> (1 - u.beta1), <real> (1 - u.beta2), <real> (1 / sqrt(u.correction2)), <real> u.eps,
                   <real> (0 if u.decoupled else u.weight_decay),
                   <real> (1 - u.learning_rate * u.weight_decay if u.decoupled else 1))
    elif u.rule == RMSPROP_UPDATE:
        rmsprop_range(end - begin, u.parameters + begin, gradient + begin, u.first + begin, u.second + begin,
                      <real> u.learning_rate, <real> u.momentum, <real> u.beta2, <real> (1 - u.beta2), <real> u.eps,
                      <real> u.weight_decay)
