# make demo: the whole path on the embedded model and speech.   make test: everything that guards the project.
PYTHON ?= python3
STUDY ?= demo
PORT ?= 5000
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: demo test ui clean

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

demo: .venv
	$(BIN)/python run_sweep.py --space demo --trials 8
	$(BIN)/python compare.py --study demo

# Files go to the processes in their own order: the slow ones have few tests, and would come last.
test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Started in the study's folder, because artifact locations are stored relative to it. One worker and no job
# runner: 0.5 GB and 6 s instead of 2.1 GB and 15 s.
ui: .venv
	@echo "the run table: http://127.0.0.1:$(PORT)/#/experiments/1/runs?viewStateShareKey=sweep"
	cd results/$(STUDY) && MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(CURDIR)/$(BIN)/mlflow server --workers 1 \
		--host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///mlflow.db --default-artifact-root artifacts

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
