# FailCore: `make demo` and `make test` set up all they need. See CONTRIBUTING.md.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
DATA   := failcore.data
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RUST_SOURCES   := $(shell find crates -name '*.rs' -o -name 'Cargo.toml' -o -path '*/src/*' -type f) \
                  Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -type f -not -path '*/__pycache__/*' -not -name '*.so' 2>/dev/null) \
                  pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help build demo test test-rust test-python lint bench fuzz compat attack-long clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(VENV)/.installed ## Build the command and the wheel, and install them into .venv

demo: $(VENV)/.installed $(VENV)/.demo ## Run a real agent under a policy; see it confined, traced, replayed
	@$(BIN)/python demo/run.py

test: test-rust test-python ## Run every test that needs no more than this machine

test-rust: $(VENV)/.tools
	scripts/cargo-test

test-python: $(VENV)/.installed $(VENV)/.test $(VENV)/.demo
	$(BIN)/python -m pytest -n 3 --dist loadfile

lint: $(VENV)/.installed $(VENV)/.lint $(VENV)/.demo ## Check formats, lints, types, licences and layers
	cargo fmt --all --check
	PYO3_PYTHON=$(BIN)/python cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/lint

bench: $(VENV)/.installed ## Measure, and write docs/benchmarks*.md
	$(BIN)/python benches/run.py
	$(BIN)/python benches/kernel.py
	$(BIN)/python benches/network.py
	$(BIN)/python benches/recorded.py

fuzz: ## Fuzz every parser of bytes for a minute each (needs a nightly toolchain and cargo-fuzz)
	scripts/fuzz $(FUZZ_SECONDS)

compat: $(VENV)/.installed $(VENV)/.test ## Run CPython's own tests with and without the gate, on every CPython here
	$(BIN)/python tests/compat/run.py --all --write docs/compatibility.md $(if $(KEEP),--keep $(KEEP))

attack-long: $(VENV)/.installed $(VENV)/.test ## Run the attacks that take minutes
	FAILCORE_ATTACK_LONG=1 $(BIN)/python -m pytest tests/attacks

clean: ## Remove everything that was made here
	rm -rf $(VENV) .venv-bench .venv-bench-kernel .venv-bench-network .venv-bench-recorded $(DATA) $(TARGET) dist demo/run .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how .venv comes to be; each stamp is older than what it was made from only when that changed -------------

$(VENV)/.tools: scripts/venv scripts/requirements-build.txt
	scripts/venv $(PYTHON) $(VENV)
	$(BIN)/pip install -q -r scripts/requirements-build.txt
	@touch $@

$(VENV)/.demo: demo/requirements.txt | $(VENV)/.tools
	$(BIN)/pip install -q -r demo/requirements.txt
	@touch $@

$(VENV)/.test: tests/requirements.txt | $(VENV)/.tools
	$(BIN)/pip install -q -r tests/requirements.txt
	@touch $@

$(VENV)/.lint: scripts/requirements-lint.txt | $(VENV)/.tools
	$(BIN)/pip install -q -r scripts/requirements-lint.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.tools $(RUST_SOURCES) $(PYTHON_SOURCES) scripts/build
	scripts/build $(VENV)
	@touch $@
