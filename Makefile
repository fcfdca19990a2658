# The project's commands; `make` lists them. They need GNU make and Python 3.11 or newer, nothing else: what they install goes to .venv/.
# PYTHON=python3.11 picks another Python than the preferred one, for every command.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export SAM_CLI_TELEMETRY := 0

# --- Which Python -----------------------------------------------------------------------------------------------------------------------

# $(call runs,NAME,PIN): "3.13 /its/real/path" if it starts and is new enough, else nothing.
runs = $(shell $(if $(2),PYENV_VERSION=$(2)) $(1) -c 'import sys; v = sys.version_info; \
	print("%d.%d" % v[:2], sys.executable if v >= (3, 11) else "")' 2>/dev/null)
# A shim of pyenv is on the PATH for every version, but starts only those that are active: hence the second try, pinned.
find = $(or $(call usable,$(call runs,$(1))),$(call usable,$(call runs,$(1),$(patsubst python%,%,$(notdir $(1))))))
usable = $(if $(word 2,$(1)),$(1))
preferred = $(or $(call find,python3.13),$(call usable,$(call runs,python3)))

# Looked up when first needed, and once.
found = $(eval found := $(if $(PYTHON),$(call find,$(PYTHON)),$(preferred)))$(found)
minor = $(or $(word 1,$(found)),$(error $(or $(PYTHON),python3) does not run, or is older than 3.11))
python = $(word 2,$(found))

# --- Environments -----------------------------------------------------------------------------------------------------------------------

# One per lock and Python, each holding exactly what its lock says; the copy of the lock inside says that the installation was completed.
venv = .venv/$(minor)-$(1)
in_run = $(call venv,run)/bin/python
in_dev = $(call venv,dev)/bin/python
in_sam = $(call venv,sam)/bin/python

# Python compiles what is imported when it is imported: to compile everything here would take half as long again.
pip_install = pip -qq --disable-pip-version-check install --require-hashes --no-deps --no-compile
# The .pth file makes the package importable from src/, as an editable install would, without a build backend to download.
define ready
	@test -x $(call venv,$(1))/bin/python && cmp -s requirements/$(1).txt $(call venv,$(1))/lock.txt || { \
		echo "Setting up $(call venv,$(1)), once for this requirements/$(1).txt" >&2 && \
		$(python) -m venv --clear $(call venv,$(1)) && \
		$(call venv,$(1))/bin/python -m $(pip_install) --requirement requirements/$(1).txt && \
		$(call venv,$(1))/bin/python -c 'import os, pathlib, sysconfig; site = sysconfig.get_path("purelib"); \
			pathlib.Path(site, "quarantine_release.pth").write_text(os.path.relpath("src", site))' && \
		cp requirements/$(1).txt $(call venv,$(1))/lock.txt; }
endef

.PHONY: help setup run demo new-client check unit test lint types template tests pytest simulate format build lock clean python \
	ready-run ready-dev ready-sam ready-fuzz ready-mutants

help:
	@sed -n 's/^\([a-z][a-z0-9. -]*\):.*## */  make \1\t/p' Makefile | sed 's/ test-/|/g' | expand -t 20

setup: ready-run ready-dev ready-sam  ## creates the environments; every command does so for itself

ready-run ready-dev ready-sam ready-fuzz ready-mutants:
	$(call ready,$(@:ready-%=%))

python:  ## says which Python is used
	@echo $(minor) $(python)

# --- The system on this machine ---------------------------------------------------------------------------------------------------------

# exec, so that a signal to make or to its group finds Python and no shell in between.
run: ready-run  ## serves the whole system on 127.0.0.1:8080 until Ctrl-C
	@exec $(in_run) -m local

demo: ready-run  ## plays the main cases against it
	@exec $(in_run) -m local.demo

# Needs nothing installed.
new-client:  ## makes a token for a client: make new-client NAME=playbooks ARGS='--scope read'
	@PYTHONPATH=src $(python) -m tools.new_client $(or $(NAME),$(error NAME=... says what the client is called)) $(ARGS)

