# make demo: install serpipe, then extract, fit, report and predict on the built-in sample, offline.
# make test: install everything, then run the tests.
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
SITE := .site
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
# Every installation, the build environment included, uses the tested versions and no others.
# The path is relative because pip would split an absolute one at a space.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first Python on the PATH that is supported, empty if there is none. `make PYTHON=...` names one.
SUPPORTED := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
NO_PYTHON = $(or $(PYTHON),the PATH): no Python 3.11 to 3.14 with its module venv; install one \
	(on Debian with python3-venv), or name one: make PYTHON=/path/to/python3

.PHONY: help demo test lint format bench-gpu leaderboard site check-wheel clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { echo "make: $(NO_PYTHON)" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(RUNTIME)
	mkdir -p $(DEMO)
	cd $(DEMO) && HF_HUB_OFFLINE=1 ../$(BIN)/serpipe extract --data sample --encoder whisper-tiny.en
	cd $(DEMO) && ../$(BIN)/serpipe fit
	cd $(DEMO) && ../$(BIN)/serpipe report
	cd $(DEMO) && ../$(BIN)/serpipe predict ../corpora/sample/Actor_01/03-01-05-01-01-02-01.flac

# One worker more than cores: many tests wait for a process or a timer.
WORKERS ?= $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# make lint: check style, formatting, types, the Dockerfile and the entries of the leaderboard.
# mypy finds packages by folder name, and the package is the checkout itself, which may have any
# name: hence the link.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/src && ln -sfn $(CURDIR) $(VENV)/src/serpipe
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p serpipe --exclude '^build/'
	$(BIN)/hadolint Dockerfile
	$(BIN)/python docs/make_leaderboard.py --check

# make format: format the code and apply automatic fixes.
format: $(INSTALLED)
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make site: build the documentation in .site/, with the reference of commands and Python; warnings are errors.
site: $(INSTALLED)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d $(SITE)/doctrees docs $(SITE)/html

# make leaderboard: check the entries in leaderboard/ and write docs/leaderboard.md.
leaderboard: $(INSTALLED)
	$(BIN)/python docs/make_leaderboard.py

# make check-wheel: build the distributions, and use the wheel without the checkout, also with the lowest versions.
check-wheel: $(BIN)/python
	$(BIN)/python -m pip install --quiet build twine uv
	.ci/check-wheel

# make bench-gpu: prove and measure the GPU path on a machine with one, into .bench-gpu/.
bench-gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py --out .bench-gpu
	$(BIN)/python benchmarks/gpu_table.py .bench-gpu

# make clean: remove everything that these targets create.
clean:
	rm -rf $(VENV) $(DEMO) $(SITE) docs/reference build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
