# From a fresh clone on a machine with Python 3.11 or newer, make and a package index; nothing else is needed.

# The first Python on the path that is new enough; PYTHON=... names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check bench format clean

help: ## What can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z]*\):.*## /  make \1:  /p' $(MAKEFILE_LIST)

demo: $(READY) ## The whole thing on a local RunSignup, from nothing
	$(BIN)/startlist demo

test: $(READY) ## All tests; ARGS="-k bibs" runs some
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## Lint, format, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) $(BENCH_READY) ## Rows per second, CPU, WAL, memory and calls, against dlt and others; ARGS="--parts sync"
	$(BIN)/python -m benchmarks $(ARGS)

format: $(READY) ## Format the code, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

# Made again only when the pins or the package's description change.
$(READY): requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "startlist needs Python 3.11 or newer; PYTHON=/path/to/python3 names one" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
			exit 1; }; \
		echo "$(PYTHON) -m venv $(VENV)"; \
		$(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# What only the benchmark needs (dlt, matplotlib) has an environment of its own, and runs as child processes in it.
$(BENCH_READY): requirements-bench.txt $(READY)
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-bench.txt
	@touch $@
