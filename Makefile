# make demo | test | check | bench | clean        (PYTHON=python3.12 to choose an interpreter)
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=
DEMO_ARGS ?=

.PHONY: demo test check format bench install clean help

help:
	@echo "make demo    two tenants, two encrypted adapters, one vLLM, on this machine"
	@echo "make test    every test, with a real engine, Postgres and the SDKs"
	@echo "make check   ruff, strict mypy, import contract"
	@echo "make bench   every benchmark, short"

install:
	@$(PYTHON) deploy/install.py

demo: install
	@$(BIN)/tensafe demo $(DEMO_ARGS)

test: install check
	@$(BIN)/python -m pytest $(TEST_ARGS)

check: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: install
	@$(BIN)/python -m benchmarks.overhead --quick
	@$(BIN)/python -m benchmarks.audit --quick

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
