# Everything a developer runs. `make demo` and `make test` need only Python 3.11 or newer (with venv) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FAST := .venv-fast
FAST_READY := $(FAST)/.ready
PARTS := src nodes cluster protos

# Some images ask for no bytecode. That would reach the installation and Ray's workers, a process for each machine: every one
# would compile its modules anew, and a cluster whose Ray was never compiled takes twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check fix protos fast bench clean

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

# The machines compiled to C, for searches of many thousand runs, in an environment of its own: $(FAST)/bin/lateack. Built in a
# copy, since a compiled module beside its source would shadow it; stamped if every cell of the matrix gives the digest of the sources.
fast: $(FAST_READY)

$(FAST_READY): $(READY) setup.py $(shell find $(PARTS) -name '*.py' -o -name '*.yaml')
	@$(BIN)/python -c 'import os, shutil, sys; from sysconfig import get_config_var, get_path; \
	    compiler = shutil.which((get_config_var("CC") or "cc").split()[0]); \
	    sys.exit(not (compiler and os.path.isfile(get_path("include") + "/Python.h")))' || { echo \
	    "make fast needs a C compiler and the headers of '$(PYTHON)': install gcc and python3-dev, or do without;" \
	    "everything works as it is, at two thirds of the speed." >&2; exit 1; }
	@echo "Compiling the machines into $(FAST): about five minutes."
	@rm -rf $(FAST) && mkdir -p $(FAST)/source
	@cp -R pyproject.toml setup.py README.md LICENSE $(PARTS) $(FAST)/source
	@cd $(FAST)/source && LATEACK_COMPILE=1 ../../$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps \
	    --no-build-isolation --wheel-dir .. .
	@rm -rf $(FAST)/source
	@$(PYTHON) -m venv $(FAST)
	@$(FAST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(FAST)/lateack-*.whl
	@for bin in $(BIN) $(FAST)/bin; do $$bin/lateack matrix --json - 2>/dev/null | $$bin/python -c 'import json, sys; \
	    print(*[cell["digest"] for cell in json.load(sys.stdin)])'; \
	    done | sort | uniq -c | grep -q '^ *2 ' || { echo "The compiled machines tell other stories: use $(BIN)." >&2; exit 1; }
	@touch $@

# How fast it is at its fastest; `$(BIN)/lateack bench` measures the interpreted form.
bench: $(FAST_READY)
	@$(FAST)/bin/lateack bench

# What make made; runs/ holds findings and stays.
clean:
	rm -rf $(VENV) $(FAST) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
