PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

.PHONY: demo test check format format-check lint type imports slow clean

demo: .venv/installed
	$(BIN)/posttrain run llm/arithmetic

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not gpu"

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

check: format-check lint type imports test

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: .venv/installed
	$(BIN)/ruff format --check .

lint: .venv/installed
	$(BIN)/ruff check .

type: .venv/installed
	$(BIN)/mypy --strict posttrain/regime posttrain/intervention
	$(BIN)/mypy posttrain control

imports: .venv/installed
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs
