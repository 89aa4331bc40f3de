/* The few things that Cython cannot say: vector types, loads and stores, selection, bit tricks.
 *
 * The build sets two macros and nothing else decides what this file means:
 *   FASTBP_F32            real is float (otherwise double)
 *   FASTBP_VECTOR_BYTES   16, 32 or 64: bytes in a vector; 0, or a compiler without vector types: one lane
 *
 * Every function works on whole vectors, is inlined, and has the same meaning in every variant.  Masks are integer
 * vectors with all bits set (true) or clear (false) in each lane.  No activation, loss or matrix product lives here.
 */
#ifndef FASTBP_SIMD_H
#define FASTBP_SIMD_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#ifdef FASTBP_F32
typedef float real;
typedef int32_t lane;       /* an integer as wide as real */
typedef uint32_t ulane;
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define LARGEST FLT_MAX
#define real_sqrt sqrtf
#else
typedef double real;
typedef int64_t lane;
typedef uint64_t ulane;
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define LARGEST DBL_MAX
#define real_sqrt sqrt
#endif

#ifndef FASTBP_VECTOR_BYTES
#define FASTBP_VECTOR_BYTES 16
#endif

/* As return types: functions that must be inlined, because their constant arguments shape the code, or because a
 * call would cost more than the arithmetic. */
#if defined(__GNUC__)
#define inlined_void __attribute__((always_inline)) void
#define inlined_vreal __attribute__((always_inline)) vreal
#else
#define inlined_void void
#define inlined_vreal vreal
#endif
/* As a return type: a function that must not be, so that each loop gets the registers to itself. */
#if defined(__GNUC__)
#define separate_void __attribute__((noinline)) void
#else
#define separate_void void
#endif

