# Every target sets up what it needs in .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all suites hostile kills test-oldest test-newest lint types contracts check benchmark reference drawings docs clean

# The constraints pin what was tested; PyTorch is installed first so that its CPU build is kept.
.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

.venv/yolo: .venv/dev
	$(BIN)/python -m pip install -q -c constraints.txt torch torchvision
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[yolo]'
	touch $@

.venv/peers: .venv/dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[peers]'
	touch $@

.venv/openvino: .venv/dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[openvino]'
	touch $@

.venv/cluster: .venv/dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[cluster]'
	touch $@

.venv/docs: .venv/dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@

demo: .venv/yolo
	$(BIN)/graphopt demo

test: .venv/dev .venv/yolo .venv/peers .venv/openvino .venv/cluster
	$(BIN)/python -m pytest -q -n auto -m "not slow"

test-all: .venv/dev .venv/yolo .venv/peers .venv/openvino .venv/cluster
	$(BIN)/python -m pytest -q -n auto

# All of the suites, of which the tests run a sample: hours. Each goes on where it stopped.
# MODELS="FILE_OR_FOLDER ..." are mutated as well.
SUITES ?= build/suites
suites: .venv/dev .venv/peers
	mkdir -p $(SUITES)
	$(BIN)/python -m tests.suites nodes $(SUITES)/nodes-portable.jsonl --pipeline portable
	$(BIN)/python -m tests.suites nodes $(SUITES)/nodes-default.jsonl --pipeline default
	test -d $(SUITES)/models || $(BIN)/python -m tests.suites harvest $(SUITES)/models
	$(BIN)/python -m tests.suites attack $(SUITES)/attack.jsonl --models $(SUITES)/models $(addprefix --models ,$(MODELS))

# Hostile files: 10,000 damaged models, pipelines, plugins and feeds; CI takes a sample.
HOSTILE ?= 10000
hostile: .venv/dev
	$(BIN)/python tests/hostile/hostile.py --count $(HOSTILE)

# Runs killed with signal 9 at random moments; CI takes a sample.
KILLS ?= 50
kills: .venv/dev
	$(BIN)/python tests/hostile/killing.py --hits $(KILLS)

# A sample with the oldest versions that pyproject.toml names; and all with the newest.
test-oldest test-newest: .venv/dev
	$(BIN)/python -m nox -s $(@:test-%=%)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev .venv/yolo .venv/openvino .venv/cluster
	$(BIN)/pyright

contracts: .venv/dev
	$(BIN)/lint-imports

check: lint types contracts test

.venv/bench: .venv/peers
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	touch $@

# Small by default, and it goes on where it stopped. All of it, on an idle machine:
# make benchmark SIZES="1000 3000 10000 30000 100000" KINDS="chain fan-out concat branches nested" MODELS="..."
SIZES ?= 1000 3000 10000
KINDS ?= chain
MODELS ?=
benchmark: .venv/bench
	$(BIN)/python benchmarks/scale.py --sizes $(SIZES) --kinds $(KINDS) --json benchmarks/results/scale.json
	$(if $(MODELS),$(BIN)/python benchmarks/peers.py $(MODELS) --json benchmarks/results/peers.json)
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python docs/generate.py

reference: .venv/dev
	$(BIN)/python docs/generate.py

drawings: .venv/dev .venv/peers
	$(BIN)/python docs/generate.py --drawings

docs: .venv/docs
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv demo site
