# Everything needs only make and Python 3.10 to 3.12; the first target that runs sets up .venv.
.PHONY: help venv train test test-fast checks clean
.DEFAULT_GOAL := help

# The first of these that runs and is new and old enough; `make PYTHON=/path/to/python` overrides it.
CANDIDATES := python3.11 python3 python3.12 python3.10
VERSION_OK := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c "$(VERSION_OK)" 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed

help:
	@echo "make train      set up, then run the main job (options: make train ARGS='--seed 1 ppo.lr=5e-4')"
	@echo "make test       set up, then run every test (options: make test ARGS='-k items')"
	@echo "make test-fast  the tests that take seconds and start no Ray"
	@echo "make checks     formatting, lint and types"
	@echo "make venv       only set up .venv"
	@echo "make clean      remove .venv and caches; runs/ stays"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "$(VERSION_OK)" 2>/dev/null || { echo "error: dreamrl needs Python 3.10 to 3.12; install it or run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up .venv with $(PYTHON); this downloads PyTorch and Ray the first time"
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

train: $(STAMP)
	@$(BIN)/dreamrl train $(ARGS)

# More threads than one slow down networks of this size, and the learners are processes already.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not ray" $(ARGS)

checks: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
