# Each target makes its .venv when it is missing, and does nothing twice.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.PHONY: demo test test-slow lint bench docs clean

$(VENV)/.stamp: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# What the project does, on the zoo that comes with it.
demo: $(VENV)/.stamp
	$(PY) examples/demo.py

test: $(VENV)/.stamp
	$(PY) -m pytest

test-slow: $(VENV)/.stamp
	$(PY) -m pytest -m slow

# mypy reads the package as it is installed, where builders/ and training/ are phasezoo.builders and phasezoo.training.
lint: $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build
	$(PIP) install --quiet --no-deps --target build/typed .
	cd build/typed && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml -p phasezoo

# All benchmarks side by side with their peers, into one table; ends with status 1 if a bar is missed.
bench: $(VENV)/.stamp
	$(PY) benchmarks/table.py

# What follows from the code is written into the pages first. Broken links and missing pages are errors.
docs: $(VENV)/.stamp
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	$(PY) docs/scripts/generate.py
	rm -rf build
	$(PIP) install --quiet --no-deps --target build/documented .
	$(PY) -m mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
