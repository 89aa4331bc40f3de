"""Optimizers: one pass over a range of parameters, their gradient and the optimizer's state.

Plain loops over scalars, of which the compiler makes vectors, but for Adam: square root and quotient of a vector take
longer than all the rest of its step, and `vquotient` half as long as `/`.
"""
from libc.math cimport expm1, sqrt

from fastbp._simd cimport *
from fastbp._math cimport MIN_NORMAL

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
    double log_beta1, log_beta2
    bint eps_hat            # eps is added to sqrt(v) before v's correction
    Py_ssize_t steps        # that were taken


cdef inline Update next_update(Optimizer *optimizer, real *parameters) noexcept nogil:
    """The update of the next step, which counts from now on."""
    cdef Update u = optimizer.update
    optimizer.steps += 1
    u.parameters = parameters
    u.correction1 = -expm1(optimizer.steps * optimizer.log_beta1)   # a fifth of what `**` takes
    u.correction2 = -expm1(optimizer.steps * optimizer.log_beta2)
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


cdef struct AdamFactors:
    vreal rate, beta1, beta2, rest1, rest2, root_scale, eps, decay, shrink


cdef inline inlined_void adam_vector(
    const bint decays, const bint whole, const AdamFactors *f, int n, real *w, const real *g, real *first, real *second,
) noexcept nogil:
    """One vector of parameters, or its first n."""
    cdef vreal x = vload(w) if whole else vload_first(w, n)
    cdef vreal slope = vload(g) if whole else vload_first(g, n)
    cdef vreal m = vload(first) if whole else vload_first(first, n)
    cdef vreal v = vload(second) if whole else vload_first(second, n)
    if decays:
        slope = slope + f.decay * x
        x = f.shrink * x
    m = f.beta1 * m + f.rest1 * slope
    v = f.beta2 * v + f.rest2 * slope * slope
    x = x - vquotient(f.rate * m, vsqrt(v) * f.root_scale + f.eps)
    if whole:
        vstore(first, m)
        vstore(second, v)
        vstore(w, x)
    else:
        vstore_first(first, m, n)
        vstore_first(second, v, n)
        vstore_first(w, x, n)


cdef inline inlined_void adam_vectors(
    const bint decays, const AdamFactors *f, Py_ssize_t n, real *w, const real *g, real *first, real *second,
) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + VL <= n:
        adam_vector(decays, True, f, VL, w + i, g + i, first + i, second + i)
        i += VL
    if i < n:
        adam_vector(decays, False, f, <int> (n - i), w + i, g + i, first + i, second + i)


cdef inline separate_void adam_range(
    Py_ssize_t n, real *w, const real *g, real *first, real *second, real rate, real beta1, real beta2, real rest1,
    real rest2, real root_scale, real eps, real decay, real shrink,
) noexcept nogil:
    """w = shrink * w - rate * m / (sqrt(v) * root_scale + eps), after m and v took up g + decay * w."""
    cdef AdamFactors f
    f.rate = vset(rate)
    f.beta1 = vset(beta1)
    f.beta2 = vset(beta2)
    f.rest1 = vset(rest1)
    f.rest2 = vset(rest2)
    f.root_scale = vset(root_scale)
    f.eps = vset(max(eps, MIN_NORMAL))
    f.decay = vset(decay)
    f.shrink = vset(shrink)
    if decay == 0 and shrink == 1:
        adam_vectors(False, &f, n, w, g, first, second)
    else:
        adam_vectors(True, &f, n, w, g, first, second)


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
