# Two commands: `make run` shows the demo, `make test` proves everything. Both set themselves up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup run test check bench faults monday simulate waits lock docs sbom clean

setup: $(VENV)/.ready  ## .venv, and the Debian and npm packages that the tests need
	sh tests/services/setup.sh

$(VENV)/.ready: requirements/test.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/test.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: $(VENV)/.ready  ## the demo: sample upstream, proxy, flags, a page to look at
	$(BIN)/headgate demo

check: $(VENV)/.ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup check  ## everything
	$(BIN)/python -m pytest -m "not alone" -n 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone

bench: setup  ## nginx and the naive proxy beside Headgate, one table
	$(BIN)/python -m tests.bench

faults: $(VENV)/.ready  ## every fault in every phase, 1,000 seeded runs, one table
	$(BIN)/python -m tests.faults --seed 1 --rounds 1000

monday: setup  ## a whole rollout with real servers, two proxies and a fault, in two minutes
	$(BIN)/python -m tests.monday

simulate: $(VENV)/.ready  ## whole rollouts on made traffic, beside two rules of others; an hour
	$(BIN)/python -m tests.simulate

waits: $(VENV)/.ready  ## how long a reader waits, by source, with a model at real speed
	$(BIN)/python -m tests.waits

docs: $(VENV)/.ready  ## docs/reference, dashboards and rules from the code
	$(BIN)/python -m docs.generate
	$(BIN)/python -m dashboards

# Of the runtime's packages alone, so from a venv of their lock; or of one that is there, such as an image's.
RUNTIME ?= build/runtime
SBOM := build/sbom

$(RUNTIME)/.ready: $(VENV)/.ready requirements/runtime.lock
	$(BIN)/python -m venv --clear --without-pip $(RUNTIME)
	$(BIN)/python -m pip --python $(RUNTIME)/bin/python install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: -r requirements/runtime.lock
	touch $@

sbom: $(VENV)/.ready $(RUNTIME)/.ready  ## build/sbom: what runs beside our own code, CycloneDX and licences
	mkdir -p $(SBOM)
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --spec-version 1.6 --output-format JSON --output-reproducible --output-file $(SBOM)/headgate.cdx.json $(RUNTIME)/bin/python
	$(BIN)/pip-licenses --python $(RUNTIME)/bin/python --ignore-packages headgate --format markdown --output-file $(SBOM)/licences.md

lock:  ## new versions of everything; commit the result
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade pyproject.toml -o requirements/runtime.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade -c requirements/runtime.lock pyproject.toml requirements/test.in -o requirements/test.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/test.lock requirements/build.in -o requirements/build.lock

clean:
	rm -rf $(VENV) build var .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/clients/node_modules tests/services/node_modules
