# Everything runs in .venv, made by the first target that needs it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-slow test-slurm lint bench clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

## The main job: simulate, run on a local cluster, score against the truth. A second time does only what is missing.
demo: $(INSTALLED)
	test -e demo/demo.zarr || $(BIN)/braggflow simulate demo/demo.zarr
	$(BIN)/braggflow run configs/demo.yaml
	$(BIN)/braggflow score demo/runs/demo demo/demo.truth.zarr

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not slurm"

## As root, with SLURM installed: cluster/test-slurm.sh install
test-slurm: $(INSTALLED)
	$(BIN)/python -m pytest -m slurm tests/slurm

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