.PHONY: ops
ops: ready-run  ## looks at the ledger and operates it: make ops ARGS='open --local'
	@$(in_run) -m tools.ops $(ARGS)

# --- Checks -----------------------------------------------------------------------------------------------------------------------------

UNIT = tests/test_architecture.py $(patsubst %,tests/%,api aws cloudflare config domain ledger releasing support usecases)
check:  ## runs lint, types and the unit tests that need no process or socket, in 30 s
	@$(MAKE) lint types unit

unit: ready-dev  ## runs these unit tests alone: make unit ARGS='-k claim'
	@$(in_dev) -m pytest --no-header --quiet --unit --numprocesses=2 $(UNIT) $(ARGS)

# The longest first, so that `make --jobs=2` has the others done beside it.
test: tests template types lint  ## runs every check and test

# One process more than CI has cores, since some tests mostly wait. Bytecode is written, for all the processes that are started, also where
# the environment says no.
WORKERS ?= 3
tests: export PYTHONDONTWRITEBYTECODE :=
tests: ready-dev  ## runs all tests, with coverage
	@$(in_dev) -m pytest --no-header --cov --numprocesses=$(WORKERS) $(ARGS)

pytest: ready-dev  ## runs the tests alone, without coverage: make pytest ARGS='-k claim'
	@$(in_dev) -m pytest --no-header $(ARGS)

simulate: ready-dev  ## simulates at length; SEED=n simulates one seed again and prints its history
	@$(in_dev) -m tests.simulation.simulated_runs $(if $(SEED),--seed $(SEED),--faults 3 --seeds 1000000)

.PHONY: bursts
bursts: ready-dev  ## plays batches, bursts and a storm of 429s at full size against the local stack
	@BURST=2000 $(in_dev) -m pytest --no-header --capture=no tests/system/test_queue.py

.PHONY: crowds
crowds: ready-dev  ## plays 10,000 requests, 30 at once for each message, against the local stack
	@CROWDS=10000 $(in_dev) -m pytest --no-header --capture=no tests/system/test_crowds.py

.PHONY: bench bench-cold profile
bench: ready-dev  ## measures everything and writes the figures of docs/performance.md; fails if a target is missed
	@missed=0; $(MAKE) bench-cold || missed=1; $(MAKE) bench-burst || missed=1; exit $$missed

bench-cold: ready-dev  ## measures cold starts and warm requests beside a peer and a floor; COLD='--starts 5'
	@$(in_dev) -m benchmarks.cold_and_warm --docs docs $(COLD)

profile: ready-dev  ## shows where the time of a cold start and a request goes; ARGS='--first 20 --requests 100'
	@$(in_dev) -m benchmarks.where_time_goes $(ARGS)

.PHONY: crossings
crossings: ready-dev  ## counts the borders that one request crosses in the code; ARGS=--calls lists them
	@$(in_dev) -m benchmarks.crossings $(ARGS)

.PHONY: bench-burst
bench-burst: ready-dev  ## plays a burst in simulated time and writes the figures of docs/performance.md; ARGS='--seed 2'
	@$(in_dev) -m benchmarks.burst --docs docs $(ARGS)

# Where CPython has no wheel of atheris, this alone does not work.
SECONDS ?= 600
.PHONY: fuzz
fuzz: ready-fuzz  ## searches with atheris for ten minutes for what breaks authentication or parsing; SECONDS=n
	@$(call venv,fuzz)/bin/python -m tests.fuzz.fuzz_door $(SECONDS)

.PHONY: mutants
mutants: ready-mutants  ## changes the code that lets in, reads requests and judges answers, and shows which changes no test notices
	@rm -rf mutants && $(call venv,mutants)/bin/mutmut run && $(call venv,mutants)/bin/mutmut results

