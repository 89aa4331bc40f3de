# cython: cdivision=True
"""Activations: value and derivative from z, and what a loss needs of them in an output layer (Head).

a. To add one: a function here (and a head, unless `default_head` does), its name in the two lists below, a row in
   _table.pxd, where it is 1 and where a clip sets in: its inverse, in _clip.py; a line in the list of
   tests/reference.py.
b. Everything is computed from z, by way of an exponential that cannot overflow, and sums have terms of one sign
   wherever that is possible: so the tails keep full relative accuracy, down to the smallest subnormal.  What is tiny
   is scaled last, by `scale`, and rounded once.
c. Value and derivative share the exponential; whichever is not used costs nothing once inlined.
d. nan gives a nan value; -inf and inf give the limits.
"""
from fastbp._simd cimport *
from fastbp._math cimport *

cdef enum Activation:       # the same order as in activation_names
    IDENTITY
    SIGMOID
    TANH
    RELU
    LEAKY_RELU
    ELU
    SOFTPLUS
    GELU
    SILU
    EXP
    SOFTMAX                 # for outputs only, and not lane by lane: the kernels do it

cdef inline tuple activation_names():
    return "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "exp", "softmax"


ctypedef void (*activation_function)(vreal z, vreal *a, vreal *d) noexcept nogil


cdef extern from "polynomials.h" nogil:
    enum:
        MILLS_P_TERMS, MILLS_Q_TERMS, SOFTPLUS_ONE_T_TERMS, GELU_ONE_T_TERMS, SILU_ONE_T_TERMS
    const real *MILLS_P
    const real *MILLS_Q
    const real *SOFTPLUS_ONE_T
    const real *GELU_ONE_T
    const real *SILU_ONE_T
    const real SOFTPLUS_ONE_HIGH, SOFTPLUS_ONE_LOW, GELU_ONE_HIGH, GELU_ONE_LOW, SILU_ONE_HIGH, SILU_ONE_LOW
    const real NORMAL_PEAK

cdef extern from * nogil:
    """
    #ifdef FASTBP_F32
    #define LEAKY_SLOPE 0.01f
    #define NORMAL_LIMIT 15.0f          /* z Phi(z) is 0 below minus it */
    #define UPPER_HALF (~(lane)0xfff)   /* numbers masked so have exact squares */
    #else
    #define LEAKY_SLOPE 0.01
    #define NORMAL_LIMIT 38.75
    #define UPPER_HALF (~(lane)0x7ffffff)
    #endif
    """
    const real LEAKY_SLOPE, NORMAL_LIMIT
    const lane UPPER_HALF


# --- the functions ----------------------------------------------------------------------------------------------------

cdef inline inlined_void identity(vreal z, vreal *a, vreal *d) noexcept nogil:
    """z; 1"""
    a[0] = z
    d[0] = vset(1)


cdef inline inlined_void relu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """max(z, 0); 1 for z > 0, else 0: relu'(0) = 0"""
    a[0] = vmax(vset(0), z)
    d[0] = vkeep(vless(vset(0), z), vset(1))


cdef inline inlined_void leaky_relu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """max(z, 0.01 z); 1 for z > 0, else 0.01: leaky_relu'(0) = 0.01"""
    a[0] = vmax(vset(LEAKY_SLOPE) * z, z)
    d[0] = vselect(vless(vset(0), z), vset(1), vset(LEAKY_SLOPE))


cdef inline inlined_void elu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """z for z > 0, else exp(z) - 1; 1 for z > 0, else exp(z): elu'(0) = 1"""
    cdef vreal s, w, u
    cdef vint positive = vless(vset(0), z)
    exp_parts(vmax(vset(-EXP_LIMIT), vmin(vset(0), z)), &s, &w)
    u = scale(vset(1), w)
    a[0] = vselect(positive, z, u * s + (u - vset(1)))
    d[0] = vselect(positive, vset(1), scale(vset(1) + s, w))


