PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Two workers halve the time on two cores; each holds a backbone or two in memory.
PYTEST_OPTIONS ?= -n auto --maxprocesses 4 --dist worksteal

.PHONY: setup demo test lint oldest audit faults fuzz bench clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[offline,openvino,demo,export,serve,s3,ray,dev]'
	touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/unfreeze demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest $(PYTEST_OPTIONS)

# All tests on the oldest version of everything that pyproject.toml allows. What those bring along is of today and says
# that it will change, so this is no error here as it is in the gate.
oldest: VENV = .venv-oldest
oldest:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/oldest.py > $(VENV)/oldest.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/oldest.txt \
		-e '.[offline,openvino,demo,hub,export,serve,s3,ray,dev]'
	$(BIN)/pytest $(PYTEST_OPTIONS) -W ignore::DeprecationWarning -W ignore::FutureWarning

# Known vulnerabilities in what VENV holds; VENV=.venv-oldest for the oldest versions. What could not be looked up does
# not pass for clean.
audit:
	test -x $(BIN)/python || $(MAKE) setup
	test -x .venv-audit/bin/pip-audit \
		|| { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet pip-audit; }
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	.venv-audit/bin/python tools/audit.py .venv-audit/bin/pip-audit $(VENV)/installed.txt

# Every place where a command writes: about half an hour on a quiet machine.
faults: setup
	rm -rf build/faults
	$(BIN)/python tests/faults/faults.py build/faults

# Seconds for each target; TARGETS="csv image" runs those alone.
FUZZ_SECONDS ?= 600

fuzz: setup
	$(BIN)/python -m pip install --quiet -e '.[fuzz]' || true
	$(BIN)/python tests/fuzz/long.py --seconds $(FUZZ_SECONDS) $(TARGETS)

# TEXTS (a Parquet file with the columns text and label) and WEIGHTS (DINOv2 ViT-S) are files that some benches need;
# without them these are left out. NAMES="beside-images startup" runs those alone.
DEVICE ?= cpu

bench: setup
	$(BIN)/python -m bench --device $(DEVICE) $(if $(TEXTS),--texts '$(TEXTS)') \
		$(if $(WEIGHTS),--weights '$(WEIGHTS)') $(NAMES)

clean:
	rm -rf $(VENV) .venv-oldest .venv-audit build dist .mypy_cache .ruff_cache .pytest_cache
