PYTHON ?= python3
STUDY ?= demo
RESULTS ?= results
PORT ?= 5000
BIN := .venv/bin
# Tests that start no sweep, train nothing and create no MLflow database.
FAST := tests/spec tests/model_size tests/evaluation tests/docs tests/test_command_line.py tests/records/test_study_folder.py \
	tests/compare/test_alignment.py tests/compare/test_statistics.py tests/data/test_splits.py
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: help demo test test-fast lint typecheck docs ui clean
.DEFAULT_GOAL := help

help: ## List these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-11s %s\n", $$1, $$2}'

# The environment, as constraints.txt pins it. Set TORCH to install another build first, for example one for CUDA.
.venv: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(or $(TORCH),$(shell grep '^torch==' constraints.txt))
	$(BIN)/pip install --quiet --editable . --constraint constraints.txt
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev,tools,publish,app]' --constraint constraints.txt
	$(BIN)/pip install --quiet --no-deps 'openai-whisper==20250625' # which asks for triton, and runs without
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --editable '.[docs]' --constraint constraints.txt
	touch $@

demo: .venv ## Run a sweep of 8 trials and 4 baselines on the embedded model and speech, then compare
	$(BIN)/python run_sweep.py --space demo --trials 8
	$(BIN)/python compare.py --study demo

lint: .venv/installed-dev ## Check style, format and the import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: .venv/installed-dev ## Check types with mypy
	$(BIN)/mypy

# Files go to the processes in their own order: the slow ones have few tests, and would come last.
test: lint typecheck ## Run lint, typecheck and all tests
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-fast: .venv/installed-dev ## Run the tests that start no sweep and train nothing
	$(BIN)/pytest --numprocesses auto --dist loadfile -m "not slow" $(FAST)

docs: .venv/installed-docs ## Generate the reference pages and build the site into site/
	for page in cli_reference configuration_table schemas; do $(BIN)/python -m tools.$$page || exit 1; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Started in the study's folder, because artifact locations are stored relative to it. One worker and no job
# runner: 0.5 GB and 6 s instead of 2.1 GB and 15 s.
ui: .venv ## Open the runs of STUDY (in RESULTS) in MLflow, on this machine only
	@echo "the run table: http://127.0.0.1:$(PORT)/#/experiments/1/runs?viewStateShareKey=sweep"
	cd "$(RESULTS)/$(STUDY)" && MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(CURDIR)/$(BIN)/mlflow server --workers 1 \
		--host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///mlflow.db --default-artifact-root artifacts

clean: ## Remove the environment and the caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
