# Everything happens in a virtual environment in .venv, with the versions of constraints.txt.
#
# PyTorch's wheel from PyPI brings CUDA on Linux (gigabytes). Headstart needs only the CPU build:
#     make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Other options of pip: make install PIP_OPTIONS="--index-url https://pypi.example.org/simple", or pip's own PIP_* variables.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.SUFFIXES:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
PIP_OPTIONS ?=
PIP_INSTALL = $(BIN)/python -m pip install --no-compile --disable-pip-version-check $(PIP_OPTIONS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt
# Half of pip's time would go into compiling what mostly is never imported: Python compiles, and keeps, what it first imports.
export PYTHONDONTWRITEBYTECODE :=
FIRST_IMPORT = $(BIN)/python -c "import streams.app, models.pretrain" >/dev/null 2>&1 || true  # what is missing is said when it is used
WORKERS ?= 2
# The longest first. Many of them wait, so more than two run at a time also on two cores.
TESTS ?= tests/integration tests/browser/test_smoke.py tests/fuzz tests/contract tests/unit
TEST_WORKERS ?= 3
SEEDS ?= 20
FUZZ_S ?= 60
RUNS ?= 1
SEED ?=
FAULTS ?=
RATE ?= 100
MINUTES ?= 30
BENCHES = $(sort $(filter-out bench/learning%.py bench/screenshots.py bench/three_launches.py bench/sight_cost.py bench/arena.py bench/throughput.py bench/latency.py bench/stages.py bench/skew.py,$(wildcard bench/*.py)))

.PHONY: help install demo test browser-test screenshots chaos durability soak lint types style format ci peers bench bench-latency bench-stages bench-parts bench-learning bench-sight compose-check fuzz audit licences clean

help:  ## list the targets (default)
	@echo "Headstart: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
	@echo "Options: PYTHON=python3.12  TORCH_INDEX=https://download.pytorch.org/whl/cpu  PIP_OPTIONS=…  WORKERS=2  TEST_WORKERS=3  TESTS=tests/unit  SEEDS=20  FUZZ_S=60  RUNS=1  SEED=…  FAULTS=…  RATE=100  MINUTES=30"

install: $(VENV)/.installed-dev  ## make .venv with everything, development tools included

demo: $(VENV)/.installed  ## install what it needs, then run the whole system on a simulated shop
	$(BIN)/headstart demo

test: $(VENV)/.installed-dev  ## run the tests (unit, contract, integration)
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup $(TESTS)

browser-test: $(VENV)/.installed-dev  ## drive the dashboard of a real run in Chromium (CHROMIUM=/usr/bin/chromium), axe included; minutes
	$(BIN)/pytest tests/browser

screenshots: $(VENV)/.installed-dev  ## make the README's and the quiz's pictures anew, in docs/images
	$(BIN)/python bench/screenshots.py

chaos: $(VENV)/.installed-dev  ## pull every plug on a real Kafka and Redis, and let the ledger judge: RUNS times, with SEED or a seed drawn each time; FAULTS=worker_killed,…
	@set -e; for run in $$(seq $(RUNS)); do CHAOS_SEED=$(SEED) CHAOS_FAULTS=$(FAULTS) CHAOS_RATE=$(RATE) $(BIN)/pytest -p no:cacheprovider tests/chaos/test_live.py tests/chaos/test_replay.py; done

durability: $(VENV)/.installed-dev  ## measure what is lost, and done again, under each promise of Redis (the setting durability)
	CHAOS_SEED=$(SEED) CHAOS_RATE=$(RATE) $(BIN)/pytest -p no:cacheprovider tests/chaos/test_durability.py

soak: $(VENV)/.installed-dev  ## run under load with random faults for MINUTES at RATE events/s, and plot memory, descriptors and lag into var/soak
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES) --rate $(RATE) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.installed-dev  ## check style, format, types, the direction of imports, and bandit's list of weaknesses
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types style

types: $(VENV)/.installed-dev
	$(BIN)/mypy || { [ $$? -eq 2 ] && $(BIN)/mypy --num-workers 0; } # its processes must have started within 3 s, which a busy machine misses

style: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet -c pyproject.toml -r streams models features

format: $(VENV)/.installed-dev  ## bring the sources into their format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ci: lint test  ## exactly what CI runs

peers: $(VENV)/.installed  ## install what `make bench` runs beside Headstart, in .venv-peers
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet $(PIP_OPTIONS) $$($(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['peers'])")

bench: $(VENV)/.installed  ## measure throughput beside every peer (`make peers`; a real Kafka too: KAFKA_HOME=…, KAFKA_STREAMS=…)
	$(BIN)/python bench/throughput.py $(if $(KAFKA_HOME),--kafka $(KAFKA_HOME)) $(if $(KAFKA_STREAMS),--kafka-streams $(KAFKA_STREAMS))

bench-latency: $(VENV)/.installed  ## measure publish-to-score latency at 10, 50 and 80 % of what a worker can do (needs `make peers`)
	$(BIN)/python bench/latency.py $(if $(KAFKA_HOME),--kafka $(KAFKA_HOME))

bench-stages: $(VENV)/.installed  ## show where a microsecond of a worker goes: a table, and a flame graph in var/bench (needs `make peers`)
	$(BIN)/python bench/stages.py $(if $(KAFKA_HOME),--kafka $(KAFKA_HOME))

bench-parts: $(VENV)/.installed  ## run the other measurements in bench/, which take long
	@set -e; for script in $(BENCHES); do echo "== $$script"; $(BIN)/python $$script; done

bench-sight: $(VENV)/.installed  ## measure what figures and detectors cost the workers, in pairs (makes its log and trunk the first time)
	test -e var/three/about.json || $(BIN)/python bench/three_launches.py var/three
	$(BIN)/python bench/sight_cost.py var/three

bench-learning: $(VENV)/.installed  ## measure the learning figures over SEEDS simulated launches (20 take about an hour on 2 cores, less the second time)
	$(BIN)/python bench/learning.py --seeds $(SEEDS) --workers $(WORKERS)

compose-check: $(VENV)/.installed  ## bring docker-compose.yml up for real, use it, restart it, take it down (needs Docker)
	$(BIN)/python deploy/compose_check.py

fuzz: $(VENV)/.installed-dev  ## fuzz every decoder for FUZZ_S seconds each with atheris, guided by coverage
	$(PIP_INSTALL) --quiet -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.long --seconds $(FUZZ_S)

audit: $(VENV)/.installed-dev  ## ask PyPI's list of vulnerabilities about every dependency (needs PyPI itself: a mirror has no such list)
	$(PIP_INSTALL) --quiet -e '.[audit]'
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

licences: $(VENV)/.installed-dev  ## list the dependencies' licences (docs/licences.md says how they were judged)
	$(PIP_INSTALL) --quiet -e '.[audit]'
	$(BIN)/pip-licenses --from=mixed --with-urls --format=plain --order=license

clean:  ## remove what was made here: .venv, caches, build leftovers (var/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems' Python has no ensurepip: then its own pip puts one into the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headstart needs Python 3.11 or newer; this is %s: make PYTHON=…" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; } \
	  || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	$(FIRST_IMPORT)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	$(FIRST_IMPORT)
	@touch $@ $(VENV)/.installed
