# `make demo` and `make test` need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
BIN := .venv/bin
# setuptools tells every editable installation to beware of folders of the package's name.
PIP := PYTHONWARNINGS="ignore:Editable installation" $(BIN)/pip
# Files stay whole, in their order: what a file's tests share is made once, and long files do not come last.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# A clip that the mean of the frozen encoders gets wrong, and the rounds right: chosen for that among the seeds 1 to 299.
SEED := 30
LABELS := a red cross moving right,a red cross moving in a circle,a red ring shaking,a blue heart moving in a circle,a cyan ring shaking

.PHONY: demo test test-slow test-conformance lint clean

demo: .venv/installed-plot
	$(BIN)/sen world demo --split test --num 1 --objects 3 --hops 2 --seed $(SEED)
	$(BIN)/sen classify demo/videos/000000.mp4 --plot demo/rounds.png --labels "$(LABELS)"
	@echo "picture: demo/rounds.png"

test: .venv/installed-dev
	$(BIN)/python -m pytest -q $(PARALLEL)

# Tests that take minutes. SEN_REAL_MODELS=FOLDER names trained encoders (tests/real_models.py) for tests/test_real_*.py.
test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -q -m slow --timeout 1800

# Transformers' own tests of its models, of the installed version; needs the package index.
test-conformance: .venv/installed-conformance
	$(BIN)/python tests/conformance/fetch_transformers_tests.py
	$(BIN)/python -m pytest -q tests/conformance -m ""

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p modeling_sen

.venv/installed-torch:
	$(PYTHON) -m venv .venv
	$(PIP) install -q --upgrade pip
	$(PIP) install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	touch $@

.venv/installed-plot: .venv/installed-torch pyproject.toml
	$(PIP) install -q -e ".[plot]"
	touch $@

.venv/installed-dev: .venv/installed-plot
	$(PIP) install -q -e ".[dev]"
	touch $@

.venv/installed-conformance: .venv/installed-dev
	$(PIP) install -q "parameterized>=0.9" "setuptools>=77"
	touch $@

clean:
	rm -rf .venv .conformance demo