# sigmoid, tanh, softplus and silu: u = exp(-|z|) (tanh: exp(-2|z|)) = scale(1 + s, w).

cdef inline inlined_void logistic(
    vreal x, vreal *s, vreal *w, vreal *power, vreal *u, vreal *bottom,
) noexcept nogil:
    """exp(x) = scale(1 + s, w), x <= 0; power = scale(1, w); u = exp(x), unless it is tiny to full accuracy; 1 + u"""
    exp_parts(vmax(vset(-EXP_LIMIT), x), s, w)
    power[0] = scale(vset(1), w[0])
    u[0] = power[0] * s[0] + power[0]
    bottom[0] = vset(1) + u[0]


cdef inline inlined_vreal over_square(vreal s, vreal u, vreal bottom, vreal inverse) noexcept nogil:
    """(1 + s) / (1 + u)^2, given inverse = 1 / bottom: s also takes, twice, what rounding lost from bottom"""
    cdef vreal lost = u - (bottom - vset(1))
    return (inverse + (s - (lost + lost) * inverse) * inverse) * inverse


cdef inline inlined_void sigmoid(vreal z, vreal *a, vreal *d) noexcept nogil:
    """1 / (1 + exp(-z)); sigma(z) sigma(-z) = u / (1 + u)^2"""
    cdef vreal s, w, unused, u, bottom, inverse
    logistic(-vabs(z), &s, &w, &unused, &u, &bottom)
    inverse = vset(1) / bottom
    a[0] = vselect(vless(z, vset(0)), scale(inverse + s * inverse, w), inverse)
    d[0] = scale(over_square(s, u, bottom, inverse), w)


cdef inline inlined_void tanh(vreal z, vreal *a, vreal *d) noexcept nogil:
    """tanh(z); 4 u / (1 + u)^2, u = exp(-2|z|)"""
    cdef vreal s, w, power, u, bottom, inverse
    logistic(-(vabs(z) + vabs(z)), &s, &w, &power, &u, &bottom)
    inverse = vset(1) / bottom
    a[0] = vcopysign((power * s + (power - vset(1))) * inverse, z)
    d[0] = (over_square(s, u, bottom, inverse) * w) * vset(4 * SCALE_DOWN)


cdef inline inlined_void silu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """z sigma(z); (u (1 + u + z) or 1 + u + z u) / (1 + u)^2, for negative or other z"""
    cdef vreal s, w, unused, u, bottom, inverse, own_w, bounded
    cdef vint negative = vless(z, vset(0))
    logistic(-vabs(z), &s, &w, &unused, &u, &bottom)
    inverse = vset(1) / bottom
    s = vkeep(negative, s)
    own_w = vselect(negative, w, vset(1 / SCALE_DOWN))
    bounded = vcopysign(vmin(vset(EXP_LIMIT), vabs(z)), z)  # keeps inf * 0 out
    a[0] = vselect(negative, scale(vmax(vset(-EXP_LIMIT), z) * (inverse + s * inverse), w), z * inverse)
    bounded = bottom + bounded * vselect(negative, vset(1), u)
    d[0] = scale(over_square(s, u, bottom, inverse) * bounded, own_w)


cdef inline inlined_void softplus(vreal z, vreal *a, vreal *d) noexcept nogil:
    """log(1 + exp(z)) = max(z, 0) + log(1 + u), u = exp(-|z|); sigma(z)"""
    cdef vreal r, w, unused, u, bottom, large, s, t
    logistic(-vabs(z), &r, &w, &unused, &u, &bottom)
    # log(1 + u) = 2 s + s^3 R(s^2), s = u / (2 + u), which is still to be scaled
    s = (vset(1) + r) / (vset(2) + u)
    t = scale(s, w) * scale(s, w)
    s = scale(s * (vset(2) + t * polynomial(LOG_WIDE_R, LOG_WIDE_R_TERMS, t)), w)
    a[0] = vmax(vset(0), z) + s
    large = vset(1) / bottom
    d[0] = vselect(vless(z, vset(0)), scale(large + r * large, w), large)


