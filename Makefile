# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEEPSPEED := $(VENV)/.deepspeed
CODE := src tests conversion training_scripts benchmarks examples

# One CPU thread per process keeps parallel test processes from fighting over the cores. DeepSpeed would print into the
# examples of docstrings that it looked for a GPU.
TEST = OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu $(BIN)/python -m pytest -q
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help install quickstart example-video example-objectives example-text example-vl example-rooms test test-commands test-hub test-distributed test-slow quality style bench bench-train models-table clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / - /'

install: $(STAMP)  ## create the virtual environment and install the package with its development tools

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e ".[dev]"
	touch $(STAMP)

# Only the long tests need it: it is an extra of the package, and takes seconds to import.
$(DEEPSPEED): $(STAMP)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e ".[dev,deepspeed]"
	touch $(DEEPSPEED)

quickstart: $(STAMP)  ## pretrain a tiny I-JEPA on bundled photographs, evaluate it, write pictures to runs/quickstart
	$(BIN)/hf-jepa quickstart --output-dir runs/quickstart

example-video: $(STAMP)  ## pretrain a tiny V-JEPA 2 on moving digits, probe it, surprise it; pictures in runs/video_digits
	$(BIN)/python examples/video_digits.py --output-dir runs/video_digits

example-objectives: $(STAMP)  ## every objective for images on one tiny encoder; table and picture in runs/compare_objectives
	$(BIN)/python examples/compare_objectives.py --output-dir runs/compare_objectives

example-text: $(STAMP)  ## a tiny language model with and without the JEPA term; table and pictures in runs/regex_pairs
	$(BIN)/python examples/regex_pairs.py --output-dir runs/regex_pairs

example-vl: $(STAMP)  ## a tiny VL-JEPA beside a language model on moving digits; table and picture in runs/vl_jepa_digits
	$(BIN)/python examples/vl_jepa_digits.py --output-dir runs/vl_jepa_digits

example-rooms: $(STAMP)  ## a tiny EB-JEPA plans its way through a door; table, pictures and animations in runs/two_rooms
	$(BIN)/python examples/two_rooms.py --output-dir runs/two_rooms

test: $(STAMP) quality  ## code quality, the default test-suite and the docstring examples
	$(TEST) -n 2 --dist loadfile --doctest-modules src/hf_jepa tests

test-distributed: $(DEEPSPEED)  ## training over several processes: DDP, DeepSpeed, FSDP2, resume, faults
	$(TEST) -n 2 --dist loadfile -m "distributed and not slow" tests

test-commands: $(STAMP)  ## every command of the documents, as they say it
	$(TEST) -m commands tests/docs

test-hub: $(STAMP)  ## publishing, loading and verifying against a Hub server on this machine
	HF_HUB_DISABLE_XET=1 $(TEST) -n 2 --dist loadfile -m "hub and not slow" tests

test-slow: $(DEEPSPEED)  ## the long tests only
	$(TEST) -m slow tests

quality: $(STAMP)  ## check formatting, lint, the dependency rule and MODELS.md
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/python -m hf_jepa.cli.models_table --check MODELS.md

style: $(STAMP)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

models-table: $(STAMP)  ## regenerate MODELS.md from the registry
	$(BIN)/python -m hf_jepa.cli.models_table MODELS.md

bench: $(STAMP) benchmarks/.site/timm  ## speed beside transformers, timm and the restated official algorithm
	$(BIN)/python benchmarks

bench-train: $(STAMP)  ## what the trainer adds to a training step beside a bare loop
	$(BIN)/python benchmarks --only train

# timm wants torchvision, whose CUDA wheels have no place in the package's environment: a folder of their own.
benchmarks/.site/timm:
	$(BIN)/python -m pip install --quiet --no-deps --target benchmarks/.site timm torchvision==0.28.0

clean:           ## remove what the targets above created
	rm -rf $(VENV) benchmarks/.site runs/quickstart runs/video_digits runs/compare_objectives runs/regex_pairs runs/vl_jepa_digits runs/two_rooms build .pytest_cache .ruff_cache .import_linter_cache
