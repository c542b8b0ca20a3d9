# make demo   the embedded model at 3 bits, from a bare checkout: installs into .venv on first use
# make test   all tests
# make lint   ruff
# A Python other than python3: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --editable
INSTALLED_FROM := pyproject.toml setup.py constraints.txt

.PHONY: help demo test lint
help:
	@sed -n '/^# /s/^# //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/python run.py

# Three processes of one thread each, for two cores: some tests wait for jobs and time limits. A file is in one of them
# (what its tests share is made once), in the order of tests/conftest.py; for others, set PYTEST_OPTIONS, for example PYTEST_OPTIONS="-k adalog".
PYTEST_OPTIONS ?= -n 3 --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed_dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS)

lint: $(VENV)/.installed_dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Installed again only when what is asked for has changed.
$(VENV)/.installed: $(INSTALLED_FROM) | $(BIN)/python
	@echo "Installing into $(VENV) (PyTorch is large: some minutes the first time)"
	$(PIP) . --constraint constraints.txt
	@touch $@

$(VENV)/.installed_dev: $(INSTALLED_FROM) | $(BIN)/python
	@echo "Installing into $(VENV) (PyTorch is large: some minutes the first time)"
	$(PIP) '.[dev]' --constraint constraints.txt
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: PYTHON=$(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