cdef inline inlined_void gelu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """z Phi(z); Phi(z) + z phi(z)

    With t = |z|: Phi(-t) = phi(t) M(t), and M = 1 / (t + P/Q), where P/Q falls off like 1/t, and with it the rounding
    errors of P and Q; t M is formed as one quotient, for likewise those of t Q matter less and less.  t^2 is the exact
    square of t's upper half plus the rest, for its rounding error would grow with t^2.
    """
    cdef vreal s, w, density, q, tq, bottom, tail, change
    cdef vint negative = vless(z, vset(0))
    cdef vreal t = vmin(vset(NORMAL_LIMIT), vabs(z))
    cdef vreal upper = vbits_to_real(vreal_to_bits(t) & vseti(UPPER_HALF))
    exp_parts_of_sum(vset(<real>-0.5) * (upper * upper), vset(<real>-0.5) * ((t - upper) * (t + upper)), &s, &w)
    density = vset(NORMAL_PEAK) + vset(NORMAL_PEAK) * s     # times what w stands for: phi(t)
    q = polynomial(MILLS_Q, MILLS_Q_TERMS, t)
    tq = t * q
    bottom = tq + polynomial(MILLS_P, MILLS_P_TERMS, t)
    # Phi(-t), times -t for z < 0, and the derivative at -t; at t they are one minus these (t, not z: z may be inf)
    tail = scale((density * vselect(negative, -tq, q)) / bottom, w)
    change = scale(density * (q / bottom - t), w)
    a[0] = vselect(negative, tail, z - t * tail)
    d[0] = vselect(negative, change, vset(1) - change)


cdef inline inlined_void exp(vreal z, vreal *a, vreal *d) noexcept nogil:
    """exp(z); exp(z)"""
    a[0] = vexp(z)
    d[0] = a[0]


# --- output layers ----------------------------------------------------------------------------------------------------

cdef struct Head:
    vreal y
    vreal below_one                 # 1 - y
    vreal anchor                    # y = anchor + beyond, where y is near to a number that a target may be
    vreal beyond
    vreal slope                     # act'(z)
    vreal log_y                     # the logarithms and quotients hold where their arguments are above the clip
    vreal log_below_one
    vreal slope_over_y
    vreal slope_over_below_one


ctypedef void (*head_function)(vreal z, Head *h) noexcept nogil


cdef inline inlined_void head_logs(Head *h) noexcept nogil:
    """The logarithms and quotients from y, 1 - y and the slope"""
    h.log_y = vlog_near(h.y, -h.below_one)
    h.log_below_one = vlog_near(h.below_one, -h.y)
    h.slope_over_y = h.slope / h.y
    h.slope_over_below_one = h.slope / h.below_one


cdef inline inlined_void default_head(Head *h) noexcept nogil:
    """h from y and slope, for a y that is exact near 1 or only tends to it (else see head_near_one)"""
    h.below_one = vset(1) - h.y
    h.anchor = vset(0)
    h.beyond = h.y
    head_logs(h)


cdef inline inlined_void head_near_one(
    activation_function f, vreal z, Head *h, vreal distance, vreal slope_there
) noexcept nogil:
    """h from y and slope, for an f with f(z) = z + f(-z) that crosses 1: within 1/4 of that z, 1 - y is
    distance * slope_there"""
    cdef vreal mirrored, unused
    h.below_one = vselect(vless(vabs(distance), vset(<real>0.25)), distance * slope_there, vset(1) - h.y)
    f(-vabs(z), &mirrored, &unused)
    h.anchor = vkeep(vless(vset(1), z), z)
    h.beyond = vselect(vless(vset(1), z), mirrored, h.y)
    head_logs(h)


cdef inline inlined_void identity_head(vreal z, Head *h) noexcept nogil:
    identity(z, &h.y, &h.slope)
    default_head(h)


