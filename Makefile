# What one does with this repository. `make` alone lists it.
#
# Everything is installed into .venv: the locked dependencies, each checked against its hash, and the project
# itself (editable). Which package index serves them is decided by pip's own configuration, never by a file here.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Each process that a test starts would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SDK := .venv/.sdk
LOCKS := requirements.lock requirements-dev.lock requirements-build.lock
UV_VERSION := 0.13.9
IMAGE ?= callspool:dev
# Test processes; more than the cores only makes them wait for each other.
JOBS ?= 2
# How long the load of `make soak` lasts.
SECONDS ?= 600
# How long `make prove` takes: full, or small.
BUDGET ?= full

define NEEDS_PYTHON
callspool needs Python 3.11 or newer; "$(PYTHON)" is not one.
Install it, or name one that you have: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)
endef
export NEEDS_PYTHON

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: $(READY) ## Start callspool here; what it delivers lands in ./callspool-data/delivered/
	@exec $(BIN)/callspool run --local

.PHONY: setup
setup: $(READY) $(SDK) ## Create .venv with the locked dependencies (the other targets do it when it is needed)

# A .venv whose interpreter is gone or too old is made anew; otherwise only what changed is installed.
$(READY): $(LOCKS) pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "$$NEEDS_PYTHON" >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "[1/3] .venv with $$($(PYTHON) --version)"; \
	  "$(PYTHON)" -m venv --clear .venv || { echo "Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
	@echo "[2/3] $$(cat requirements-dev.lock requirements-build.lock | grep -c '==') locked packages (about a minute)"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes \
	    -r requirements-dev.lock -r requirements-build.lock 2> .venv/install.err \
	  | while read -r verb name _; do \
	      if [[ -t 1 && $$verb == Collecting ]]; then printf '\r\033[K      %s' "$$name"; fi; done \
	  || { cat .venv/install.err >&2; exit 1; }
	@if [[ -t 1 ]]; then printf '\r\033[K'; fi
	@echo "[3/3] callspool itself (editable)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The SDK that the tests post with. What posts in it needs nothing of the agent framework that it asks for.
$(SDK): requirements-sdk.lock $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $< \
	    2> .venv/install.err || { cat .venv/install.err >&2; exit 1; }
	@touch $@

.PHONY: test
test: $(READY) $(SDK) lint ## Check format, lint, types, import directions; run the tests with coverage
	$(BIN)/pytest -n $(JOBS) --dist worksteal --cov --cov-report=term

.PHONY: prove
prove: $(READY) $(SDK) ## The long proof: kills, power cuts, faults, planted bugs (BUDGET=small: some minutes)
	PROVE_BUDGET=$(BUDGET) $(BIN)/pytest -n $(JOBS) --dist worksteal -m prove

.PHONY: lint
lint: $(READY) ## The static checks of `make test` alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(READY) ## Let ruff format the code and repair what it can
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

.PHONY: bench
bench: $(READY) ## Measure callspool beside a bare aiohttp handler (options: make bench ARGS=--quick)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: soak
soak: $(READY) ## Load, bad clients, outages and restarts at once: does it leak or lose anything? (SECONDS=600)
	@$(BIN)/python -m bench soak --seconds $(SECONDS) $(ARGS)

.PHONY: peers
peers: ## Install the Node clients of the queues that `make bench ARGS=peers` measures, besides Debian's servers
	@npm install --prefix bench/peers/node --no-package-lock --no-audit --no-fund --silent

.PHONY: lock
lock: ## Lock what pyproject.toml asks for; versions stay where they can (ARGS=--upgrade: the newest)
	@tool="$$(mktemp -d)"; trap 'rm -rf "$$tool"' EXIT; \
	"$(PYTHON)" -m venv "$$tool"; \
	"$$tool/bin/pip" install -qq --disable-pip-version-check uv==$(UV_VERSION); \
	index="$${PIP_INDEX_URL:-$$("$$tool/bin/pip" config get global.index-url 2>/dev/null || true)}"; \
	if [[ -n $$index ]]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	compile() { "$$tool/bin/uv" pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet $(ARGS) "$$@" >/dev/null; }; \
	compile pyproject.toml -o requirements.lock; \
	compile pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock; \
	"$$tool/bin/python" -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | compile - -o requirements-build.lock
	@git --no-pager diff --stat -- $(LOCKS)

.PHONY: image
image: ## Build the container image (IMAGE=callspool:dev; with docker, podman or buildah)
	@for tool in docker podman buildah; do \
	  if command -v $$tool >/dev/null; then exec $$tool build --tag $(IMAGE) --file Dockerfile .; fi; done; \
	echo "make image needs docker, podman or buildah" >&2; exit 1

.PHONY: clean
clean: ## Remove what the other targets made, except the data of `make run`
	rm -rf .venv build dist htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache *.egg-info bench/results
