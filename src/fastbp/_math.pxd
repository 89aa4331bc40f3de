# cython: cdivision=True
"""exp, log and their kin on vectors: one body for every dtype and width, within 2 ULP everywhere, without branches.

a. exp(x) = 2^n (1 + s), |s| < 0.42, and for x <= 0, which is all that activations need, 2^n comes as w = 2^(n + 64):
   an ordinary number wherever exp(x) is a number at all.  scale(c, w) = (c w) 2^-64 takes any c down into the
   subnormals and rounds once.  Results with such a tail are formed first and scaled last, once.
b. n is rounded, and 2^n made, by adding a number so large that the sum's last bit is worth one: no conversion between
   integers and reals, which AVX2 lacks for 64 bits.
c. A quotient is the last step where it can be.  What a sum's rounding loses is known exactly (lost = b - ((a + b) - a)
   for |a| >= |b|) and is given back where it would count.
d. Nothing here depends on whether a * b + c is rounded once (FMA) or twice.
"""
from fastbp._simd cimport *

cdef extern from "polynomials.h" nogil:
    enum:
        EXP_P_TERMS, LOG_R_TERMS, LOG_WIDE_R_TERMS
    const real *EXP_P
    const real *LOG_R
    const real *LOG_WIDE_R
    const real INVERSE_LOG2, LOG2_HIGH, LOG2_LOW, SQRT_HALF

cdef extern from * nogil:
    """
    #include <float.h>
    #include <math.h>
    #ifdef FASTBP_F32
    #define EXP_LIMIT 110.0f            /* exp of it overflows, exp of minus it, times 100, is 0; n + 64 is in range */
    #define MIN_NORMAL FLT_MIN
    #define SUBNORMAL_SCALE 0x1p23f
    #define ROUNDER (0x1.8p23f + EXPONENT_BIAS)     /* x + it ends in the bits of round(x) + bias */
    #define SCALE_DOWN 0x1p-64f
    #else
    #define EXP_LIMIT 752.0
    #define MIN_NORMAL DBL_MIN
    #define SUBNORMAL_SCALE 0x1p52
    #define ROUNDER (0x1.8p52 + EXPONENT_BIAS)
    #define SCALE_DOWN 0x1p-64
    #endif
    """
    const real EXP_LIMIT, MIN_NORMAL, SUBNORMAL_SCALE, ROUNDER, SCALE_DOWN, INFINITY


cdef inline inlined_vreal polynomial(const real *c, int terms, vreal x) noexcept nogil:
    """c[0] + c[1] x + ..., by Horner; terms is a constant, so this unrolls"""
    cdef vreal p = vset(c[terms - 1])
    cdef int i
    for i in range(1, terms):
        p = p * x + vset(c[terms - 1 - i])
    return p


cdef inline inlined_vreal polynomial_of_pairs(const real *c, int terms, vreal x, vreal x_squared) noexcept nogil:
    """The same, by Horner in x^2 over pairs c[2k] + c[2k + 1] x: half as long to wait for"""
    cdef int i = terms // 2 * 2
    cdef vreal p = vset(c[terms - 1])
    if i == terms:
        p = p * x + vset(c[terms - 2])
        i -= 2
    while i > 0:
        i -= 2
        p = p * x_squared + (vset(c[i + 1]) * x + vset(c[i]))
    return p


# --- exponentials -----------------------------------------------------------------------------------------------------

cdef inline inlined_vreal power_of_two(vreal shifted) noexcept nogil:
    """2^n from n + ROUNDER"""
    return vbits_to_real(vshift_left(vreal_to_bits(shifted), MANTISSA_BITS))


cdef inline inlined_void exp_core(vreal x, vreal x_low, vreal *s, vreal *s_low, vreal *n) noexcept nogil:
    """exp(x + x_low) = 2^n (1 + s + s_low), |x| <= EXP_LIMIT, x_low small; s alone is accurate to an ULP"""
    n[0] = ((x + x_low) * vset(INVERSE_LOG2) + vset(ROUNDER)) - vset(ROUNDER)
    cdef vreal high = x - n[0] * vset(LOG2_HIGH)
    cdef vreal low = x_low - n[0] * vset(LOG2_LOW)
    cdef vreal r = high + low
    cdef vreal r_squared = r * r
    cdef vreal rest = r_squared * polynomial_of_pairs(EXP_P, EXP_P_TERMS, r, r_squared)
    s[0] = r + rest
    s_low[0] = (rest - (s[0] - r)) + (low - (r - high))


cdef inline inlined_void exp_parts(vreal x, vreal *s, vreal *w) noexcept nogil:
    """exp(x) = scale(1 + s, w) for -EXP_LIMIT <= x <= 0"""
    cdef vreal shifted = x * vset(INVERSE_LOG2) + vset(ROUNDER + 64)
    cdef vreal n = shifted - vset(ROUNDER + 64)
    cdef vreal r = (x - n * vset(LOG2_HIGH)) - n * vset(LOG2_LOW)
    cdef vreal r_squared = r * r
    s[0] = r + r_squared * polynomial_of_pairs(EXP_P, EXP_P_TERMS, r, r_squared)
    w[0] = power_of_two(shifted)


