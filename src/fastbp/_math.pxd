# cython: cdivision=True
"""exp, log and their kin on vectors: one body for every dtype and width, within 2 ULP everywhere, without branches.

a. The exponential is reduced by an EVEN power of two, exp(x) = 2^(2n) exp(r), |r| <= log 2: so w = 2^n is an
   ordinary number wherever exp(x) is a number at all, and (c * w) * w scales any c down into the subnormals, or up to
   the largest number, and rounds once.  Results with such a tail are formed first and scaled last, once.
b. n is rounded, and 2^n made, by adding a number so large that the sum's last bit is worth one: no conversion between
   integers and reals, which AVX2 lacks for 64 bits.
c. Where a division is needed anyway (tanh, sigmoid) exp(r) is the fraction (Q + r) / (Q - r), Q even in r, which takes
   half of the polynomial and shares that division.
d. Nothing here depends on whether a * b + c is rounded once (FMA) or twice.
"""
from fastbp._simd cimport *

cdef extern from "polynomials.h" nogil:
    enum:
        EXP_P_TERMS, EXP_Q_TERMS, LOG_R_TERMS, LOG_WIDE_R_TERMS
    const real *EXP_P
    const real *EXP_Q
    const real *LOG_R
    const real *LOG_WIDE_R
    const real LOG4_HIGH, LOG4_LOW, INVERSE_LOG4, LOG2_HIGH, LOG2_LOW, SQRT_HALF

cdef extern from * nogil:
    """
    #include <float.h>
    #include <math.h>
    #ifdef FASTBP_F32
    #define EXP_LIMIT 170.0f            /* exp of it overflows, exp of minus it is 0, and its n is in range */
    #define MIN_NORMAL FLT_MIN
    #define SUBNORMAL_SCALE 0x1p23f
    #define ROUNDER (0x1.8p23f + EXPONENT_BIAS)     /* x + it ends in the bits of round(x) + bias */
    #else
    #define EXP_LIMIT 1400.0
    #define MIN_NORMAL DBL_MIN
    #define SUBNORMAL_SCALE 0x1p52
    #define ROUNDER (0x1.8p52 + EXPONENT_BIAS)
    #endif
    """
    const real EXP_LIMIT, MIN_NORMAL, SUBNORMAL_SCALE, ROUNDER, INFINITY


cdef inline inlined_vreal polynomial(const real *c, int terms, vreal x) noexcept nogil:
    """c[0] + c[1] x + ...; terms is a constant, so this unrolls"""
    cdef vreal p = vset(c[terms - 1])
    cdef int i
    for i in range(1, terms):
        p = p * x + vset(c[terms - 1 - i])
    return p


# --- exponentials -----------------------------------------------------------------------------------------------------

cdef inline inlined_void exp_reduce(vreal x, vreal x_low, vreal *r, vreal *w) noexcept nogil:
    """x + x_low = 2 n log(2) + r and w = 2^n, for |x| <= EXP_LIMIT and |x_low| much less than 1"""
    cdef vreal shifted = (x + x_low) * vset(INVERSE_LOG4) + vset(ROUNDER)
    cdef vreal n = shifted - vset(ROUNDER)
    r[0] = ((x - n * vset(LOG4_HIGH)) - n * vset(LOG4_LOW)) + x_low
    w[0] = vbits_to_real(vshift_left(vreal_to_bits(shifted), MANTISSA_BITS))


cdef inline inlined_void exp_parts(vreal x, vreal x_low, vreal *s, vreal *w) noexcept nogil:
    """exp(x + x_low) = ((1 + s) w) w, s with full relative accuracy; arguments as for exp_reduce"""
    cdef vreal r
    exp_reduce(x, x_low, &r, w)
    s[0] = r + (r * r) * polynomial(EXP_P, EXP_P_TERMS, r)


cdef inline inlined_void exp_fraction(vreal x, vreal *r, vreal *q, vreal *w) noexcept nogil:
    """exp(x) = ((q + r) / (q - r)) w w, for |x| <= EXP_LIMIT; q is about 2"""
    exp_reduce(x, vset(0), r, w)
    q[0] = polynomial(EXP_Q, EXP_Q_TERMS, r[0] * r[0])


cdef inline inlined_vreal scale(vreal x, vreal w) noexcept nogil:
    """x w w, rounded once"""
    return (x * w) * w


cdef inline inlined_vreal exp_clamp(vreal x) noexcept nogil:
    """x within the exponential's limits; nan stays nan"""
    return vmax(vset(-EXP_LIMIT), vmin(vset(EXP_LIMIT), x))


cdef inline inlined_vreal vexp(vreal x) noexcept nogil:
    cdef vreal s, w
    exp_parts(exp_clamp(x), vset(0), &s, &w)
    return scale(vset(1) + s, w)


cdef inline inlined_vreal vexpm1(vreal x) noexcept nogil:
    """w^2 (1 + s) - 1 = (w s + (w - 1/w)) w"""
    cdef vreal s, w, y
    exp_parts(exp_clamp(x), vset(0), &s, &w)
    cdef vreal inverse = vbits_to_real(vseti(<lane>(2 * EXPONENT_BIAS) << MANTISSA_BITS) - vreal_to_bits(w))
    y = (w * s + (w - inverse)) * w
    return vcopysign(y, x)


cdef inline inlined_vreal vtanh(vreal x) noexcept nogil:
    """(1 - u) / (1 + u), u = exp(-2|x|), with u's fraction multiplied out: near 0 it is r / q"""
    cdef vreal r, q, w, u
    exp_fraction(vmax(vset(-EXP_LIMIT), vset(-2) * vabs(x)), &r, &q, &w)
    u = w * w
    return vcopysign(((vset(1) - u) * q - (vset(1) + u) * r) / ((q - r) + u * (q + r)), x)


cdef inline inlined_vreal vsigmoid(vreal x) noexcept nogil:
    """1 / (1 + u) or u / (1 + u), u = exp(-|x|)"""
    cdef vreal r, q, w
    cdef vint negative = vless(x, vset(0))
    exp_fraction(vmax(vset(-EXP_LIMIT), -vabs(x)), &r, &q, &w)
    cdef vreal y = vselect(negative, q + r, q - r) / ((q - r) + (w * w) * (q + r))
    return scale(y, vselect(negative, w, vset(1)))


# --- logarithms -------------------------------------------------------------------------------------------------------

cdef inline inlined_void log_reduce(vreal x, vreal *m, vint *k) noexcept nogil:
    """x = 2^(k - bias) m with sqrt(1/2) <= m < sqrt(2), for a normal positive x"""
    cdef vint base = vreal_to_bits(vset(SQRT_HALF))
    cdef vint bits = vreal_to_bits(x) - base + vseti(<lane>EXPONENT_BIAS << MANTISSA_BITS)
    k[0] = vshift_right(bits, MANTISSA_BITS)
    m[0] = vbits_to_real((bits & vseti((<lane>1 << MANTISSA_BITS) - 1)) + base)


cdef inline inlined_vreal exponent(vint k) noexcept nogil:
    """k - bias as a number"""
    return vbits_to_real(k + vreal_to_bits(vset(ROUNDER - EXPONENT_BIAS))) - vset(ROUNDER)


cdef inline inlined_vreal log_sum(vreal f, vreal e) noexcept nogil:
    """log(2^e (1 + f)), sqrt(1/2) <= 1 + f < sqrt(2): f - f^2/2 leads, so that the rest may be rounded"""
    cdef vreal s = f / (vset(2) + f)
    cdef vreal z = s * s
    cdef vreal half = vset(<real>0.5) * f * f
    cdef vreal rest = s * (half + z * polynomial(LOG_R, LOG_R_TERMS, z))
    return e * vset(LOG2_HIGH) - ((half - (rest + e * vset(LOG2_LOW))) - f)


cdef inline inlined_vreal log_ends(vreal y, vreal x, vreal u) noexcept nogil:
    """y, the logarithm of u, put right where u is 0 (-inf), negative (nan), or x is inf or nan (itself)"""
    cdef vreal pole = vbits_to_real(vreal_to_bits(vset(-INFINITY)) | vless(u, vset(0)))
    y = vselect(vless(x, vset(INFINITY)), y, x)
    return vselect(vless_equal(u, vset(0)), pole, y)


cdef inline inlined_vreal vlog(vreal x) noexcept nogil:
    cdef vreal m, y
    cdef vint k
    cdef vint subnormal = vless(x, vset(MIN_NORMAL))
    log_reduce(vselect(subnormal, x * vset(SUBNORMAL_SCALE), x), &m, &k)
    y = log_sum(m - vset(1), exponent(k - (subnormal & vseti(MANTISSA_BITS))))
    return log_ends(y, x, x)


cdef inline inlined_vreal vlog1p(vreal x) noexcept nogil:
    """log of u = 1 + x, with what that sum's rounding lost added to the mantissa"""
    cdef vreal m, y
    cdef vint k
    cdef vreal u = vset(1) + x
    cdef vreal part = u - vset(1)
    cdef vreal lost = (vset(1) - (u - part)) + (x - part)
    log_reduce(u, &m, &k)
    # 2^(1 - exponent): 0, rather than out of range, for the largest x
    cdef vreal unscale = vbits_to_real(vshift_left(vseti(2 * EXPONENT_BIAS + 1) - k, MANTISSA_BITS))
    y = log_sum((m - vset(1)) + lost * (vset(<real>0.5) * unscale), exponent(k))
    return log_ends(vcopysign(y, x), x, u)


cdef inline inlined_vreal vlog_near(vreal x, vreal x_minus_1) noexcept nogil:
    """log(x) for a normal positive x, relatively accurate near 1 if x_minus_1 is; elsewhere any value"""
    cdef vreal m
    cdef vint k
    log_reduce(x, &m, &k)
    cdef vreal e = exponent(k)
    return log_sum(vselect(vequal(e, vset(0)), x_minus_1, m - vset(1)), e)
