# The commands of the house. A machine needs Python >= 3.11 with pip and venv, and make; the rest is fetched from PyPI.
#
#   make quickstart            real pictures, real frozen models, both stages, scores        (about 15 minutes)
#   make quickstart BUDGET=1h  the same, trained for longer
#   make quickstart ARGS="--steps 360+240"    fixed work instead of a time; see `isthmus quickstart --help`
#   make test                  every test but the end-to-end runs, the browser's and full-size ones
#   make check                 style, types, import contracts, sizes
#   make e2e                   both stages and every command through the command line, on tiny models
#   make full-size             a Q-Former of BLIP-2's own size against transformers; prints how far apart they are
#   make bench                 times and memory beside LAVIS and transformers, see docs/performance.md; ONLY=ROW for one
#   make bench-report          the tables and the plot of docs/performance.md from benchmarks/results
#   make browser               the quickstart's page in Debian's chromium, which must be installed
#   make soak                  train under a killer for ten minutes, and see that nothing was lost (docs/reliability.md)
#   make clean                 remove the environment and all caches; keeps runs/

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BUDGET ?= 15m
ARGS ?=
ONLY ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check e2e full-size browser bench bench-report soak clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	"isthmus needs Python 3.11 or newer, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	$(BIN)/uv pip install --python $(BIN)/python -e ".[quickstart,dev]" -c constraints.txt
	@touch $@

quickstart: $(STAMP)
	$(BIN)/isthmus quickstart --budget $(BUDGET) $(ARGS)

# One thread a worker: workers share the cores, and numbers do not depend on how many there are.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) -m "not e2e and not browser and not full_size" $(ARGS)

e2e: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m e2e $(ARGS)

full-size: $(STAMP)
	$(BIN)/pytest -m full_size $(ARGS)

browser: $(STAMP)
	$(BIN)/pytest -m browser $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ONLY) $(ARGS)

bench-report: $(STAMP)
	$(BIN)/python -m benchmarks.report

soak: $(STAMP)
	$(BIN)/python tools/soak.py $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py
	$(BIN)/python tools/sizes.py benchmarks

clean:
	rm -rf $(VENV) benchmarks/.venvs build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
