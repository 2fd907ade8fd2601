# make demo      set up, build, and run the loop on a real click log for about two minutes
# make test      set up, build, and run every check and test except the slow ones
# make test-all  the slow ones too: kill -9 at random points, whole claims, live peers
# make check     style, types, floors
# make bench     every benchmark against its peer, quickly (BENCH=--full for the whole ones)
# make peers     install what benchmarks compare with, in environments of their own under build/
# make bench-table  the table engine against its peers (ARGS="--quick --json")
# make bench-pipeline  whole training steps against their bound and their peers, from files on disk
# make bench-serve    ranking over HTTP beside Ray Serve and FastAPI with torch, and the arithmetic bound
# make bench-freshness  from an accepted click to an answer that learned it, at 2,000 events a second
# make bench-stragglers  what slow workers and servers cost, and what is done about it; half an hour
# make bench-recovery  what the death of a process costs, beside torchft
# make docs      the documentation site, in site/
# Every target sets up by itself: .venv, packages pinned by constraints.txt, the native table.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv build demo test test-all check bench bench-table bench-pipeline bench-serve bench-freshness bench-recovery bench-stragglers peers docs format clean

VENV ?= .venv
export VENV
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest -n 2 --dist worksteal -q
ARGS ?=
BENCH ?= --quick

# Real data, if it lies beside the checkout; set HEADRACE_DATA to use another folder, or to nothing to use none.
ifeq ($(origin HEADRACE_DATA),undefined)
  ifneq ($(wildcard ../shared/data/.),)
    export HEADRACE_DATA := $(abspath ../shared/data)
  endif
endif

help:
	@sed -n '/^# make /s/^# //p' Makefile

venv:
	@scripts/environment.sh packages

build: venv
	@scripts/environment.sh native

demo: build
	@$(PY) -m headrace demo $(ARGS)

# The Python tests come last, so that their summary is the last thing on the screen.
test: check
	@$(call native_tests)
	@$(call sanitized_tests,short)
	@OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not live" $(ARGS)

test-all: check
	@$(call native_tests)
	@$(call sanitized_tests,full)
	@OMP_NUM_THREADS=1 $(PYTEST) $(ARGS)

define native_tests
if [ -e build/native/CTestTestfile.cmake ]; then \
  ctest="$$(command -v ctest || echo $(VENV)/bin/ctest)"; \
  "$$ctest" --test-dir build/native --output-on-failure --no-tests=error -j 2; \
fi
endef

# Where the native table was built.
define sanitized_tests
if [ -e build/native/CTestTestfile.cmake ]; then scripts/sanitize.sh $(1); fi
endef

# Every tool has its say before the target fails.
check: build
	@failed=""; step() { local name=$$1; shift; "$$@" || failed="$$failed $$name"; }; \
	step style $(PY) -m ruff check .; \
	step format $(PY) -m ruff format --check .; \
	step types $(PY) -m mypy; \
	step floors $(VENV)/bin/lint-imports --no-logo; \
	step c++-format bash -c "find csrc -name '*.h' -o -name '*.cc' | sort | xargs -r $(VENV)/bin/clang-format --dry-run -Werror"; \
	if [ -n "$$failed" ]; then echo "make check:$$failed failed" >&2; exit 1; fi

format: venv
	@$(PY) -m ruff check --fix-only -q .
	@$(PY) -m ruff format .
	@find csrc -name '*.h' -o -name '*.cc' | xargs -r $(VENV)/bin/clang-format -i

bench: build
	@status=0; for file in $$(find benchmarks -maxdepth 1 -name '*.py' ! -name '_*' | sort); do \
	  echo "== $$file"; code=0; $(PY) "$$file" $(filter --quick,$(BENCH)) || code=$$?; \
	  if [ $$code -eq 3 ]; then echo "   a goal was missed"; elif [ $$code -ne 0 ]; then status=1; echo "   failed ($$code)"; fi; \
	done; exit $$status

bench-table: build
	@$(PY) benchmarks/table.py $(ARGS)

bench-pipeline: build
	@$(PY) benchmarks/pipeline.py $(ARGS)

bench-serve: build
	@$(PY) benchmarks/serve.py $(ARGS)

bench-freshness: build
	@$(PY) benchmarks/freshness.py $(ARGS)

bench-stragglers: build
	@$(PY) benchmarks/stragglers.py $(ARGS)

bench-recovery: build
	@$(PY) benchmarks/recovery.py $(ARGS)

# Each in an environment of its own; all are tried before the target fails.
peers: venv
	@failed=""; for script in peers peers_serve peers_rlhf peers_elastic; do \
	  scripts/$$script.sh || failed="$$failed $$script.sh"; \
	done; if [ -n "$$failed" ]; then echo "make peers:$$failed failed" >&2; exit 1; fi

docs: venv
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "site/index.html"

clean:
	rm -rf build site $(VENV) src/headrace/store/_native*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
