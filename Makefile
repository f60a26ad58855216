# `make demo` and `make test` each set up everything they need in .venv, from pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test test-long mutants bench bench-networks bench-accuracy bench-sweeps bench-search docs figures bench-formats lint lowest clean

demo: $(VENV)/.runtime
	$(BIN)/python examples/demo.py --out out/demo

# Each worker has a core: torch's own threads would only wait for each other. What Python compiles
# is kept, whatever the environment says: many tests start processes, and all assertions are
# rewritten.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(CORES) --dist worksteal

test: $(VENV)/.dev
	$(PYTEST)

test-long: $(VENV)/.dev
	$(PYTEST) -m "long or not long"

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants.campaign --workers $(CORES)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.quantization
	$(BIN)/python -m benchmarks.report

bench-networks: $(VENV)/.dev
	$(BIN)/python -m benchmarks.networks

bench-formats: $(VENV)/.dev
	$(BIN)/python -m benchmarks.formats

bench-accuracy: $(VENV)/.dev
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.accuracy --table

bench-sweeps: $(VENV)/.dev
	$(BIN)/python -m benchmarks.sweeps

bench-search: $(VENV)/.dev
	$(BIN)/python -m benchmarks.search --sensitivity benchmarks/sensitivity-resnet18-fashion-8.csv
	$(BIN)/python -m benchmarks.search --network resnet18 --bits 16

# The API reference, out/api.md, from docstrings.
docs: $(VENV)/.dev
	$(BIN)/python docs/api.py out/api.md

# The figures of docs/, from inputs that are shipped or quick to compute.
figures: $(VENV)/.dev
	$(BIN)/python -m benchmarks.figures --out docs

# The oldest versions that pyproject.toml permits: they install, and the demo runs.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -e .
	.venv-lowest/bin/python examples/demo.py --out out/lowest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest out build *.egg-info
