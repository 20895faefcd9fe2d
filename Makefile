# Every target shares one .venv and makes it when there is none:
#   make demo      analyse the shipped DDPM and write a report
#   make test      the tests that take no more than a few seconds each
#   make test-all  all tests that this machine can run
#   make notebooks run the tutorials from the first cell to the last (part of test-all)
#   make lint      ruff and mypy
#   make bench     time the engine beside its alternatives: make bench ARGS=--quick
#   make docs      build the documentation into site/ (nothing is fetched)
#   make zoo       check the engine on every architecture and write docs/architectures.md
# PYTHON=/path/to/python chooses the interpreter (3.11 or newer) for a new .venv.
# JOBS=1 runs the tests in one process; by default there are as many as processors, up to four.
# ARGS="..." is passed on: make test ARGS="-x -k kernel"

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS :=
JOBS := auto --maxprocesses 4

.PHONY: demo test test-all notebooks lint format bench docs zoo clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/genkernel demo $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" -n $(JOBS) tests/docs/test_notebooks.py $(ARGS)

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" -n $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/genkernel bench $(ARGS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)
	@echo 'built: site/index.html'

zoo: $(STAMP)
	$(BIN)/python scripts/check_architectures.py $(ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp is written last, so an installation that was interrupted is taken up again, and a
# change of the dependencies brings the environment up to date.
$(STAMP): pyproject.toml setup.py
	@set -euo pipefail; \
	recent='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! { $(BIN)/python -c "$$recent" && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	  found=''; \
	  for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
	    if command -v "$$candidate" >/dev/null && "$$candidate" -c "$$recent" 2>/dev/null; then found="$$candidate"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'genkernel needs Python 3.11 or newer: $(if $(PYTHON),$(PYTHON) is not one,none was found (install one, or say make PYTHON=/path/to/python))' >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$("$$found" --version) ($$(command -v "$$found"))"; \
	  if ! "$$found" -m venv --clear $(VENV); then \
	    rm -rf $(VENV); \
	    echo "$$found cannot make a virtual environment: install its venv module (on Debian and Ubuntu the package python3-venv)" >&2; \
	    exit 1; \
	  fi; \
	fi; \
	echo 'installing genkernel and its dependencies into $(VENV) (the first time takes minutes: PyTorch is large)'; \
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'; \
	touch $(STAMP)
