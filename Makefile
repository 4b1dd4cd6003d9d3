# Two commands are enough: `make run` serves, `make test` proves. Both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
SCENARIO ?= steady

# Tests that mostly compute, each in its own process and on its own store, run side by side. All others start services,
# gateways or clusters with deadlines of their own, which would come late beside each other.
SIDE_BY_SIDE := $(addprefix tests/,cli jwks lua store unit web)

.PHONY: help setup check test soak run load bench dashboards dashboards-preview fix clean
.DEFAULT_GOAL := help

help:  ## Say what there is.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup: $(VENV)/dev  ## Make the virtual environment with everything for development.

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("quotas needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

# What `make run` waits for: the service alone.
$(VENV)/service: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/dev: $(VENV)/service
	$(BIN)/python -m pip install --quiet --group dev --group load
	@touch $@

run: $(VENV)/service  ## Serve on 127.0.0.1:8080 with a client to try, on a private Valkey in .quotas/.
	@exec $(BIN)/quotas serve --demo --port $(PORT)

check: setup  ## Lint, formatting, types, and who may import whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: setup  ## Run all tests.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(SIDE_BY_SIDE))

soak: setup  ## Fuzz 100,000 checks and takes, flood a worker with bad credentials, count a million takes; half an hour.
	HYPOTHESIS_PROFILE=soak nice $(BIN)/python -m pytest -s tests/store/test_fuzz.py tests/web/test_fuzz.py tests/web/test_memory.py
	nice $(BIN)/python -m loadtests.run overshoot

load: setup  ## Put load on a service and hold the answers against the plan; SCENARIO=steady|herd|abuser|rotation|stall|nginx|all.
	$(BIN)/python -m loadtests.run $(SCENARIO)

bench: setup  ## Measure what a check costs, against baselines of the same run; QUICK=1, MILLION=1, PROFILE=1: by stage.
	$(BIN)/python -m loadtests.bench $(if $(QUICK),--quick) $(if $(MILLION),--million) $(if $(PROFILE),--profile)

dashboards: setup  ## Write the Grafana dashboards anew from their Python source.
	$(BIN)/python -m dashboards.boards

dashboards-preview: setup  ## Draw every panel of the dashboards, from a service with traffic and a real Prometheus.
	$(BIN)/python -m dashboards.preview

fix: setup  ## Repair what lint and formatting can repair by themselves.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment and caches; data in .quotas/ stays.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