#if defined(__GNUC__) && FASTBP_VECTOR_BYTES >= 16
#define FASTBP_LANES ((int)(FASTBP_VECTOR_BYTES / sizeof(real)))
typedef real vreal __attribute__((vector_size(FASTBP_VECTOR_BYTES)));
typedef lane vint __attribute__((vector_size(FASTBP_VECTOR_BYTES)));
typedef ulane vuint __attribute__((vector_size(FASTBP_VECTOR_BYTES)));
typedef real vreal_anywhere __attribute__((vector_size(FASTBP_VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#define FASTBP_VECTORS 1
#else
#define FASTBP_LANES 1
typedef real vreal;
typedef lane vint;
typedef ulane vuint;
typedef real vreal_anywhere;
#define FASTBP_VECTORS 0
#endif
#define VL FASTBP_LANES

/* The micro-kernel's tile: at most TILE_ROWS[v] rows of v vectors, so that accumulators, one row of B and a
 * broadcast fit the registers (16, or 32 with AVX-512).
 *
 * Of wide layers, DEPTH_BLOCK rows of B pass by ROW_BLOCK rows of A at a time.  A panel of B stays in the first-level
 * cache, or with AVX-512, whose tiles ask for it at half the rate, in the second.  That has 1 MB or more where there is
 * AVX-512, and elsewhere often half of it. */
#if FASTBP_VECTOR_BYTES == 64
#define TILE_VECTORS 3
#define DEPTH_BLOCK 512
#define ROW_BLOCK 128
#define SECOND_CACHE (1024 * 1024)
#define PANEL_CACHE 2   /* the level that a panel of B stays in */
#define TILE_ROWS_1 12
#define TILE_ROWS_2 12
#define TILE_ROWS_3 8
#else
#define TILE_VECTORS 3
#define DEPTH_BLOCK 192
#define ROW_BLOCK 96
#define SECOND_CACHE (512 * 1024)
#define PANEL_CACHE 1
#define TILE_ROWS_1 12
#define TILE_ROWS_2 6
#define TILE_ROWS_3 4
#endif

static inline vreal vload(const real *p) { return *(const vreal_anywhere *)p; }
static inline void vstore(real *p, vreal x) { *(vreal_anywhere *)p = x; }
/* The lower half of x.  (Masked stores are slow on AMD's processors without AVX-512.) */
static inline void vstore_half(real *p, vreal x) { memcpy(p, &x, sizeof x / 2); }

#if FASTBP_VECTORS
static inline vreal vset(real x) { return x - (vreal){0}; }          /* -0.0 stays -0.0 */
static inline vint vseti(lane x) { return x - (vint){0}; }
static inline vreal vbits_to_real(vint x) { return (vreal)x; }
static inline vint vreal_to_bits(vreal x) { return (vint)x; }
static inline vint vshift_right(vint x, int n) { return (vint)((vuint)x >> n); }   /* logical */
static inline vint vshift_left(vint x, int n) { return (vint)((vuint)x << n); }
static inline vint vless(vreal a, vreal b) { return (vint)(a < b); }
static inline vint vless_equal(vreal a, vreal b) { return (vint)(a <= b); }
static inline vint vequal(vreal a, vreal b) { return (vint)(a == b); }
static inline vint vlessi(vint a, vint b) { return a < b; }
static inline real vlane(vreal x, int i) { return x[i]; }
#else
static inline vreal vset(real x) { return x; }
static inline vint vseti(lane x) { return x; }
static inline vreal vbits_to_real(vint x) { vreal r; memcpy(&r, &x, sizeof r); return r; }
static inline vint vreal_to_bits(vreal x) { vint r; memcpy(&r, &x, sizeof r); return r; }
static inline vint vshift_right(vint x, int n) { return (vint)((vuint)x >> n); }
static inline vint vshift_left(vint x, int n) { return (vint)((vuint)x << n); }
static inline vint vless(vreal a, vreal b) { return -(vint)(a < b); }
static inline vint vless_equal(vreal a, vreal b) { return -(vint)(a <= b); }
static inline vint vequal(vreal a, vreal b) { return -(vint)(a == b); }
static inline vint vlessi(vint a, vint b) { return -(vint)(a < b); }
static inline real vlane(vreal x, int i) { (void)i; return x; }
#endif

/* The smaller, the larger: one instruction on x86.  If either is nan they are b, so vmax(limit, x) keeps a nan x. */
#if defined(__SSE2__) && FASTBP_VECTORS
#include <immintrin.h>
#if FASTBP_VECTOR_BYTES == 16
#define FASTBP_MINMAX(op, suffix) _mm_##op##_##suffix
#elif FASTBP_VECTOR_BYTES == 32 && defined(__AVX__)
#define FASTBP_MINMAX(op, suffix) _mm256_##op##_##suffix
#elif FASTBP_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define FASTBP_MINMAX(op, suffix) _mm512_##op##_##suffix
#endif
#endif
#if defined(FASTBP_MINMAX) && defined(FASTBP_F32)
static inline vreal vsqrt(vreal x) { return FASTBP_MINMAX(sqrt, ps)(x); }
static inline vreal vmin(vreal a, vreal b) { return FASTBP_MINMAX(min, ps)(a, b); }
static inline vreal vmax(vreal a, vreal b) { return FASTBP_MINMAX(max, ps)(a, b); }
#elif defined(FASTBP_MINMAX)
static inline vreal vsqrt(vreal x) { return FASTBP_MINMAX(sqrt, pd)(x); }
static inline vreal vmin(vreal a, vreal b) { return FASTBP_MINMAX(min, pd)(a, b); }
static inline vreal vmax(vreal a, vreal b) { return FASTBP_MINMAX(max, pd)(a, b); }
#else
#define FASTBP_MINMAX_BY_SELECT
#endif

/* Ask for the cache line at p: to the second-level cache, or to write to it; p may lie anywhere. */
#if defined(__GNUC__)
#define prefetch_line(p) __builtin_prefetch((p), 0, 2)
#define prefetch_to_write(p) __builtin_prefetch((p), 1, 3)
#else
#define prefetch_line(p) ((void)(p))
#define prefetch_to_write(p) ((void)(p))
#endif
#define LINE ((int)(64 / sizeof(real)))

/* mask ? a : b, lane by lane */
static inline vreal vselect(vint mask, vreal a, vreal b)
{
    return vbits_to_real((mask & vreal_to_bits(a)) | (~mask & vreal_to_bits(b)));
}
/* a / b to 4 units in the last place, |b| >= the smallest normal number or nan: by a reciprocal that the instruction
 * set estimates, and a Newton iteration or two, where it has one; the divider, slow on wide vectors, is left alone. */
#if FASTBP_VECTOR_BYTES == 64 && defined(__AVX512F__)
#ifdef FASTBP_F32
static inline vreal vrcp14(vreal x) { return (vreal)_mm512_rcp14_ps((__m512)x); }
#else
static inline vreal vrcp14(vreal x) { return (vreal)_mm512_rcp14_pd((__m512d)x); }
#endif
static inline vreal vquotient(vreal a, vreal b)
{
    vreal r = vrcp14(b), c = vmin(vset(LARGEST), b);    /* inf has r = 0, which c keeps from becoming nan */
    r = r + r * (vset(1) - c * r);
#ifndef FASTBP_F32
    r = r + r * (vset(1) - c * r);
#endif
    return a * r;
}
#elif FASTBP_VECTOR_BYTES == 32 && defined(__AVX2__) && defined(FASTBP_F32)
static inline vreal vquotient(vreal a, vreal b)
{
    vreal r = (vreal)_mm256_rcp_ps((__m256)b), c = vmin(vset(LARGEST), b);
    return a * (r + r * (vset(1) - c * r));
}
#else
static inline vreal vquotient(vreal a, vreal b) { return a / b; }
#endif
#ifdef FASTBP_MINMAX_BY_SELECT
static inline vreal vsqrt(vreal x)
{
    real lanes[VL];
    vstore(lanes, x);
    for (int i = 0; i < VL; i++) lanes[i] = real_sqrt(lanes[i]);
    return vload(lanes);
}
static inline vreal vmin(vreal a, vreal b) { return vselect(vless(a, b), a, b); }
static inline vreal vmax(vreal a, vreal b) { return vselect(vless(b, a), a, b); }
#endif
/* mask ? a : 0 */
static inline vreal vkeep(vint mask, vreal a) { return vbits_to_real(mask & vreal_to_bits(a)); }
static inline vreal vabs(vreal x)
{
    return vbits_to_real(vreal_to_bits(x) & vseti((lane)(((ulane)-1) >> 1)));
}
/* |x| with the sign of s */
static inline vreal vcopysign(vreal x, vreal s)
{
    const vint sign = vseti((lane)((ulane)1 << (8 * sizeof(real) - 1)));
    return vbits_to_real((vreal_to_bits(x) & ~sign) | (vreal_to_bits(s) & sign));
}

/* The first n lanes, 0 < n <= VL; the others read as 0 and are not written.  Memory past them is not touched. */
#if defined(__AVX512F__) && FASTBP_VECTOR_BYTES == 64
#include <immintrin.h>
#ifdef FASTBP_F32
static inline vreal vload_first(const real *p, int n)
{
    return (vreal)_mm512_maskz_loadu_ps((__mmask16)(0xffffu >> (16 - n)), p);
}
static inline void vstore_first(real *p, vreal x, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (16 - n)), (__m512)x);
}
#else
static inline vreal vload_first(const real *p, int n)
{
    return (vreal)_mm512_maskz_loadu_pd((__mmask8)(0xffu >> (8 - n)), p);
}
static inline void vstore_first(real *p, vreal x, int n)
{
    _mm512_mask_storeu_pd(p, (__mmask8)(0xffu >> (8 - n)), (__m512d)x);
}
#endif
#elif defined(__AVX2__) && FASTBP_VECTOR_BYTES == 32
#include <immintrin.h>
#ifdef FASTBP_F32
static inline __m256i first_lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vreal vload_first(const real *p, int n) { return (vreal)_mm256_maskload_ps(p, first_lanes(n)); }
static inline void vstore_first(real *p, vreal x, int n) { _mm256_maskstore_ps(p, first_lanes(n), (__m256)x); }
#else
static inline __m256i first_lanes(int n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
static inline vreal vload_first(const real *p, int n) { return (vreal)_mm256_maskload_pd(p, first_lanes(n)); }
static inline void vstore_first(real *p, vreal x, int n) { _mm256_maskstore_pd(p, first_lanes(n), (__m256d)x); }
#endif
#else
static inline vreal vload_first(const real *p, int n)
{
    real t[VL] = {0};
    memcpy(t, p, (size_t)n * sizeof(real));
    return vload(t);
}
static inline void vstore_first(real *p, vreal x, int n)
{
    real t[VL];
    vstore(t, x);
    memcpy(p, t, (size_t)n * sizeof(real));
}
#endif

/* The first n lanes of x, 0 < n <= VL, the others 0 */
#if defined(__AVX512F__) && FASTBP_VECTOR_BYTES == 64 && defined(FASTBP_F32)
static inline vreal vfirst(vreal x, int n)
{
    return (vreal)_mm512_maskz_mov_ps((__mmask16)(0xffffu >> (16 - n)), (__m512)x);
}
#elif defined(__AVX512F__) && FASTBP_VECTOR_BYTES == 64
static inline vreal vfirst(vreal x, int n)
{
    return (vreal)_mm512_maskz_mov_pd((__mmask8)(0xffu >> (8 - n)), (__m512d)x);
}
#elif defined(__AVX2__) && FASTBP_VECTOR_BYTES == 32
static inline vreal vfirst(vreal x, int n) { return vkeep((vint)first_lanes(n), x); }
#else
static inline vreal vfirst(vreal x, int n)
{
    real t[VL];
    vstore(t, x);
    return vload_first(t, n);
}
#endif

/* Sums in double, one for each lane.  (Left to itself, GCC converts floats lane by lane.) */
#if FASTBP_VECTORS && defined(FASTBP_F32)
typedef float half_vreal __attribute__((vector_size(FASTBP_VECTOR_BYTES / 2)));
typedef double half_wide __attribute__((vector_size(FASTBP_VECTOR_BYTES)));
typedef struct { half_wide low, high; } vsums;
static inline void vsums_add(vsums *sums, double weight, vreal x)
{
    half_vreal half[2];
    memcpy(half, &x, sizeof x);
    sums->low += weight * __builtin_convertvector(half[0], half_wide);
    sums->high += weight * __builtin_convertvector(half[1], half_wide);
}
#elif FASTBP_VECTORS
typedef struct { vreal all; } vsums;
static inline void vsums_add(vsums *sums, double weight, vreal x) { sums->all += weight * x; }
#else
typedef struct { double all; } vsums;
static inline void vsums_add(vsums *sums, double weight, vreal x) { sums->all += weight * x; }
#endif
static inline double vsums_total(const vsums *sums)
{
    double lanes[VL], total = 0;
    memcpy(lanes, sums, sizeof lanes);
    for (int i = 0; i < VL; i++) total += lanes[i];
    return total;
}

/* a0 b0 a1 b1 ...: the lower and the upper half of the two vectors interleaved; log2(VL) rounds of the pair
 * transpose a VL x VL block. */
#if FASTBP_VECTORS
#if defined(__clang__)
#define FASTBP_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTBP_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vint){__VA_ARGS__})
#endif
#if FASTBP_VECTOR_BYTES == 16 && !defined(FASTBP_F32)
#define LOWER_PAIRS 0, 2
#define UPPER_PAIRS 1, 3
#elif (FASTBP_VECTOR_BYTES == 16 && defined(FASTBP_F32)) || (FASTBP_VECTOR_BYTES == 32 && !defined(FASTBP_F32))
#define LOWER_PAIRS 0, 4, 1, 5
#define UPPER_PAIRS 2, 6, 3, 7
#elif (FASTBP_VECTOR_BYTES == 32 && defined(FASTBP_F32)) || (FASTBP_VECTOR_BYTES == 64 && !defined(FASTBP_F32))
#define LOWER_PAIRS 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER_PAIRS 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOWER_PAIRS 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER_PAIRS 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
static inline vreal vinterleave_lower(vreal a, vreal b) { return FASTBP_SHUFFLE(a, b, LOWER_PAIRS); }
static inline vreal vinterleave_upper(vreal a, vreal b) { return FASTBP_SHUFFLE(a, b, UPPER_PAIRS); }
#else
static inline vreal vinterleave_lower(vreal a, vreal b) { (void)b; return a; }
static inline vreal vinterleave_upper(vreal a, vreal b) { (void)a; return b; }
#endif

#endif
