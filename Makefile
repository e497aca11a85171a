# `make demo` and `make test` need Python 3.11-3.13 and git, and nothing else; the first one run makes .venv.
.DEFAULT_GOAL := help
.PHONY: help setup native demo test test-all check sanitize bench clean

VENV := .venv
RUN := $(VENV)/bin/python

help:
	@echo "make demo      four acts on real source code: sets up, shows, predicts, trains, measures; ends in a report"
	@echo "make test      sets up and runs every test (CPU)"
	@echo "make test-all  every test on each supported Python, with the oldest and the newest torch"
	@echo "make check     formatting, lint, types, import layers, spelling and the fast tests"
	@echo "make native    builds the native kernels of this tree, after the first time only what changed"
	@echo "make sanitize  the native kernels under AddressSanitizer and UBSan, and their tests"
	@echo "make bench     the figures that the project states, measured here"
	@echo "make clean     removes what these commands made, .venv included"

setup:
	@python=$$(PYTHON="$(PYTHON)" sh scripts/python.sh) && "$$python" scripts/setup_env.py --venv $(VENV)

native: setup
	@$(RUN) scripts/native.py

demo: setup
	@$(RUN) -m openwork demo

# one thread for each of the two workers: the tests are many and small
test: setup
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2
	@OMP_NUM_THREADS=1 $(RUN) scripts/other_transformers.py -n 2 -k "architectures or packing or table"

check: setup
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@git ls-files -z | xargs -0 $(VENV)/bin/codespell
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 -m "not slow and not gpu"

sanitize: setup
	@$(RUN) scripts/sanitize.py

test-all:
	@python=$$(PYTHON="$(PYTHON)" sh scripts/python.sh) && "$$python" scripts/test_all.py

bench: setup
	@$(RUN) -m benchmarks

clean:
	@rm -rf $(VENV) .venvs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -rf .import_linter_cache openwork-demo src/openwork/_native*.so
	@cd csrc && rm -rf CMakeCache.txt CMakeFiles CMakeInit.txt *.cmake *.a build.ninja .ninja_*
	@find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
