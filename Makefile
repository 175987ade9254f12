# `make demo` and `make test` need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

demo: .venv/installed-plot
	$(BIN)/sen world demo --split test --num 3 --seed 1
	$(BIN)/sen classify demo/videos/*.mp4 --labels-file docs/demo_labels.txt --top-k 3 --plot demo/classification.png
	@echo "picture: demo/classification.png"

test: .venv/installed-dev
	$(BIN)/python -m pytest -q

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -q -m slow --timeout 1800

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p modeling_sen

.venv/installed-torch:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	touch $@

.venv/installed-plot: .venv/installed-torch pyproject.toml
	$(BIN)/pip install -q -e ".[plot]"
	touch $@

.venv/installed-dev: .venv/installed-plot
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo
