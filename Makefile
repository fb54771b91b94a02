PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint faults fuzz bench clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[offline,openvino,demo,export,serve,dev]'
	touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/unfreeze demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers halve the time on two cores; each holds a backbone or two in memory.
test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# Every place where a command writes: about half an hour on a quiet machine.
faults: setup
	rm -rf build/faults
	$(BIN)/python tests/faults/faults.py build/faults

# Seconds for each target; TARGETS="csv image" runs those alone.
FUZZ_SECONDS ?= 600

fuzz: setup
	$(BIN)/python -m pip install --quiet -e '.[fuzz]' || true
	$(BIN)/python tests/fuzz/long.py --seconds $(FUZZ_SECONDS) $(TARGETS)

bench: setup
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
