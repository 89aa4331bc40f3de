# `make` alone lists the commands. Each one sets up what it needs in .venv, inside the checkout, and nothing elsewhere.

PYTHON ?= python3
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

SOURCES := setup.py pyproject.toml $(wildcard src/fastbp/*.pyx src/fastbp/*.pxd src/fastbp/*.pxi src/fastbp/*.h src/fastbp/*.c)
BUILD   := $(BIN)/python setup.py --quiet build_ext --inplace --parallel $(JOBS) \
           --build-lib build/inplace/lib --build-temp build/inplace/temp

# Timings are those of a plain installation: no tuning of somebody's OpenBLAS leaks in from the environment.
BENCH_ENV := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test lint bench bench-compare bench-training bench-scaling bench-profile bench-tables sanitize wheel clean distclean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(STAMPS)/build  ## build in place what has changed

demo: $(STAMPS)/build  ## build and show: exact gradients, digits to 97 %, time of a step beside NumPy
	@$(BIN)/python -m fastbp demo

test: $(STAMPS)/test $(STAMPS)/build-variants  ## build and run all tests
	@$(BIN)/python -m pytest $(ARGS)

lint: $(STAMPS)/lint $(STAMPS)/build  ## ruff, mypy --strict, cython-lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src

bench: $(STAMPS)/test $(STAMPS)/build  ## time the kernels and steps; then beside the peers that are installed
	$(BENCH_ENV) $(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --benchmark-columns=min,median,ops --benchmark-sort=name -q
	$(BENCH_ENV) $(BIN)/python bench/run.py $(ARGS)

bench-compare: $(STAMPS)/bench $(STAMPS)/build  ## install all peers, time side by side, keep the result and renew the tables
	$(BENCH_ENV) $(BIN)/python bench/run.py --sweep --save $(ARGS)
	$(BIN)/python bench/table.py

bench-training: $(STAMPS)/bench $(STAMPS)/build  ## whole trainings beside scikit-learn and PyTorch: time, keep the result, renew the tables
	$(BENCH_ENV) $(BIN)/python bench/training.py --save $(ARGS)
	$(BIN)/python bench/table.py

bench-scaling: $(STAMPS)/bench $(STAMPS)/build  ## time the all-reduce beside the step between two ranks; renew docs/scaling.md
	$(BENCH_ENV) $(BIN)/python bench/scaling_mpi.py --save $(ARGS)

bench-profile: $(STAMPS)/bench  ## where a step's time goes, sampled by perf in a build with symbols; renew docs/performance.md
	FASTBP_SYMBOLS=1 $(BIN)/python setup.py --quiet build --build-base build/profile --build-lib build/profile/lib --parallel $(JOBS)
	PYTHONPATH=build/profile/lib $(BENCH_ENV) $(BIN)/python bench/where.py --save $(ARGS)
	$(BIN)/python bench/table.py

bench-tables: $(STAMPS)/bench  ## renew the README's tables and plots from bench/results, timing nothing
	$(BIN)/python bench/table.py

sanitize: $(STAMPS)/test  ## run the kernel tests under AddressSanitizer and UndefinedBehaviourSanitizer
	FASTBP_SANITIZE=1 FASTBP_VARIANTS=all $(BIN)/python setup.py --quiet \
	    build --build-base build/sanitize --build-lib build/sanitize/lib --parallel $(JOBS)
	tools/sanitized.sh build/sanitize/lib $(BIN)/python -m pytest $(or $(ARGS),$(SANITIZED_TESTS))

# Everything that calls the compiled code of its own; the gradient checker is pure NumPy, and scikit-learn's interface,
# ranks and examples reach it only through what is here.
SANITIZED_TESTS := -q -p no:cacheprovider tests --ignore=tests/checking --ignore-glob='tests/test_sklearn*' \
    --ignore=tests/test_mpi.py --ignore=tests/test_examples.py

wheel: $(STAMPS)/venv  ## build the sdist, from it the wheel, and try the wheel in a clean environment
	rm -rf dist
	$(BIN)/python setup.py --quiet sdist --dist-dir dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist dist/*.tar.gz
	$(BIN)/python tools/check_wheel.py dist

clean:  ## remove what was built; the environment stays
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks $(STAMPS)/build*
	find src tests bench tools examples \( -name '*.so' -o -name '*.pyc' \) -delete

distclean: clean  ## remove the environment too
	rm -rf $(VENV)

# --- set-up: a stamp file stands for each finished step ----------------------------------------------------------

# src/ joins the environment's path by a .pth file and its metadata by egg_info: an editable installation without the
# second, full compilation that `pip install -e` would do.
$(STAMPS)/venv: pyproject.toml tools/requirements.py
	@$(PYTHON) -c 'import os, sys, sysconfig; h = sysconfig.get_path("include") + "/Python.h"; \
	    sys.exit(None if os.path.exists(h) else h + " is missing (Debian: apt install python3-dev)")'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@mkdir -p $(STAMPS)
	@echo "installing what the build needs"
	@$(BIN)/python tools/requirements.py build run > $(STAMPS)/requirements-build.txt
	@$(PIP) -r $(STAMPS)/requirements-build.txt
	@$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "fastbp-checkout.pth").write_text(str(pathlib.Path("src").resolve()) + "\n")'
	@touch $@

# With `-variants`, what only tests use is built too: it includes the ordinary build.
$(STAMPS)/build $(STAMPS)/build-variants: $(STAMPS)/venv $(SOURCES)
	@echo "building with $(JOBS) jobs"
	@touch $@.begun
	@$(if $(findstring variants,$@),FASTBP_VARIANTS=all) $(BUILD)
	@$(BIN)/python setup.py --quiet egg_info > build/egg_info.log 2>&1 || { cat build/egg_info.log; exit 1; }
	@touch -r $@.begun $(STAMPS)/build $@

$(STAMPS)/test $(STAMPS)/lint $(STAMPS)/bench: $(STAMPS)/%: $(STAMPS)/venv
	@echo "installing what '$*' needs"
	@$(BIN)/python tools/requirements.py $* > $(STAMPS)/requirements-$*.txt
	@$(PIP) -r $(STAMPS)/requirements-$*.txt
	@touch $@
