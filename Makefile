# make demo: set all up, then extract, fit, report and predict on the built-in sample, offline.
# make test: set all up, then run the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
INSTALLED := $(VENV)/.installed
# For every install, the build's own included: the tested versions and no others.
# Not by its whole path: pip would split that at a space.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint format docs clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	mkdir -p $(DEMO)
	cd $(DEMO) && HF_HUB_OFFLINE=1 ../$(BIN)/serpipe extract --data sample --encoder whisper-tiny.en
	cd $(DEMO) && ../$(BIN)/serpipe fit
	cd $(DEMO) && ../$(BIN)/serpipe report
	cd $(DEMO) && ../$(BIN)/serpipe predict ../corpora/sample/Actor_01/03-01-05-01-01-02-01.flac

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# make lint: check style, formatting, types and the Dockerfile.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/src && ln -sfn $(CURDIR) $(VENV)/src/serpipe
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p serpipe --exclude '^build/'
	$(BIN)/hadolint Dockerfile

# make format: put the code in form.
format: $(INSTALLED)
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make docs: write docs/reference.md anew from the code.
docs: $(INSTALLED)
	$(BIN)/python docs/make_reference.py > docs/reference.md

# make clean: remove what the above has made.
clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
