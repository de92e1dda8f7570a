# make train, test, lint, docs, tour: each sets up .venv first, and does so once
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint docs tour slides

train: .venv/.installed
	$(BIN)/python train.py $(ARGS)

# The programs that the tests start compile this package once, whatever the environment says.
test: .venv/.installed
	unset PYTHONDONTWRITEBYTECODE; OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(ARGS)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# the site: docs/_build/html/index.html; a warning is an error
docs: .venv/.installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky \
		-d docs/_build/doctrees docs docs/_build/html

# runs the notebook again and stores its results
tour: .venv/.installed
	$(BIN)/jupyter execute --inplace docs/tour.ipynb

# the talk as outputs/slides.pdf: needs Node.js 18 or newer and Chrome, Chromium, Edge or Firefox
slides:
	npx --yes @marp-team/marp-cli@4.5.1 docs/slides.md --pdf --allow-local-files \
		--output outputs/slides.pdf

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev,docs,launchers,onnx,parquet]"
	touch $@
