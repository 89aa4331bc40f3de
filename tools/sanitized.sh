#!/usr/bin/env bash
# Run a command with the sanitizers' run-time libraries loaded and the package taken from a sanitized build.
#   tools/sanitized.sh BUILD_LIB COMMAND...
# Python itself is not instrumented: libasan has to be there before it starts, and its own leaks are not looked at.
set -euo pipefail
lib=$(cd "$1" && pwd)
shift
compiler=${CC:-gcc}
preload="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so) $($compiler -print-file-name=libstdc++.so.6)"
export PYTHONPATH=$lib ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export FASTBP_SANITIZED=1 PYTHONMALLOC=malloc
LD_PRELOAD="$preload" "$1" -c "import fastbp; assert fastbp.__file__.startswith('$lib'), fastbp.__file__"
LD_PRELOAD="$preload" exec "$@"
