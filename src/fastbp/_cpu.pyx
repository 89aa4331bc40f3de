"""What this CPU can run and how many threads there are.  Built for the baseline: safe to import anywhere."""

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    static int cpu_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                                           && __builtin_cpu_supports("bmi2"); }
    static int cpu_has_avx512(void) { return cpu_has_avx2() && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl"); }
    #else
    static int cpu_has_avx2(void) { return 0; }
    static int cpu_has_avx512(void) { return 0; }
    #endif
    #ifdef _OPENMP
    #include <omp.h>
    static int openmp_version(void) { return _OPENMP; }
    #else
    static int openmp_version(void) { return 0; }
    static int omp_get_max_threads(void) { return 1; }
    static int omp_get_num_procs(void) { return 1; }
    #endif
    #if defined(__clang__)
    #define COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define COMPILER "gcc " __VERSION__
    #else
    #define COMPILER "other"
    #endif
    """
    int cpu_has_avx2() noexcept
    int cpu_has_avx512() noexcept
    int openmp_version() noexcept
    int omp_get_max_threads() noexcept
    int omp_get_num_procs() noexcept
    const char *COMPILER


def runnable():
    """Names of the variants whose instructions this CPU has, best first."""
    names = []
    if cpu_has_avx512():
        names.append("avx512")
    if cpu_has_avx2():
        names += ["avx2", "wide"]
    return [*names, "baseline", "scalar"]


def openmp():
    """The OpenMP version (yyyymm) that fastbp was built with, 0 if without."""
    return openmp_version()


def max_threads():
    """Threads that OpenMP would use now: OMP_NUM_THREADS, threadpoolctl, or the cores; never more than the cores."""
    return min(omp_get_max_threads(), omp_get_num_procs())


def cores():
    """Cores that this process may use."""
    return omp_get_num_procs()


def compiler():
    return COMPILER.decode()
