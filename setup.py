"""Builds one kernel module per (instruction set x dtype) out of one source, `src/fastbp/_kernels.pyx`.

Environment
-----------
FASTBP_VARIANTS    names out of the table below, with commas: build only these; "all": also what only tests use:
                   64-byte vectors for machines without AVX-512 ("wide") and one lane ("scalar")
FASTBP_OPENMP=0    build without threads (a compiler without OpenMP otherwise stops the build)
FASTBP_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer, with debug information
FASTBP_SYMBOLS=1   keep the symbols, for perf and objdump
"""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BEGUN = time.time()
SOURCE = Path("src/fastbp")
X86 = platform.machine().lower() in ("x86_64", "amd64", "x64")
MSVC = sys.platform == "win32"

# name: (bytes in a vector, compiler flags); which of them a CPU can run is decided in fastbp/_cpu.pyx
VARIANTS = {"baseline": (0 if MSVC else 16, [])}
if X86 and not MSVC:  # MSVC has no vector types
    # Where there is no PREFETCHW (Intel's first with AVX2) it does nothing.
    AVX2 = ["-mavx2", "-mfma", "-mbmi2", "-mprfchw"]
    VARIANTS["avx2"] = (32, AVX2)
    AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
    VARIANTS["avx512"] = (64, AVX512)
    VARIANTS["wide"] = (64, [*AVX2, "-O1"])  # for tests only, and slow to compile
VARIANTS["scalar"] = (0, [])
wanted = os.environ.get("FASTBP_VARIANTS", "") or ",".join(v for v in VARIANTS if v not in ("wide", "scalar"))
if wanted != "all":
    unknown = set(wanted.split(",")) - set(VARIANTS)
    if unknown:
        raise SystemExit(f"FASTBP_VARIANTS: {', '.join(unknown)} unknown here; valid: {', '.join(VARIANTS)}, all")
    VARIANTS = {name: VARIANTS[name] for name in wanted.split(",")}
DTYPES = {"f32": [("FASTBP_F32", "1")], "f64": []}

# Contraction to multiply-add is wanted, reordering is not: no -ffast-math.  A tile's loops must be unrolled whole.
FLAGS = ["-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
FLAGS += ["-fno-asynchronous-unwind-tables"]  # nobody unwinds C, and they are 2 % of the wheel
FLAGS += ["-Wno-psabi", "-Wno-attributes", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]
if MSVC:
    FLAGS = ["/O2"]
GCC_FLAGS = ["--param=max-completely-peeled-insns=4000", "--param=max-completely-peel-times=64"]
LINK_FLAGS = [] if MSVC or sys.platform == "darwin" or os.environ.get("FASTBP_SYMBOLS") == "1" else ["-Wl,--strip-all"]
if os.environ.get("FASTBP_SANITIZE", "0") == "1":
    FLAGS = ["-O1", "-g1", *FLAGS[2:], "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    LINK_FLAGS = ["-fsanitize=address,undefined"]

DIRECTIVES = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True,
              "initializedcheck": False, "freethreading_compatible": True, "embedsignature": False}  # fmt: skip


def date_back(path):
    """Date what was made now by the beginning: a source edited meanwhile, perhaps after it was read, is newer."""
    if os.path.getmtime(path) > BEGUN:
        os.utime(path, (BEGUN, BEGUN))


def cython_extensions():
    import numpy
    from Cython.Build import cythonize

    headers = [str(p) for pattern in ("*.pxd", "*.pxi", "*.h") for p in sorted(SOURCE.glob(pattern))]
    modules = [("_cpu", "_cpu.pyx", 16, [], [])]
    modules += [
        (f"_kernels_{isa}_{dtype}", "_kernels.pyx", width, flags, macros)
        for isa, (width, flags) in VARIANTS.items()
        for dtype, macros in DTYPES.items()
    ]
    built = []
    for name, source, width, flags, macros in modules:
        # A build_dir each: Cython remembers what it made of a source path and would hand it out again.
        (extension,) = cythonize(
            [Extension(f"fastbp.{name}", [str(SOURCE / source)], depends=headers)],
            build_dir=f"build/cython/{name}", include_path=["src"], compiler_directives=DIRECTIVES, quiet=True,
        )  # fmt: skip
        date_back(*extension.sources)
        extension.include_dirs = [str(SOURCE), numpy.get_include()]
        extension.define_macros = [
            ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("FASTBP_VECTOR_BYTES", str(width)), *macros,
        ]  # fmt: skip
        extension.extra_compile_args = [*FLAGS, *flags]
        extension.extra_link_args = list(LINK_FLAGS)
        built.append(extension)
    return built


class BuildExt(build_ext):
    """Adds what must be asked of the compiler first: OpenMP, and GCC's own parameters."""

    def accepts(self, compile_flags, link_flags=()):
        source = "#ifdef WANT_OPENMP\n#include <omp.h>\n#endif\nint main(void) { return 0; }\n"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            try:
                objects = self.compiler.compile([str(path)], output_dir=folder, extra_postargs=list(compile_flags))
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=list(link_flags))
            except Exception:
                return False
        return True

    def build_extension(self, extension):
        super().build_extension(extension)
        date_back(self.get_ext_fullpath(extension.name))

    def build_extensions(self):
        flags, links = [], []
        if os.environ.get("FASTBP_OPENMP", "1") != "0":
            ways = {"win32": [(["/openmp"], [])], "darwin": [(["-Xpreprocessor", "-fopenmp"], ["-lomp"])]}
            for flags, links in ways.get(sys.platform, [(["-fopenmp"], ["-fopenmp"])]):
                if self.accepts([*flags, "-DWANT_OPENMP"], links):
                    break
            else:
                raise SystemExit(
                    "fastbp: this compiler has no OpenMP, so nothing would run on two cores. Install it (Debian: gcc; "
                    "macOS: brew install libomp), or set FASTBP_OPENMP=0 to build for one thread."
                )
        if not MSVC and self.accepts(["-Werror", *GCC_FLAGS]):
            flags = [*flags, *GCC_FLAGS]
        for extension in self.extensions:
            extension.extra_compile_args += flags
            extension.extra_link_args += links
        self.parallel = self.parallel or os.cpu_count()
        super().build_extensions()


if not {"egg_info", "sdist", "clean", "--name", "--version"}.issuperset(sys.argv[1:2]):
    extensions = cython_extensions()
else:  # no compiler is needed to describe the package
    extensions = []
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExt})