cdef inline inlined_void relu_head(vreal z, Head *h) noexcept nogil:
    relu(z, &h.y, &h.slope)
    default_head(h)


cdef inline inlined_void leaky_relu_head(vreal z, Head *h) noexcept nogil:
    leaky_relu(z, &h.y, &h.slope)
    default_head(h)


cdef inline inlined_void sigmoid_head(vreal z, Head *h) noexcept nogil:
    """1 - y = sigma(-z), log y = min(z, 0) - log(1 + exp(-|z|))"""
    cdef vreal unused, log_large
    sigmoid(z, &h.y, &h.slope)
    sigmoid(-z, &h.below_one, &unused)
    softplus(-vabs(z), &log_large, &unused)
    h.anchor = vkeep(vless(vset(0), z), vset(1))
    h.beyond = vselect(vless(vset(0), z), -h.below_one, h.y)
    h.log_y = vmin(vset(0), z) - log_large
    h.log_below_one = vmin(vset(0), -z) - log_large
    h.slope_over_y = h.below_one
    h.slope_over_below_one = h.y


cdef inline inlined_void tanh_head(vreal z, Head *h) noexcept nogil:
    """1 - |y| = 2 u / (1 + u), 1 + |y| = 2 / (1 + u)"""
    cdef vreal near, far
    cdef vint negative = vless(z, vset(0))
    tanh(z, &h.y, &h.slope)
    sigmoid(vset(-2) * vabs(z), &near, &far)
    near = near + near
    sigmoid(vset(2) * vabs(z), &far, &h.log_y)
    far = far + far
    h.below_one = vselect(negative, far, near)
    h.anchor = vkeep(vless(near, vset(<real>0.5)), vcopysign(vset(1), z))
    h.beyond = vselect(vless(near, vset(<real>0.5)), vcopysign(near, -z), h.y)
    head_logs(h)
    h.slope_over_below_one = vselect(negative, near, far)


cdef inline inlined_void elu_head(vreal z, Head *h) noexcept nogil:
    """y = -1 + exp(z) for z <= 0"""
    cdef vint low = vless(z, vset(-1))
    elu(z, &h.y, &h.slope)
    default_head(h)
    h.anchor = vkeep(low, vset(-1))
    h.beyond = vselect(low, h.slope, h.y)


cdef inline inlined_void softplus_head(vreal z, Head *h) noexcept nogil:
    cdef vreal distance = (z - vset(SOFTPLUS_ONE_HIGH)) - vset(SOFTPLUS_ONE_LOW)
    softplus(z, &h.y, &h.slope)
    head_near_one(softplus, z, h, distance, polynomial(SOFTPLUS_ONE_T, SOFTPLUS_ONE_T_TERMS, distance))


cdef inline inlined_void gelu_head(vreal z, Head *h) noexcept nogil:
    cdef vreal distance = (z - vset(GELU_ONE_HIGH)) - vset(GELU_ONE_LOW)
    gelu(z, &h.y, &h.slope)
    head_near_one(gelu, z, h, distance, polynomial(GELU_ONE_T, GELU_ONE_T_TERMS, distance))


cdef inline inlined_void silu_head(vreal z, Head *h) noexcept nogil:
    cdef vreal distance = (z - vset(SILU_ONE_HIGH)) - vset(SILU_ONE_LOW)
    silu(z, &h.y, &h.slope)
    head_near_one(silu, z, h, distance, polynomial(SILU_ONE_T, SILU_ONE_T_TERMS, distance))


cdef inline inlined_void exp_head(vreal z, Head *h) noexcept nogil:
    """log y = z, and near z = 0 y = 1 + expm1(z)"""
    cdef vint near_one = vless(vabs(z), vset(<real>0.5))
    exp(z, &h.y, &h.slope)
    h.below_one = -vexpm1(z)
    h.anchor = vkeep(near_one, vset(1))
    h.beyond = vselect(near_one, -h.below_one, h.y)
    head_logs(h)
    h.log_y = z
    h.slope_over_y = vset(1)
