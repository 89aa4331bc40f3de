# cython: cdivision=True
"""Activations: value and derivative from z, and what a loss needs of them in an output layer (Head).

a. To add one: a function and a head here, a row in each of the two lists of names below, and a row in the tables of
   _layers.pxd and _losses.pxd.
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
    SOFTMAX                 # for outputs only, and not lane by lane: the kernels do it

cdef inline tuple activation_names():
    return "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu", "softmax"


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
    exp_parts(vmax(vset(-EXP_LIMIT), vmin(vset(0), z)), vset(0), &s, &w)
    u = scale(vset(1), w)
    a[0] = vselect(positive, z, u * s + (u - vset(1)))
    d[0] = vselect(positive, vset(1), scale(vset(1) + s, w))


# sigmoid, tanh, softplus and silu: u = exp(-|z|) (tanh: exp(-2|z|)) = scale(1 + s, w).

cdef inline inlined_void logistic(vreal x, vreal *s, vreal *w, vreal *u, vreal *bottom) noexcept nogil:
    """u = exp(x) = scale(1 + s, w), x <= 0; bottom = 1 + u, and s takes what that sum lost, for use in s/bottom"""
    exp_parts(vmax(vset(-EXP_LIMIT), x), vset(0), s, w)
    u[0] = scale(vset(1) + s[0], w[0])
    bottom[0] = vset(1) + u[0]


cdef inline inlined_void sigmoid(vreal z, vreal *a, vreal *d) noexcept nogil:
    """1 / (1 + exp(-z)); sigma(z) sigma(-z)"""
    cdef vreal s, w, u, bottom, large, small
    logistic(-vabs(z), &s, &w, &u, &bottom)
    large = vset(1) / bottom                # sigma(|z|)
    small = large + s * large               # sigma(-|z|), to be scaled
    a[0] = vselect(vless(z, vset(0)), scale(small, w), large)
    d[0] = scale(small * large, w)


cdef inline inlined_void tanh(vreal z, vreal *a, vreal *d) noexcept nogil:
    """tanh(z); 4 u / (1 + u)^2, u = exp(-2|z|)"""
    cdef vreal s, w, u, bottom, power, t, inverse
    logistic(vset(-2) * vabs(z), &s, &w, &u, &bottom)
    power = scale(vset(1), w)
    t = power * s + (power - vset(1))
    inverse = vset(1) / bottom
    a[0] = vcopysign(t * inverse, z)
    inverse = inverse + inverse
    d[0] = scale((inverse + s * inverse) * inverse, w)


cdef inline inlined_void silu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """z sigma(z); (u (1 + u + z) or 1 + u + z u) / (1 + u)^2, whichever has u <= 1"""
    cdef vreal s, w, u, bottom, large, own, own_w, bounded
    cdef vint negative = vless(z, vset(0))
    logistic(-vabs(z), &s, &w, &u, &bottom)
    large = vset(1) / bottom
    own = vselect(negative, large + s * large, large)       # sigma(z), to be scaled by own_w
    own_w = vselect(negative, w, vset(<real>1 / SCALE_DOWN))
    bounded = vcopysign(vmin(vset(EXP_LIMIT), vabs(z)), z)  # keeps inf * 0 out
    a[0] = scale(vmax(vset(-EXP_LIMIT), z) * own, own_w)
    d[0] = scale((own * large) * (bottom + bounded * vselect(negative, vset(1), u)), own_w)


cdef inline inlined_void softplus(vreal z, vreal *a, vreal *d) noexcept nogil:
    """log(1 + exp(z)) = max(z, 0) + log(1 + u), u = exp(-|z|); sigma(z)"""
    cdef vreal r, w, u, bottom, large, s, t
    logistic(-vabs(z), &r, &w, &u, &bottom)
    # log(1 + u) = 2 s + s^3 R(s^2), s = u / (2 + u), which is still to be scaled
    s = (vset(1) + r) / (vset(2) + u)
    t = scale(s, w) * scale(s, w)
    s = scale(s * (vset(2) + t * polynomial(LOG_WIDE_R, LOG_WIDE_R_TERMS, t)), w)
    a[0] = vmax(vset(0), z) + s
    large = vset(1) / bottom
    d[0] = vselect(vless(z, vset(0)), scale(large + r * large, w), large)


cdef inline inlined_void gelu(vreal z, vreal *a, vreal *d) noexcept nogil:
    """z Phi(z); Phi(z) + z phi(z)

    With t = |z|: Phi(-t) = exp(-t^2/2) M(t), where M is smooth (a ratio of polynomials), and t^2 is the exact square
    of t's upper half plus the rest, for its rounding error would grow with t^2.
    """
    cdef vreal s, w, ratio, tail, change
    cdef vint negative = vless(z, vset(0))
    cdef vreal t = vmin(vset(NORMAL_LIMIT), vabs(z))
    cdef vreal upper = vbits_to_real(vreal_to_bits(t) & vseti(UPPER_HALF))
    exp_parts(vset(<real>-0.5) * (upper * upper), vset(<real>-0.5) * ((t - upper) * (t + upper)), &s, &w)
    # times w^2: Phi(-t), and the derivative at -t; at t they are one minus these
    ratio = halves(MILLS_P, MILLS_P_TERMS, t) / halves(MILLS_Q, MILLS_Q_TERMS, t)
    tail = ratio + s * ratio
    ratio = ratio - t * vset(NORMAL_PEAK)
    change = ratio + s * ratio
    a[0] = vselect(negative, scale(-t * tail, w), z * (vset(1) - scale(tail, w)))
    d[0] = vselect(negative, scale(change, w), vset(1) - scale(change, w))


# --- output layers ----------------------------------------------------------------------------------------------------

cdef struct Head:
    vreal y
    vreal below_one                 # 1 - y
    vreal above_minus_one           # 1 + y
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
    h.above_minus_one = vset(1) + h.y
    head_logs(h)


cdef inline inlined_void head_near_one(Head *h, vreal distance, vreal slope_there) noexcept nogil:
    """h from y and slope, for a y that crosses 1: within 1/4 of that z, 1 - y = distance * slope_there"""
    h.below_one = vselect(vless(vabs(distance), vset(<real>0.25)), distance * slope_there, vset(1) - h.y)
    h.above_minus_one = vset(1) + h.y
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
    h.above_minus_one = vset(1) + h.y
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
    h.above_minus_one = vselect(negative, near, far)
    head_logs(h)
    h.slope_over_below_one = h.above_minus_one


cdef inline inlined_void elu_head(vreal z, Head *h) noexcept nogil:
    """1 + y = exp(z) for z <= 0"""
    elu(z, &h.y, &h.slope)
    default_head(h)
    h.above_minus_one = vselect(vless(vset(0), z), h.above_minus_one, h.slope)


cdef inline inlined_void softplus_head(vreal z, Head *h) noexcept nogil:
    cdef vreal distance = (z - vset(SOFTPLUS_ONE_HIGH)) - vset(SOFTPLUS_ONE_LOW)
    softplus(z, &h.y, &h.slope)
    head_near_one(h, distance, polynomial(SOFTPLUS_ONE_T, SOFTPLUS_ONE_T_TERMS, distance))


cdef inline inlined_void gelu_head(vreal z, Head *h) noexcept nogil:
    cdef vreal distance = (z - vset(GELU_ONE_HIGH)) - vset(GELU_ONE_LOW)
    gelu(z, &h.y, &h.slope)
    head_near_one(h, distance, polynomial(GELU_ONE_T, GELU_ONE_T_TERMS, distance))


cdef inline inlined_void silu_head(vreal z, Head *h) noexcept nogil:
    cdef vreal distance = (z - vset(SILU_ONE_HIGH)) - vset(SILU_ONE_LOW)
    silu(z, &h.y, &h.slope)
    head_near_one(h, distance, polynomial(SILU_ONE_T, SILU_ONE_T_TERMS, distance))
