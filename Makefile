# Everything a newcomer needs: `make tour`, then `make test`. Any target sets up what it needs.
# PYTHON=python3.12 make tour   uses another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help setup tour test check lint bench clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 10

setup: $(VENV)/.run ## the virtual environment and the package (any target does this when needed)

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once, some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools
	@$(PIP) torch
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Adding what the tests and benchmarks need ..."
	@$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

tour: $(VENV)/.run ## align the embedded model and write report.html (offline, some ten minutes)
	@$(BIN)/trueline make tour

test: $(VENV)/.test ## the whole suite
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.test ## ruff and the type checker
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: lint test ## what CI runs

bench: $(VENV)/.test ## ratios to the peers; rewrites the table in docs/performance.md
	@for name in train sample rank evaluate; do $(BIN)/python -m benchmarks.$$name --write || exit 1; done

clean: ## remove what was made (not the virtual environment)
	rm -rf store runs report.html
