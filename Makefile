# The commands of this repository. `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?= configs/quickstart.yaml
PYTEST := RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest --durations=10

.DEFAULT_GOAL := help
.PHONY: help venv demo serve fuzz bench test test-unit test-ray test-exhaustive test-browser test-clients test-engines picture lint types format docs-check clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.complete ## create the environment in .venv from the pinned versions

$(VENV)/.complete: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, found '$(PYTHON)'; say which: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --retries 5 --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[serve,plots,playground,dev]'
	@touch $@

demo: venv ## edit once, ask every model: real weights, a local Ray, before and after (VERBOSE=1: with Ray's own words)
	scripts/demo.sh $(if $(VERBOSE),--verbose) $(CONFIG)

serve: venv ## edit once, then serve every model at http://127.0.0.1:8000/v1, and the playground at :8080, until Ctrl-C
	$(BIN)/onceedit edit --config $(CONFIG)
	$(BIN)/onceedit serve --config $(CONFIG) --playground

test: test-unit test-ray test-browser ## run all tests

test-unit: venv ## run the tests that need no Ray and no download
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder tests/unit

test-ray: venv ## run the tests that start a Ray of their own
	$(PYTEST) -n 2 --no-loadscope-reorder tests/ray

test-exhaustive: venv ## run all cases of the tests that the other commands only sample
	OMP_NUM_THREADS=1 $(PYTEST) -n auto -m exhaustive tests/unit
	$(PYTEST) -m exhaustive tests/ray

test-browser: venv ## run the tests of the playground in headless Chromium (skipped where it is missing)
	OMP_NUM_THREADS=1 $(PYTEST) tests/browser

test-clients: venv .venv-clients/.complete ## run the tests of public clients and of an object store, in an environment of their own
	OMP_NUM_THREADS=1 $(PYTEST) tests/clients

test-engines: venv .venv-engines/.complete ## run the tests of real inference engines, in an environment of their own
	$(BIN)/onceedit models fetch smollm2-135m qwen2.5-coder-0.5b
	$(PYTEST) -rs tests/engines

.venv-engines/.complete: tests/engines/requirements.txt
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --retries 5 --disable-pip-version-check -r tests/engines/requirements.txt
	@touch $@

.venv-clients/.complete: tests/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --retries 5 --disable-pip-version-check -r tests/clients/requirements.txt
	@touch $@

picture: venv ## take docs/images/playground.png of a running page (`make serve`)
	$(BIN)/python -m scripts.picture

fuzz: venv ## a few thousand requests made from the API's own schema: none may get a 5xx
	ONCEEDIT_FUZZ_CASES=300 OMP_NUM_THREADS=1 $(PYTEST) -rP tests/unit/serving/test_fuzz.py

bench: venv ## measure decoding and alignment against their lower bounds (BENCH_ARGS=--quick: under 3 minutes)
	$(BIN)/python -m benchmarks.decoding $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.transport $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.onboarding $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.alignment $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.profile_step $(BENCH_ARGS)

lint: venv ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: venv ## check types
	$(BIN)/mypy

format: venv ## correct the style automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-check: venv ## check that what the documents point to exists
	$(BIN)/python -m pytest -q tests/unit/test_docs.py

clean: ## remove the environment and the tools' caches (weights and results stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +
