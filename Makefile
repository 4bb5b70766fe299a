# Two commands: `make run` shows the demo, `make test` proves everything. Both set themselves up.

PYTHON ?= python3
PORT := 8080
VENV ?= .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# No bytecode here: it would be of all, and take a third of the time. Python keeps that of what is imported.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# A lock is complete, so pip has nothing to look up: what was published since changes nothing.
LOCKED := --no-deps --require-hashes --only-binary :all:
STACKS := build/stacks
COMPILED := build/compiled
# Else a Python that is told to keep no bytecode compiles all at each of a thousand starts of a server.
export PYTHONDONTWRITEBYTECODE :=
packages = $(shell grep -c == requirements/$(1).lock) packages of requirements/$(1).lock

.PHONY: setup services run test warm quick pythons check bench cuts faults soak monday simulate waits stacks compat lock docs sbom compiled wheel clean

setup: $(VENV)/.demo  ## all that the tests need: Python, Debian and npm packages
	@$(MAKE) --no-print-directory -j 2 $(STACKS)/.ready services

services: $(VENV)/.test
	@VENV=$(VENV) sh tests/services/setup.sh

# One venv: `make test` adds to what `make run` has installed. Another Python begins it anew.
$(VENV)/.python-$(VERSION):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is $(VERSION)")'
	@echo "Making $(VENV) with Python $(VERSION)."
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: requirements/demo.lock pyproject.toml $(VENV)/.python-$(VERSION)
	@echo "Installing $(call packages,demo); 15 seconds to a minute."
	@$(PIP) $(LOCKED) -r requirements/demo.lock
	@$(PIP) --no-deps --no-index --no-build-isolation -e .
	@touch $@

$(VENV)/.test: requirements/test.lock $(VENV)/.demo
	@echo "Installing $(call packages,test), for the tests; one to two minutes."
	@$(PIP) $(LOCKED) -r requirements/test.lock
	@touch $@

run: $(VENV)/.demo  ## the demo: sample upstream, proxy, flags, a page to look at
	@$(BIN)/headgate demo --port $(PORT)

check: $(VENV)/.test  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(VENV)/.demo  ## everything
	@$(MAKE) --no-print-directory -j 3 $(STACKS)/.ready services warm $(COMPILED)/.ready
	@$(BIN)/python -m tests.prove

# Beside npm, which mostly waits: what mypy finds is kept, and so are the compiled tests. The proof says what is wrong.
warm: $(VENV)/.test
	@$(BIN)/mypy > /dev/null 2>&1 || true
	@$(BIN)/python -m pytest --collect-only --quiet > /dev/null 2>&1 || true

quick: services  ## for the hand at work: format, lint, types, and each test that starts no server
	@$(BIN)/python -m tests.prove --quick

pythons:  ## everything, with each Python that is found
	@for python in python3.11 python3.12 python3.13 python3.14; do \
	    if $$python -c '' 2>/dev/null; then \
	        $(MAKE) --no-print-directory test PYTHON=$$python VENV=build/$$python || exit 1; \
	    else \
	        echo "$$python: not found"; \
	    fi; \
	done

bench: setup $(COMPILED)/.ready  ## nginx and the naive proxy beside Headgate, one table
	$(BIN)/python -m tests.bench

cuts: $(VENV)/.test  ## the relay, with both sides cut and joined anywhere, 50,000 made-up connections
	$(BIN)/python -m tests.relay.cuts --seed 1 --rounds 50000

faults: $(VENV)/.test  ## every fault in every phase, 1,000 seeded runs, one table
	$(BIN)/python -m tests.faults --seed 1 --rounds 1000

soak: $(VENV)/.test  ## ten minutes of traffic to two replicas, and nothing that grows
	$(BIN)/python -m tests.soak

monday: setup  ## a whole rollout with real servers, two proxies and a fault, in two minutes
	$(BIN)/python -m tests.monday

simulate: $(VENV)/.test  ## whole rollouts on made traffic, beside two rules of others; half an hour
	$(BIN)/python -m tests.simulate

waits: setup  ## how long a reader waits, by source, with a model at real speed
	$(BIN)/python -m tests.waits

# What the backends of other stacks run with, apart from all else: its packages disagree with ours about versions.
$(STACKS)/.ready: $(VENV)/.demo requirements/stacks.lock
	@echo "Installing $(call packages,stacks), for backends of other stacks; half a minute."
	@$(BIN)/python -m venv --clear --without-pip $(STACKS)
	@$(BIN)/python -m pip --disable-pip-version-check --python $(STACKS)/bin/python install --quiet --no-compile $(LOCKED) -r requirements/stacks.lock
	@touch $@

stacks: setup  ## backends of each stack under OpenTelemetry: is their model call found to be its run's?
	$(BIN)/python -m tests.stacks

compat: setup  ## five frameworks, asked by seven clients, directly and through Headgate: nothing differs
	$(BIN)/python -m tests.compat

docs: $(VENV)/.test  ## docs/reference, dashboards and rules from the code
	$(BIN)/python -m docs.generate
	$(BIN)/python -m dashboards

# Of the runtime's packages alone, so from a venv of their lock; or of one that is there, such as an image's.
RUNTIME ?= build/runtime
SBOM := build/sbom

$(RUNTIME)/.ready: $(VENV)/.test requirements/runtime.lock
	$(BIN)/python -m venv --clear --without-pip $(RUNTIME)
	$(BIN)/python -m pip --disable-pip-version-check --python $(RUNTIME)/bin/python install --quiet $(LOCKED) -r requirements/runtime.lock
	touch $@

sbom: $(VENV)/.test $(RUNTIME)/.ready  ## build/sbom: what runs beside our own code, CycloneDX and licences
	mkdir -p $(SBOM)
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --spec-version 1.6 --output-format JSON --output-reproducible --output-file $(SBOM)/headgate.cdx.json $(RUNTIME)/bin/python
	$(BIN)/pip-licenses --python $(RUNTIME)/bin/python --ignore-packages headgate --format markdown --output-file $(SBOM)/licences.md

# The hot path as machine code, beside the checkout and from the same source: PYTHONPATH=build/compiled runs it.
$(COMPILED)/.ready: $(VENV)/.test setup.py $(shell find proxy flags browser -type f ! -name '*.pyc') | services
	@command -v cc > /dev/null || { echo "A C compiler is needed: Debian's packages gcc and libc6-dev."; exit 1; }
	@echo "Compiling the hot path; half a minute."
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	@cp -R proxy flags browser pyproject.toml setup.py README.md LICENSE $(COMPILED)
	@cd $(COMPILED) && HEADGATE_COMPILED=1 $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	@touch $@

compiled: $(COMPILED)/.ready  ## build/compiled: the same, its hot path compiled

WHEEL = $(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist
COMPILER := $(shell command -v cc)

# Wheels of what is committed, so that `headgate --version` can say of which commit they are. Each has a tree of its own,
# or what one build leaves behind would be in the other. A compiled one of before goes, or pip would take that.
wheel: $(if $(COMPILER),$(VENV)/.test,$(VENV)/.demo)  ## dist/headgate-….whl, and the compiled one where there is a C compiler
	@rm -rf build/wheel dist/headgate-*.whl && mkdir -p build/wheel/pure build/wheel/compiled
	@git archive --output build/wheel/tree.tar HEAD
	@tar -x -f build/wheel/tree.tar -C build/wheel/pure
	@HEADGATE_COMPILED= $(WHEEL) ./build/wheel/pure
ifdef COMPILER
	@tar -x -f build/wheel/tree.tar -C build/wheel/compiled
	@HEADGATE_COMPILED=1 $(WHEEL) ./build/wheel/compiled
else
	@echo "There is no C compiler (cc): only the pure wheel was made."
endif
	@ls dist/headgate-*.whl

# What two packages disagree about is in overrides.txt, with the reason.
OVERRIDE := --override requirements/overrides.txt
COMPILE := build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

lock:  ## new versions of everything; commit the result
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet $(LOCKED) -r requirements/locking.lock
	$(COMPILE) --upgrade pyproject.toml -o requirements/runtime.lock
	$(COMPILE) --upgrade $(OVERRIDE) -c requirements/runtime.lock --extra bedrock pyproject.toml -o requirements/bedrock.lock
	$(COMPILE) --upgrade -c requirements/runtime.lock --extra traces pyproject.toml -o requirements/traces.lock
	$(COMPILE) --upgrade -c requirements/runtime.lock pyproject.toml requirements/demo.in -o requirements/demo.lock
	$(COMPILE) --upgrade $(OVERRIDE) -c requirements/demo.lock -c requirements/bedrock.lock -c requirements/traces.lock --extra bedrock --extra traces pyproject.toml requirements/demo.in requirements/test.in -o requirements/test.lock
	$(COMPILE) --upgrade requirements/stacks.in -o requirements/stacks.lock
	$(COMPILE) -c requirements/test.lock requirements/build.in -o requirements/build.lock
	$(COMPILE) --upgrade requirements/locking.in -o requirements/locking.lock

clean:
	rm -rf $(VENV) build dist var .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/*/node_modules
