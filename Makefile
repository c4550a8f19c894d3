PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= results

.PHONY: demo test test-fast lint types setup notebooks clean

# Everything is installed from pyproject.toml at the versions of constraints.txt.
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch numpy
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,procgen,wandb]"
	touch $@

# The paper's grid, small: two variants, two seeds, 40,960 steps each; then a figure from its rows.
demo: setup
	$(BIN)/python -m lop_ray.tune ant_grid --variants std,cbp --seeds 0,1 --total-steps 40960 \
		--set ant.num_envs=8 --results $(RESULTS)/demo
	$(BIN)/python -m lop_ray.figure ant_grid --results $(RESULTS)/demo --out $(RESULTS)/demo/ant_grid.png

test: lint types test-fast
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Executes the notebooks on the results at RESULTS, in place.
notebooks: setup
	$(BIN)/python notebooks/execute.py notebooks/ant.ipynb notebooks/paper_figures.ipynb --results $(RESULTS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
