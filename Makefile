# Each target sets up what it needs: a bare machine with Python 3.11 or newer is enough.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# uv resolves and unpacks torch in a fraction of pip's time; pip remains the fallback.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mmadapt needs Python 3.11 or newer; try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || touch $(BIN)/pip-only

INSTALL = if test -x $(BIN)/uv; then $(BIN)/uv pip install --quiet --python $(BIN)/python $(1); else $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1); fi

$(VENV)/.run: pyproject.toml | $(BIN)/uv
	@echo "installing mmadapt into $(VENV) (several GB the first time)"
	@$(call INSTALL,-e .)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/uv
	@echo "installing mmadapt with its development tools into $(VENV) (several GB the first time)"
	@$(call INSTALL,-e '.[dev]')
	@touch $@ $(VENV)/.run

install: $(VENV)/.run  ## make .venv and install the package

dev: $(VENV)/.dev  ## the same with the development tools

run: $(VENV)/.run  ## run the embedded default experiment: make run ARGS="method=tip_adapter_f shots=4"
	@$(BIN)/python -m mmadapt $(ARGS)

test: $(VENV)/.dev  ## run the quick tests
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-all: $(VENV)/.dev  ## run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

smoke: $(VENV)/.run  ## one quick run of each method on rendered images
	$(BIN)/python -m mmadapt -m sweep=quick tag=smoke overwrite=true $(ARGS)
	$(BIN)/python -m mmadapt.collect multirun/smoke

table: $(VENV)/.run  ## print the tables of multirun/main
	@$(BIN)/python -m mmadapt.collect $(or $(ARGS),multirun/main)

lint: $(VENV)/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure the claims of speed, in about a quarter of an hour
	@$(BIN)/python -m benchmarks $(ARGS)

wheel: $(VENV)/.dev  ## build the wheel, conf/ included
	$(BIN)/python -m build --wheel --outdir dist .

clean:  ## remove what make made, results excepted
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install dev run test test-all smoke table lint format bench wheel clean
