# Everything runs from .venv, made from pyproject.toml with the pins of
# constraints.txt. `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
BAZEL ?= bazel
CORPUS ?=
BIN := .venv/bin

.PHONY: venv demo test lint bench bazel-test clean

venv: .venv/stamp

.venv/stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# CORPUS: text files, for instance CORPUS='books/*.txt'; without it the demo reads
# a text that ships with Python.
demo: .venv/stamp
	$(BIN)/keras-gpt demo --output=build/demo $(if $(CORPUS),--corpus='$(CORPUS)')

test: .venv/stamp
	$(BIN)/pytest -n 2

# mypy sees the package as it installs: export/ and tools/ below keras_gpt/.
lint: .venv/stamp
	$(BIN)/ruff check .
	rm -rf build/types && mkdir -p build/types
	cp -R keras_gpt build/types/
	cp -R export tools build/types/keras_gpt/
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml \
	  --cache-dir ../mypy -p keras_gpt

bench: .venv/stamp
	$(BIN)/keras-gpt benchmark

bazel-test: .venv/stamp
	BAZEL='$(BAZEL)' .ci/bazel_offline test //:all

clean:
	rm -rf build dist .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
