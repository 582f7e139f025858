# Everything runs in .venv, made by the first target that needs it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-slow test-slurm lint bench bench-peers clean

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
	$(BIN)/lint-imports --no-cache

## All benchmarks, or NAMES="flow fit": tables in docs/benchmarks.md and docs/benchmarks.json
bench: $(INSTALLED)
	$(BIN)/python benchmarks/harness.py $(NAMES)
	$(BIN)/python benchmarks/bench_scheduler.py

PEERS := build/peers
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

$(PEERS)/installed: pyproject.toml constraints.txt benchmarks/peers/requirements.txt benchmarks/peers/requirements-midas.txt
	test -x $(PEERS)/venv/bin/python || $(PYTHON) -m venv $(PEERS)/venv
	test -x $(PEERS)/midas/bin/python || $(PYTHON) -m venv $(PEERS)/midas
	$(PEERS)/venv/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	-$(PEERS)/venv/bin/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/peers/requirements.txt
	-$(PEERS)/midas/bin/python -m pip install --quiet --requirement benchmarks/peers/requirements-midas.txt
	touch $@

## Other programs on the same frames, in environments of their own: docs/peers.md
bench-peers: $(PEERS)/installed
	$(ONE_THREAD) $(PEERS)/venv/bin/python -W ignore::UserWarning:ImageD11 benchmarks/bench_peers.py

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
