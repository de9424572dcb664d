# Everything a developer runs. `make demo` and `make test` need only Python 3.11 or newer (with venv) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Some images ask for no bytecode. That would reach the installation and Ray's workers, a process for each machine: every one
# would compile its modules anew, and a cluster whose Ray was never compiled takes twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check fix protos clean

setup: $(READY)

# `venv --clear` empties the folder first and the stamp is written last: an interrupted setup has no stamp and starts afresh.
# No build isolation: lateack is built with the setuptools that constraints.txt names, not with the newest in the registry.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	    "lateack needs Python 3.11 or newer with its venv module, and '$(PYTHON)' is not that: install one," \
	    "or name it, as in 'make PYTHON=python3.11'." >&2; exit 1; }
	@echo "Setting up $(VENV): about a minute, once."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The main job: the story of the late ACK, on a Ray cluster of its own on this machine.
demo: $(READY)
	@$(BIN)/lateack demo

# Everything, from a bare checkout.
test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

# Quick enough to be a reflex, before every commit.
check: $(READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/pytest --quiet -m "not live and not slow"

# Also puts what the commands print now into the documents.
fix: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python docs/refresh.py

# Through src/, so that the generated module knows itself by its import name, lateack.protos.lateack_pb2.
protos: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/lateack/protos/lateack.proto

# What make made; runs/ holds findings and stays.
clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
