# Each target makes its .venv when it is missing, and does nothing twice.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.PHONY: demo test test-slow lint bench clean

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

bench: $(VENV)/.stamp
	$(PY) benchmarks/access.py
	$(PY) benchmarks/build.py
	$(PY) benchmarks/population.py
	$(PY) benchmarks/summary.py
	$(PY) benchmarks/landscape.py
	$(PY) benchmarks/remote.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
