# Everything runs from .venv, which `make env` makes from the locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help env demo test check format bench lock clean clean-env

help:
	@echo "make env     create $(VENV) with locked, hash-checked versions"
	@echo "make demo    plan and run a real training job on this machine"
	@echo "make test    run the tests"
	@echo "make check   formatting, lint, types, import contracts"
	@echo "make bench   run the benchmarks"
	@echo "make clean   remove what builds and tests left; make clean-env removes $(VENV)"
	@echo "make lock    resolve the versions anew after a change of dependencies"

env: $(STAMP)

$(STAMP): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "planner needs Python 3.11 or newer, and '$(PYTHON)' is older or missing: make env PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON)' cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: env
	$(BIN)/python examples/digits/prepare.py
	$(BIN)/planner estimate examples/digits/job.toml --deadline 10m
	$(BIN)/planner run examples/digits/job.toml --deadline 10m --budget 1 --yes

test: env
	$(BIN)/pytest --durations 40 -n 2 --dist loadfile --no-loadscope-reorder tests  # in order of names: the longest files first

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	@for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

lock: env
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header requirements/bootstrap.in -o requirements/bootstrap.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header pyproject.toml --extra examples --group dev -o requirements/dev.txt

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

clean-env:
	rm -rf $(VENV)
