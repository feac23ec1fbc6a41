# `make demo` and `make test` do all their own set-up. Needs Python 3.11 or later, and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
# Prefect 2.20 runs on Python 3.10 and 3.11 only.
PYTHON_FOR_PREFECT2 ?= $(shell command -v python3.11 || command -v python3.10)

VENV := .venv
PREFECT2 := .venv-prefect2
PEER := .venv-peer
BIN := $(VENV)/bin
.DEFAULT_GOAL := demo

.PHONY: help demo test chaos soak week bench soak-memory check format docs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/\1	\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.done ## see the worker do its main job, in about a minute
	$(BIN)/ecs-worker demo

# What kills workers hundreds of times, or watches thousands of tasks: minutes each, and a machine to itself.
LONG := tests/chaos/test_kill_matrix.py tests/chaos/test_soak.py tests/chaos/test_week.py tests/chaos/test_broken_answers.py tests/scale

test: $(VENV)/.done $(PREFECT2)/.done ## the test suite
	$(BIN)/python -m pytest -n 4 --dist loadgroup $(addprefix --ignore=,$(LONG))

chaos: $(VENV)/.done ## the long tests: the kill matrix, a soak, a day of a fleet, ten thousand tasks
	$(BIN)/python -m pytest -n 2 $(LONG)

SOAK_RUNS ?= 1500
soak: $(VENV)/.done ## kill three workers at random, with one call in five failing; SOAK_RUNS=… for more
	$(BIN)/python -m pytest tests/chaos/test_soak.py --soak-runs $(SOAK_RUNS) -p no:xdist

SEED ?=
WITHOUT ?=
week: $(VENV)/.done ## a week of a fleet's life in twenty minutes; SEED=… repeats one, WITHOUT=rotation,… leaves troubles out
	$(BIN)/python -m pytest tests/chaos/test_week.py -p no:xdist --week-days 7 $(if $(SEED),--week-seed $(SEED)) $(if $(WITHOUT),--week-without $(WITHOUT))

bench: $(VENV)/.done $(PEER)/.done ## side by side with prefect-aws; BENCH="--only launch --reps 1" for a part of it
	PYTHONPATH=tests $(BIN)/python -m benchmarks --peer $(PEER)/bin/prefect $(BENCH)

soak-memory: $(VENV)/.done ## thirty minutes of many short runs: memory stays flat
	SOAK_MINUTES=30 $(BIN)/python -m pytest tests/scale/test_memory.py --timeout 2400 -s

check: $(VENV)/.done ## lint, types, layers, templates
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cfn-lint --regions us-east-1 us-gov-west-1 cn-north-1 -- examples/events-queue.yaml src/ecs_worker/deploy/template.yaml

format: $(VENV)/.done ## mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.done ## renew what is written from the code
	$(BIN)/python docs/options.py
	$(BIN)/python docs/variables.py
	$(BIN)/python docs/templates.py
	$(BIN)/python docs/policies.py
	$(BIN)/python docs/events.py

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(PREFECT2)/.done: tests/constraints-prefect2.txt
	@test -n "$(PYTHON_FOR_PREFECT2)" || { echo "The tests run a Prefect 2.20 server, which needs Python 3.10 or 3.11: install one, or set PYTHON_FOR_PREFECT2." >&2; exit 1; }
	$(PYTHON_FOR_PREFECT2) -m venv --clear $(PREFECT2)
	$(PREFECT2)/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/constraints-prefect2.txt prefect
	touch $@

$(PEER)/.done: benchmarks/constraints-peer.txt
	$(PYTHON) -m venv --clear $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints-peer.txt prefect-aws
	touch $@

clean: ## remove what these have made
	rm -rf $(VENV) $(PREFECT2) $(PEER) dist .mypy_cache .ruff_cache .hypothesis
