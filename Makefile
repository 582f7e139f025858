# Everything runs in .venv, made by the first target that needs it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

PYTHONS := 3.12 3.13

.PHONY: demo test test-faults test-docs test-slow test-ends test-kills test-wheel test-browser test-slurm test-slurm-slow fuzz fuzz-guarded fuzz-odd test-minimum minimum \
        test-pythons $(PYTHONS:%=test-python-%) lint bench mutants \
        bench-peers gpu test-exchange docs clean

# uv installs in seconds what takes pip minutes; it looks for wheels where pip is told to. It compiles modules, as pip
# does: where Python may not keep what it compiles (PYTHONDONTWRITEBYTECODE), each process would do it anew, for seconds.
UV = $(BIN)/uv pip install --quiet --compile-bytecode $(addprefix --find-links ,$(PIP_FIND_LINKS)) --python
DEVELOPED := --constraint constraints.txt --editable ".[dev]"

# pip where uv cannot: it knows no index that only pip's own settings name.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(UV) $(BIN)/python $(DEVELOPED) || $(BIN)/python -m pip install --quiet $(DEVELOPED)
	$(BIN)/python -c "from braggflow.pipeline import compile_ahead; compile_ahead(); \
	    from braggflow.selfcheck import compile_check; compile_check()"
	touch $@

## The main job: simulate, run on a local cluster, score against the truth. A second time does only what is missing.
demo: $(INSTALLED)
	test -e demo/demo.zarr || $(BIN)/braggflow simulate demo/demo.zarr
	$(BIN)/braggflow run configs/demo.yaml
	$(BIN)/braggflow score demo/runs/demo demo/demo.truth.zarr

# Two at a time, each file of tests by one process. Much that fails has one reason, and may take long.
AT_ONCE := -n 2 --dist loadfile --maxfail=20

test: $(INSTALLED)
	$(BIN)/python -m pytest $(AT_ONCE)

## Runs that are killed, stopped, starved of room or workers, or meet data sets that are odd
test-faults: $(INSTALLED)
	$(BIN)/python -m pytest $(AT_ONCE) -m "faults and not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not slurm"

## A run that is stopped at 40 random moments, on a terminal.
test-ends: $(INSTALLED)
	$(BIN)/python -m pytest -m slow tests/flow/test_ends.py

## A run or conversion that is killed in any way at 40 random moments: KILLS=200, or KILLS="20 100" for those from the 100th on
KILLS := 40
test-kills: $(INSTALLED)
	BRAGGFLOW_KILLS="$(KILLS)" $(BIN)/python -m pytest -m slow tests/flow/test_kills.py

## The README's first page from an installed wheel alone, in an environment of its own
test-wheel: $(INSTALLED)
	$(BIN)/python -m pytest -m slow tests/test_package.py

## Every command and every block of Python of README and documents, and the notebooks
test-docs: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m documents tests/test_documents.py tests/test_site.py

## As root, with SLURM installed: cluster/test-slurm.sh install
test-slurm: $(INSTALLED)
	$(BIN)/python -m pytest -m "slurm and not slow" tests/slurm

## The slow ones of these: a check whose imports are slow, a run in a container on whole nodes, one in an allocation
test-slurm-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slurm and slow" tests/slurm

## The pages in a real Chromium, which is installed by tests/view/install-chromium.sh; pictures of them in build/pictures
test-browser: $(INSTALLED)
	$(BIN)/python -m pytest -m browser tests/view

## Files that are cut off, damaged or lie about themselves: none may do more harm than to be refused. FUZZ="--first 2000"
## for others, "--case 42" for one
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz $(FUZZ)

## Frames stores and run folders whose files are changed, cut off or removed: each is named, or does no harm.
## FUZZ="--first 2000" for others
fuzz-guarded: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.guarded $(FUZZ)
## Configurations and profiles, stores and run folders that are odd in ways drawn at random: none may stop others, or be met
## by more than our messages. ODD="0 20000" for other cases
ODD := 0 2000
fuzz-odd: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.settings_files $(ODD)
	$(BIN)/python -m tests.fuzz.data_sets $(ODD)

MUTANTS := build/mutants

$(MUTANTS)/venv/installed: | $(INSTALLED)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet cosmic-ray==8.7.0
	$(BIN)/python -m pip install --quiet --target $(@D)/coverage coverage==7.17.5
	touch $@

## Small random changes of the code, one at a time: do the tests notice? Those that they do not are listed. Hours.
## MUTATE="--number 40 --rooms results" for fewer
mutants: $(MUTANTS)/venv/installed
	$(BIN)/python -m tests.mutants $(MUTATE)

# Every dependency is used, a run on a local cluster included.
SHORT := tests/test_config.py tests/test_peak_table.py tests/frames/test_store.py tests/frames/test_opening.py \
         tests/frames/test_reader.py tests/results tests/detect/test_cut.py \
         tests/exchange/test_formats.py tests/locate/test_networks.py tests/cluster/test_connect.py \
         tests/flow/test_running.py::test_a_run_leaves_the_table_the_settings_and_what_happened
MINIMUM := build/minimum

$(MINIMUM)/installed: pyproject.toml constraints-minimum.txt | $(INSTALLED)
	test -x $(@D)/venv/bin/python || $(PYTHON) -m venv $(@D)/venv
	$(UV) $(@D)/venv/bin/python --constraint constraints-minimum.txt --editable ".[test]"
	touch $@

