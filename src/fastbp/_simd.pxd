"""simd.h as Cython sees it: a vector is a number (`+ - *` work lane by lane), a mask is an integer."""

cdef extern from "simd.h" nogil:
    ctypedef double real
    ctypedef long lane
    ctypedef double vreal
    ctypedef long vint
    ctypedef void inlined_void
    ctypedef double inlined_vreal
    ctypedef void separate_void

    const real LARGEST  # finite number

    enum:
        VL
        MANTISSA_BITS
        EXPONENT_BIAS
        LINE            # numbers in a cache line
        TILE_VECTORS
        DEPTH_BLOCK
        ROW_BLOCK
        SECOND_CACHE    # bytes
        PANEL_CACHE
        TILE_ROWS_1
        TILE_ROWS_2
        TILE_ROWS_3

    vreal vload(const real *p) noexcept
    void vstore(real *p, vreal x) noexcept
    void vstore_half(real *p, vreal x) noexcept
    vreal vload_first(const real *p, int n) noexcept
    void vstore_first(real *p, vreal x, int n) noexcept
    vreal vfirst(vreal x, int n) noexcept

    ctypedef struct vsums:      # all zero at first
        pass
    void vsums_add(vsums *sums, double weight, vreal x) noexcept
    double vsums_total(const vsums *sums) noexcept

    vreal vset(real x) noexcept
    vint vseti(lane x) noexcept
    real vlane(vreal x, int i) noexcept
    real real_sqrt(real x) noexcept
    vreal vsqrt(vreal x) noexcept
    vreal vquotient(vreal a, vreal b) noexcept
    void prefetch_line(const void *p) noexcept
    void prefetch_to_write(const real *p) noexcept

    vint vless(vreal a, vreal b) noexcept
    vint vless_equal(vreal a, vreal b) noexcept
    vint vequal(vreal a, vreal b) noexcept
    vint vlessi(vint a, vint b) noexcept
    vreal vmin(vreal a, vreal b) noexcept
    vreal vmax(vreal a, vreal b) noexcept
    vreal vselect(vint mask, vreal a, vreal b) noexcept
    vreal vkeep(vint mask, vreal a) noexcept
    vreal vabs(vreal x) noexcept
    vreal vcopysign(vreal x, vreal s) noexcept

    vreal vbits_to_real(vint x) noexcept
    vint vreal_to_bits(vreal x) noexcept
    vint vshift_left(vint x, int n) noexcept
    vint vshift_right(vint x, int n) noexcept

    vreal vinterleave_lower(vreal a, vreal b) noexcept
    vreal vinterleave_upper(vreal a, vreal b) noexcept
