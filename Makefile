# Everything runs in .venv, which the first target that needs it creates from the pinned constraints.
PYTHON ?= python3
METHOD ?= zero_shot,linear,blackvip,craft,pgn,vpt,lora,adapter,spt,full
DATASET ?= mini
SEEDS ?=
JOBS ?=
ARGS ?=
THREADS ?= 1

BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/.tools
BIOME := @biomejs/biome@2.6.8
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
WORKERS := --numprocesses auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install browser bench bench-whitebox bench-blackbox bench-data bench-pgn bench-driver bench-reports bench-scaling plan leaderboard test test-all test-long test-numeric lint lint-page format docs clean

help: ## Show the targets and their variables
	@echo "make TARGET [METHOD=lora] [DATASET=mini/digits] [SEEDS=0,1,2] [JOBS=2] [ARGS=\"method.rank=4 train.epochs=20\"]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

install: $(TOOLS) ## Create .venv, with what development needs

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "petlbench needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

$(TOOLS): $(READY)
	$(INSTALL) --editable '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib >/dev/null || true # tests start many processes, also where Python may write no bytecode
	@touch $@

bench: $(READY) ## Run METHOD on DATASET (default: seven methods and their references on mini; METHOD=all: every one), show and write the leaderboard; continues where it stopped
	@$(BIN)/petlbench bench method=$(METHOD) task=$(DATASET) $(if $(SEEDS),seeds=$(SEEDS)) $(ARGS) $(if $(JOBS),--jobs $(JOBS))

bench-whitebox: $(READY) ## Measure speed and memory of the white-box methods, with ARGS such as "--methods lora,vpt --json FILE"
	@$(BIN)/python -m benchmarks.whitebox $(ARGS)

bench-blackbox: $(READY) ## Measure a step of BlackVIP and CraFT, as released and here, with ARGS such as "--batch 16 --json FILE"
	@$(BIN)/python -m benchmarks.blackbox $(ARGS)

bench-pgn: $(READY) ## Measure what PGN's prompts cost in inference and training, with ARGS such as "--device cuda --batch 128 --json FILE"
	@$(BIN)/python -m benchmarks.pgn $(ARGS)

bench-data: $(READY) ## Measure the image store against a DataLoader, with ARGS such as "--count 50000 --json FILE"
	@$(BIN)/python -m benchmarks.data $(ARGS)

bench-driver: $(READY) ## Measure how long commands and imports take to start, with ARGS such as "--rounds 5 --json FILE"
	@$(BIN)/python -m benchmarks.driver $(ARGS)

bench-reports: $(READY) ## Measure leaderboard, validate, export and compare on many records, with ARGS such as "--count 2000 --json FILE"
	@$(BIN)/python -m benchmarks.reports $(ARGS)

bench-scaling: $(READY) ## Measure what a run costs beside its work with 1 to 8 workers, with ARGS such as "--executors local --json FILE"
	@$(BIN)/python -m benchmarks.scaling $(ARGS)

plan: $(READY) ## Show what bench would do
	@$(BIN)/petlbench plan method=$(METHOD) task=$(DATASET) $(if $(SEEDS),seeds=$(SEEDS)) $(ARGS)

leaderboard: $(READY) ## Write results/leaderboard.* and results/plots/ from all records
	@$(BIN)/petlbench leaderboard

browser: ## Install Debian's Chromium for the tests of the leaderboard page
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install --yes -qq --no-install-recommends chromium; }

test: $(TOOLS) ## Run the fast tests
	@$(BIN)/python -m pytest -q $(WORKERS)

test-long: $(TOOLS) ## Run what does not fit into the time of .ci/run: further interrupted runs and clusters, every figure of bench-driver
	@$(BIN)/python -m pytest -q $(WORKERS) -m long

test-all: $(TOOLS) ## Run all tests, also those that take minutes
	@$(BIN)/python -m pytest -q $(WORKERS) -m "not long"

test-numeric: $(TOOLS) ## Run the tests whose numbers depend on the processor, with THREADS threads; ATEN_CPU_CAPABILITY=default or avx2 picks the kernels
	@$(BIN)/python -m pytest -q $(WORKERS) -m numeric --threads $(THREADS)

lint: $(TOOLS) ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lint-page: ## Check the script and style of the leaderboard page with biome, which npm fetches once
	@npx --yes $(BIOME) check

format: $(TOOLS) ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(TOOLS) ## Build the documentation site into site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean: ## Remove .venv and build products, keep results
	rm -rf .venv build dist site *.egg-info