cdef inline inlined_void exp_parts_of_sum(vreal x, vreal x_low, vreal *s, vreal *w) noexcept nogil:
    """exp(x + x_low) = scale(1 + s, w) for -EXP_LIMIT <= x <= 0, x_low small"""
    cdef vreal n, unused
    exp_core(x, x_low, s, &unused, &n)
    w[0] = power_of_two(n + vset(ROUNDER + 64))


cdef inline inlined_vreal scale(vreal x, vreal w) noexcept nogil:
    """x w 2^-64, rounded once"""
    return (x * w) * vset(SCALE_DOWN)


cdef inline inlined_void exp_halves(vreal x, vreal *s, vreal *s_low, vreal *w1, vreal *w2) noexcept nogil:
    """exp(x) = (w1 (1 + s)) w2, any x: 2^n in two factors, so that each is an ordinary number"""
    cdef vreal n, half
    exp_core(vmax(vset(-EXP_LIMIT), vmin(vset(EXP_LIMIT), x)), vset(0), s, s_low, &n)
    half = n * vset(<real>0.5) + vset(ROUNDER)
    w1[0] = power_of_two(half)
    w2[0] = power_of_two((n - (half - vset(ROUNDER))) + vset(ROUNDER))


cdef inline inlined_vreal vexp(vreal x) noexcept nogil:
    cdef vreal s, s_low, w1, w2
    exp_halves(x, &s, &s_low, &w1, &w2)
    return ((vset(1) + s) * w1) * w2


cdef inline inlined_vreal vexp_nonpositive(vreal x) noexcept nogil:
    """exp(x) for x <= 0: a little faster"""
    cdef vreal s, w
    exp_parts(vmax(vset(-EXP_LIMIT), x), &s, &w)
    return scale(vset(1) + s, w)


cdef inline inlined_vreal vexpm1(vreal x) noexcept nogil:
    """w1 w2 (1 + s) - 1 = (w1 s + (w1 - 1/w2)) w2, s in two parts"""
    cdef vreal s, s_low, w1, w2
    exp_halves(x, &s, &s_low, &w1, &w2)
    cdef vreal inverse = vbits_to_real(vseti(<lane>(2 * EXPONENT_BIAS) << MANTISSA_BITS) - vreal_to_bits(w2))
    return vcopysign(((w1 * s + (w1 - inverse)) + w1 * s_low) * w2, x)


cdef inline inlined_vreal vtanh(vreal x) noexcept nogil:
    """-t / (2 + t), t = exp(-2|x|) - 1.

    What rounding loses from t, and from 2 + t times t (nothing for small x, all of it near 1, where it counts), goes to
    the top.
    """
    cdef vreal n, s, s_low, power, t, t_low, bottom
    exp_core(vmax(vset(-EXP_LIMIT), vset(-2) * vabs(x)), vset(0), &s, &s_low, &n)
    power = power_of_two(vmax(n, vset(-64)) + vset(ROUNDER))
    t = power * s + (power - vset(1))
    t_low = (power * s - (t - (power - vset(1)))) + power * s_low
    bottom = vset(2) + t
    return vcopysign((((t - (bottom - vset(2))) * t - t_low) - t) / bottom, x)


cdef inline inlined_vreal vsigmoid(vreal x) noexcept nogil:
    """1 / (1 + u) or u / (1 + u), u = exp(-|x|)"""
    cdef vreal s, w, u, bottom, lost
    cdef vint negative = vless(x, vset(0))
    exp_parts(vmax(vset(-EXP_LIMIT), -vabs(x)), &s, &w)
    u = scale(vset(1) + s, w)
    bottom = vset(1) + u
    lost = u - (bottom - vset(1))
    u = vselect(negative, vset(1) + (s - lost), vset(1)) / bottom
    return vselect(negative, scale(u, w), u)


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


cdef inline inlined_vreal log_gap(vreal f) noexcept nogil:
    """f - log(1 + f), sqrt(1/2) <= 1 + f < sqrt(2): f^2/2 leads, so that the rest may be rounded"""
    cdef vreal s = f / (vset(2) + f)
    cdef vreal z = s * s
    cdef vreal half = vset(<real>0.5) * f * f
    return half - s * (half + z * polynomial(LOG_R, LOG_R_TERMS, z))


cdef inline inlined_vreal log_sum(vreal f, vreal e) noexcept nogil:
    """log(2^e (1 + f)), sqrt(1/2) <= 1 + f < sqrt(2)"""
    return e * vset(LOG2_HIGH) - ((log_gap(f) - e * vset(LOG2_LOW)) - f)


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
    """log(x) for a positive x, relatively accurate near 1 if x_minus_1 is; elsewhere any value"""
    cdef vreal m
    cdef vint k
    cdef vint subnormal = vless(x, vset(MIN_NORMAL))
    log_reduce(vselect(subnormal, x * vset(SUBNORMAL_SCALE), x), &m, &k)
    cdef vreal e = exponent(k - (subnormal & vseti(MANTISSA_BITS)))
    return log_sum(vselect(vequal(e, vset(0)), x_minus_1, m - vset(1)), e)