# The tests on one more Python, less those that take long and do not depend on it.
.PHONY: test-3.11 test-3.12 test-3.13
test-3.11 test-3.12 test-3.13:  ## runs the tests on one more Python
	@$(MAKE) pytest PYTHON=python$(@:test-%=%) ARGS='-m "not slow and not simulation"'

lint: ready-dev  ## checks format and style
	@$(in_dev) -m ruff format --check --quiet --diff .
	@$(in_dev) -m ruff check --quiet .

types: ready-dev  ## checks types
	@$(in_dev) -m mypy --no-error-summary

# Offline; the region only decides which resource types there are. What sam prints is shown if it fails.
template: export AWS_DEFAULT_REGION := us-east-1
template: ready-sam  ## checks template.yaml and observability.yaml
	@$(in_sam) $(call venv,sam)/bin/cfn-lint --template template.yaml observability.yaml
	@says=$$($(in_sam) -m samcli validate --lint 2>&1) || { echo "$$says"; exit 1; }

format: ready-dev  ## formats the code and fixes what ruff can fix
	@$(in_dev) -m ruff check --quiet --fix . ; $(in_dev) -m ruff format --quiet .

# --- Building and locking ---------------------------------------------------------------------------------------------------------------

build: ready-sam  ## builds the functions into .aws-sam/build, for `sam deploy`
	@$(in_sam) -m samcli build

# Each lock keeps the versions of the one before it, so that what is tested is what is deployed. UPGRADE=1 takes the newest versions.
compile = $(in_dev) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	$(if $(UPGRADE),--upgrade)
lock: ready-dev  ## writes the locks anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@$(compile) pyproject.toml --output-file src/requirements.txt
	@$(compile) pyproject.toml --group run --constraint src/requirements.txt --output-file requirements/run.txt
	@$(compile) pyproject.toml --group dev --constraint requirements/run.txt --output-file requirements/dev.txt
	@$(compile) pyproject.toml --group fuzz --constraint requirements/dev.txt --output-file requirements/fuzz.txt
	@$(compile) pyproject.toml --group mutants --constraint requirements/dev.txt --output-file requirements/mutants.txt
	@$(compile) --group bench --constraint requirements/run.txt --output-file requirements/bench.txt
	@$(compile) --group sam --output-file requirements/sam.txt

clean:  ## removes everything that was made
	@rm -rf .venv .local .aws-sam .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache mutants build dist
	@find . -name __pycache__ -prune -exec rm -rf {} +

# --- What `sam build` calls, with ARTIFACTS_DIR: template.yaml names this Makefile ------------------------------------------------------

# Bytecode is checked neither by date nor by content, since the zip dates everything 1980 and Lambda would compile again at each cold start.
# Only a 3.13 makes bytecode that Lambda takes. Any other makes the same package without: the lock names the same wheels for every Python.
LAMBDA_PLATFORM ?= manylinux2014_aarch64
artifacts = "$(or $(ARTIFACTS_DIR),$(error sam build calls this, and says in ARTIFACTS_DIR where to))"
# PYTHON picks another here too.
lambda_python = $(word 2,$(if $(PYTHON),$(if $(filter 3.13,$(minor)),$(found)),$(call find,python3.13)))
no_bytecode = echo "WARNING: no python3.13 runs here, so the package has no bytecode: every cold start takes twice as long" >&2

.PHONY: build-WebhookFunction build-WorkerFunction build-ReconcilerFunction
build-WebhookFunction build-WorkerFunction build-ReconcilerFunction:
	@$(or $(lambda_python),$(python)) -m $(pip_install) --requirement src/requirements.txt --only-binary=:all: \
		--platform $(LAMBDA_PLATFORM) --implementation cp --python-version 3.13 --target $(artifacts)
	@cp -R src/quarantine_release $(artifacts)
	@$(or $(lambda_python),$(python)) -m tools.trim_package $(artifacts)
	@$(if $(lambda_python),PYTHONHASHSEED=0 $(lambda_python) -m compileall -q --invalidation-mode unchecked-hash \
		-s $(artifacts) -p /var/task $(artifacts),$(no_bytecode))
