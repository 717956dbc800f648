# make demo | test | lint | docs: each makes .venv, installs what it needs there, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP = $(VENV)/.installed-$(1)

.PHONY: demo test lint docs examples clean help

help:
	@echo "make demo      train, compare and draw on real photographs, in minutes, into runs/demo/"
	@echo "make test      the whole test suite"
	@echo "make lint      format, lint and type checks"
	@echo "make docs      the documentation site, strictly, into site/"
	@echo "make examples  every example in its small mode"

demo: $(call STAMP,demo)
	$(BIN)/kdinpaint demo $(ARGS)

test: $(call STAMP,test)
	$(BIN)/python -m pytest $(ARGS)

lint: $(call STAMP,test) $(call STAMP,lint)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(call STAMP,docs)
	$(BIN)/mkdocs build --strict --quiet

examples: $(call STAMP,test)
	for example in examples/*.py; do $(BIN)/python $$example --smoke || exit 1; done

# One rule for every extra: the environment, then the package with that extra.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "kdinpaint needs Python 3.10 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "could not make $(VENV); on Debian and Ubuntu install the package python3-venv first"; exit 1; }

clean:
	rm -rf $(VENV) site