## A short part of the suite with the lowest versions that pyproject.toml allows, on Python 3.11. They meet newer
## releases of what they need in turn, whose deprecations are no failures.
test-minimum: $(MINIMUM)/installed
	$(<D)/venv/bin/python -m pytest -W default::DeprecationWarning -W default::PendingDeprecationWarning $(AT_ONCE) $(SHORT) tests/formats

## constraints-minimum.txt anew, after a minimum in pyproject.toml changed. torch is the build of constraints.txt:
## others come with gigabytes of CUDA's libraries.
minimum: $(INSTALLED)
	mkdir -p $(MINIMUM)
	grep '^torch==' constraints.txt > $(MINIMUM)/torch.txt
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 \
	    --resolution lowest-direct --override $(MINIMUM)/torch.txt --extra test pyproject.toml \
	    --output-file $(MINIMUM)/all.txt
	(echo '# The lowest versions that pyproject.toml allows, and all that they need (Python 3.11): `make minimum`.' && \
	 grep -vE '^(cuda|nvidia|triton)' $(MINIMUM)/all.txt) > constraints-minimum.txt

## A short part of the suite on every other Python that is at hand
test-pythons: $(PYTHONS:%=test-python-%)

# Python $*, by that name or kept by pyenv, whose commands of that name may do nothing
FOUND = $(shell for found in python$* "$$(pyenv prefix $* 2>/dev/null)/bin/python"; do \
                    "$$found" -c "" 2>/dev/null && echo "$$found" && break; done)

build/python-%/installed: pyproject.toml constraints.txt | $(INSTALLED)
	test -x $(@D)/venv/bin/python || $(FOUND) -m venv $(@D)/venv
	$(UV) $(@D)/venv/bin/python --constraint constraints.txt --editable ".[test]"
	touch $@

$(PYTHONS:%=test-python-%): test-python-%:
	$(if $(FOUND),$(MAKE) build/python-$*/installed && build/python-$*/venv/bin/python -m pytest $(AT_ONCE) $(SHORT), \
	    @echo "python$* is not found: nothing is tested with it")

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

EXCHANGE := build/exchange

$(EXCHANGE)/installed: pyproject.toml constraints.txt tests/exchange/requirements.txt | $(INSTALLED)
	test -x $(@D)/venv/bin/python || $(PYTHON) -m venv $(@D)/venv
	grep '^torch==' constraints.txt > $(@D)/torch.txt
	$(UV) $(@D)/venv/bin/python --constraint $(@D)/torch.txt --editable ".[test,table]" --requirement tests/exchange/requirements.txt
	$(UV) $(@D)/venv/bin/python --no-deps midas-peakfit==0.8.0
	touch $@

## Other programs read what is written for them, with their own readers: docs/exchange.md
test-exchange: $(EXCHANGE)/installed
	$(<D)/venv/bin/python -m pytest tests/exchange

## All benchmarks, or NAMES="flow fit": tables in docs/benchmarks.md and docs/benchmarks.json
bench: $(INSTALLED)
	$(BIN)/python benchmarks/harness.py $(NAMES)
	$(BIN)/python benchmarks/bench_scheduler.py

GPU := build/gpu
# A Python that was named is taken as it is, with what WHEELS, a folder, adds to it; else .venv's.
GPU_PYTHON := $(if $(filter command environment,$(firstword $(origin PYTHON))),$(PYTHON),$(BIN)/python)

$(GPU)/site: $(wildcard $(WHEELS)/*.whl)
	rm -rf $@ && mkdir -p $@
	$(if $(WHEELS),$(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target $@ $(WHEELS)/*.whl)

## Tests and benchmarks of the GPU, docs/gpu.md; without a GPU, whether all of that runs. `make gpu PYTHON=python3 WHEELS=FOLDER`
## needs no .venv: torch, numba-cuda and what docs/gpu.md names. OUT=FOLDER for the figures
OUT := $(GPU)
gpu: $(GPU)/site $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(INSTALLED))
	PYTHONPATH=$(GPU)/site:workflow $(GPU_PYTHON) benchmarks/gpu $(OUT) --keep $(KIT)

PEERS := build/peers
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

$(PEERS)/installed: pyproject.toml constraints.txt benchmarks/peers/requirements.txt benchmarks/peers/requirements-midas.txt
	test -x $(PEERS)/venv/bin/python || $(PYTHON) -m venv $(PEERS)/venv
	test -x $(PEERS)/midas/bin/python || $(PYTHON) -m venv $(PEERS)/midas
	$(PEERS)/venv/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	-$(PEERS)/venv/bin/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/peers/requirements.txt
	-$(PEERS)/venv/bin/python -m pip install --quiet --no-deps midas-peakfit==0.8.0
	-$(PEERS)/midas/bin/python -m pip install --quiet --requirement benchmarks/peers/requirements-midas.txt
	touch $@

## Other programs on the same frames, in environments of their own: docs/peers.md
bench-peers: $(PEERS)/installed
	$(ONE_THREAD) $(PEERS)/venv/bin/python -W ignore::UserWarning:ImageD11 benchmarks/bench_peers.py

SITE_INSTALLED := .venv/site-installed

$(SITE_INSTALLED): $(INSTALLED)
	$(UV) $(BIN)/python --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

## The documentation as a site: build/site/index.html. Notebooks, tutorial and gallery are run, the reference is made from the
## code; a broken link fails
docs: $(SITE_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
