# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types install bench bench-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train two networks, align them, fuse them, compare (about half a minute)"
	@echo "make test     run the tests and the examples in the docstrings"
	@echo "make install  install jaxfuse with everything needed to work on it"
	@echo "make lint     check style and format; make types checks the types"
	@echo "make bench    measure kernels and alignments beside other libraries (BENCH_ARGS=--quick: small)"
	@echo "make bench-check  compare a quick run's ratios to peers with the stored ones (UPDATE=1: store)"

demo: $(VENV)/.user
	$(BIN)/jaxfuse demo

# Compiling takes most of the time of the tests, so they compile without XLA's optimisations. A flag
# that XLA does not know ends the process, and the last one may go: it is tried first.
PLAIN := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
PLAINER := $(PLAIN) --xla_cpu_use_fusion_emitters=false
test: $(VENV)/.developer
	if [ -z "$$XLA_FLAGS" ]; then export XLA_FLAGS="$(PLAIN)"; \
	  if XLA_FLAGS="$(PLAINER)" $(BIN)/python -c "import jax; jax.devices()" 2>/dev/null; \
	  then export XLA_FLAGS="$(PLAINER)"; fi; fi; \
	$(BIN)/python -m pytest -n 2 --dist loadscope $(PYTEST_ARGS)

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developer
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(VENV)/.developer

bench: $(VENV)/.developer
	$(BIN)/jaxfuse bench --suite all --json dist/bench.json --html dist/bench.html $(BENCH_ARGS)

# Ratios to peers in the same run, never absolute times; fails beyond the stored margin.
bench-check: $(VENV)/.developer
	$(BIN)/jaxfuse bench --suite check $(if $(UPDATE),--update)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.developer: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev,notebooks,bench]"
	touch $@ $(VENV)/.user
