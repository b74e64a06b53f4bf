# Everything happens in .venv, from the versions and hashes in requirements/dev.lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# What a shell may have set for another project must not steer this one.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX
unexport PIP_CONSTRAINT PIP_FIND_LINKS PIP_NO_BINARY PIP_NO_DEPS PIP_NO_INDEX PIP_PREFIX PIP_PYTHON
unexport PIP_REQUIREMENT PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_USER
unexport UV_CONSTRAINT UV_EXCLUDE_NEWER UV_FIND_LINKS UV_NO_BINARY UV_NO_BUILD UV_NO_INDEX UV_OFFLINE
unexport UV_OVERRIDE UV_PREFIX UV_PROJECT_ENVIRONMENT UV_PYTHON UV_SYSTEM_PYTHON UV_TARGET
unexport UV_WORKING_DIRECTORY UV_WORKING_DIR UV_PROJECT MYPYPATH PYTEST_ADDOPTS

BIN := .venv/bin
UV := $(BIN)/uv --no-config --quiet
STAMP := .venv/.installed

# The system's Python first: other users, such as a runner's, cannot reach one below somebody's home.
BASE_PYTHON = $(firstword $(foreach python,/usr/bin/python3.11 python3.11 python3,$(shell \
	$(python) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $(python))))

.PHONY: help install demo test quick check mutants bench soak lock clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## make .venv with all of it: .venv/bin/task-server
	@:

$(STAMP): pyproject.toml requirements/dev.lock
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		test -n "$(BASE_PYTHON)" || { \
			echo "task-server needs Python 3.11 or newer with venv and pip" >&2; exit 1; }; \
		echo "making .venv with $(BASE_PYTHON)"; \
		"$(BASE_PYTHON)" -m venv --clear .venv; }
	@echo "installing requirements/dev.lock"
	@# The lines of uv alone, to start from: pip checks the same hashes.
	@sed -n '/^uv==/,/^[^ ]/ {/^uv==/p; /^  *--hash/p;}' requirements/dev.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	@# With byte code: without it each process compiles all that it imports, and keeps 3 MB more.
	@$(UV) pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.lock
	@$(UV) pip install --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -m compileall -q src
	@touch $@

demo: install  ## see it work in a minute
	@$(BIN)/python demo/demo.py

test: install  ## run all tests, a file to each processor (-ra names those left out, and why)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

quick: install  ## run the tests that need no package index, PostgreSQL, processes or patience
	@$(BIN)/python -m pytest -m "not network and not e2e and not slow and not postgres"

check: install  ## check format, lint, types and imports
	@$(BIN)/ruff format --check --quiet . || { \
		echo "not formatted (mend it with $(BIN)/ruff format):" >&2; \
		$(BIN)/ruff format --check .; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

mutants: install  ## take out each guard of delivery: its tests must fail
	@$(BIN)/python -m tests.mutations.check

bench: install  ## measure beside a ProcessPoolExecutor (OPTIONS="--quick --database sqlite")
	@$(BIN)/python -m bench $(OPTIONS)
	@[ -n "$(OPTIONS)" ] || $(BIN)/python -m bench.live_prediction

# What takes a few minutes of all tests, for longer: 200 kills on each store in an hour.
SOAK_MINUTES = 60
SOAKED = tests/e2e/test_kill_server.py tests/e2e/test_model_http.py tests/store/test_model.py \
	tests/store/postgres/test_model.py tests/store/postgres/test_model_two.py

soak: install  ## kill servers, and run the model beside them, for SOAK_MINUTES=60
	@TASK_SERVER_KILL_ROUNDS=$$(( ($(SOAK_MINUTES) * 2 + 2) / 3 )) \
		TASK_SERVER_MODEL_SECONDS=$$(( $(SOAK_MINUTES) * 10 )) \
		TASK_SERVER_MODEL_RUNS=$$(( $(SOAK_MINUTES) * 17 )) \
		$(BIN)/python -m pytest -v --log-level=INFO $(SOAKED)

LOCK = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url $(UPGRADE)

lock:  ## renew requirements/*.lock (UPGRADE=--upgrade for new versions)
	@$(LOCK) --extra all --group dev pyproject.toml -o requirements/dev.lock
	@$(LOCK) --extra all -c requirements/dev.lock pyproject.toml -o requirements/all.lock

clean:  ## remove caches and builds, not .venv
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests bench demo -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
