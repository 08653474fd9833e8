VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
CONFIG      ?= litellm_config.yaml
PORT        ?= 4000
PYTHON      ?=
UV          ?= uv
MINUTES     ?= 10
RATE        ?= 4
FUZZ        ?= 200
BENCH       ?=
WORKERS     ?= 2
LITELLM     ?= 1.106.2 1.108.14 1.109.3 1.110.2

BIN         := $(VENV)/bin
EVAL        := build/eval
MATRIX      := build/matrix
UNPINNED    := certifi litellm-enterprise litellm-proxy-extras litellm-proxy;python_version<"3"
EVAL_PYTHON := $(EVAL)/venv/bin/python
# What runs, and with it what develops.
RUNS        := $(VENV)/.runs
STAMP       := $(VENV)/.installed
# What takes longest comes first, so that all workers end at the same time.
BEFORE_COMMIT := tests/proxy/test_proxy_policies.py tests/proxy/test_proxy_refusals.py tests/fuzz tests/unit
TESTS       := tests/proxy tests/services tests/browser tests/release tests/fuzz tests/unit
# All tests but those that meet no LiteLLM, or look at files alone.
MATRIX_TESTS := tests/release/test_stock_install.py $(filter-out $(patsubst %,\%/test_%.py, \
	dangerous_commands eval_rates layers path_patterns patterns performance_ratios policy_names same_decisions \
	shell_parsing sql_parsing), $(sort $(shell find tests/unit tests/proxy tests/services tests/browser -name 'test_*.py')))
NEW_ENOUGH  := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help install run test test-all test-matrix eval bench soak fuzz lint format dist release constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter, PORT=4001 and CONFIG=my.yaml what 'make run' serves."

install: $(STAMP) ## Create .venv with the package and its development tools
	@:

run: $(RUNS) ## Serve litellm_config.yaml with a scripted model, no key needed
	@exec $(BIN)/luthien-hooks demo --config $(CONFIG) --port $(PORT)

test: install ## Run what to run before each commit: unit tests, a little fuzzing, and a real proxy on all routes
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(BEFORE_COMMIT)

test-all: install ## Run all tests, as CI does
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(TESTS)

test-matrix: install ## Run the tests on several releases of LiteLLM, one after the other; LITELLM="1.106.2 1.106.5" names them
	@set -eu; mkdir -p $(MATRIX); printf '%s\n' $(foreach name,$(UNPINNED),'$(name)') >$(MATRIX)/unpinned.txt; \
	for version in $(LITELLM); do \
		venv=$(MATRIX)/$$version; \
		install="$(MAKE) --no-print-directory install UV=$(abspath $(BIN)/uv) VENV=$$venv CONSTRAINTS=$$venv.txt"; \
		test -f $$venv.txt || echo "litellm==$$version" >$$venv.txt; \
		$$install || { \
			echo "Again, with whatever version there is of what $$version pins and the index has not ..."; \
			export UV_OVERRIDE=$(abspath $(MATRIX))/unpinned.txt; $$install; \
		}; \
		echo "$$($$venv/bin/python --version) with" \
			$$($$venv/bin/uv pip freeze --python $$venv/bin/python | grep -E '^(certifi|litellm)'); \
		$$venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile -m 'stock or not stock' $(MATRIX_TESTS); \
		unset UV_OVERRIDE; \
	done

eval: install $(EVAL)/.installed ## Measure the presets on labelled tool calls of agentdojo and control-arena, and of our own
	@$(EVAL_PYTHON) -m eval.corpus >$(EVAL)/corpus.jsonl
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/python -m eval.own >$(EVAL)/own.jsonl
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/python -m eval.rates $(EVAL)/corpus.jsonl $(EVAL)/own.jsonl $(if $(VERBOSE),--verbose)

bench: install ## Measure what the plugin costs beside the stock proxy, in half an hour; BENCH=--quick in ten minutes
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/python -m benchmarks $(BENCH)
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/python -m benchmarks.starting
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/python -m pytest -o addopts= -q --disable-warnings \
		--benchmark-timer=time.process_time --benchmark-columns=median,min benchmarks/engine.py

soak: install ## Send mixed traffic with faults through a real proxy; MINUTES=3 and RATE=2 (a second) change the run
	@LITELLM_LOCAL_MODEL_COST_MAP=True $(BIN)/python -m soak --minutes $(MINUTES) --rate $(RATE)

fuzz: install ## Search for long for what breaks the executor or a decoder; FUZZ=2000 searches ten times as long
	@$(MAKE) --no-print-directory -j 2 fuzz-executor fuzz-decoders

# Each in a process of its own: pytest-xdist fails on a report that holds half of a surrogate pair.
fuzz-%:
	@FUZZ_FACTOR=$(FUZZ) $(BIN)/python -m pytest tests/fuzz/test_fuzz_$*.py

lint: install ## Check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

format: install ## Fix what can be fixed, and format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

dist: install ## Build the wheel and the sdist in dist, and the single file for hosted proxies, build/luthien.py
	@rm -rf dist
	@mkdir -p build
	@$(BIN)/python -m hatchling build -d dist
	@$(BIN)/python deploy/single_file.py dist/*.whl >build/luthien.py

release: install ## Check and build what is to be released, and say how to; nothing is tagged or uploaded
	@set -eu; version=$$($(BIN)/luthien-hooks --version); \
	grep -q "^## \[$$version\] - " CHANGELOG.md || { \
		echo "CHANGELOG.md has no '## [$$version] - DATE': name and date what stands under 'Unreleased'." >&2; exit 1; \
	}; \
	$(MAKE) --no-print-directory lint test-all dist; \
	if $(BIN)/python -m twine --version >/dev/null 2>&1; then $(BIN)/python -m twine check --strict dist/*; fi; \
	echo "Built and checked. To release: git tag v$$version && git push origin v$$version && twine upload dist/*"

constraints: ## Pin what a fresh install resolves to, in constraints.txt
	@set -eu; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(MAKE) --no-print-directory install VENV="$$dir/venv" CONSTRAINTS=/dev/null; \
	"$$dir/venv/bin/python" -c "$$LIST_VERSIONS" >"$$dir/constraints.txt"; \
	cp "$$dir/constraints.txt" constraints.txt
	@echo "Wrote constraints.txt"

clean: ## Remove .venv, caches and built files
	@rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNS): pyproject.toml $(CONSTRAINTS)
	@$(CREATE_VENV)
	@$(call INSTALL,the package,.)
	@touch $@

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(CREATE_VENV)
	@$(call INSTALL,the package and its development tools,.[dev],--compile-bytecode)
	@touch $(RUNS) $@

$(EVAL)/.installed: eval/requirements.txt | $(STAMP)
	@echo "Installing agentdojo and control-arena into $(EVAL)/venv; this takes a minute ..."
	@if $(UV) --version >/dev/null 2>&1; then \
		$(UV) venv --quiet --clear --python $(BIN)/python $(EVAL)/venv && \
		$(UV) pip install --quiet --no-deps --python $(EVAL_PYTHON) -r eval/requirements.txt; \
	else \
		$(BIN)/python -m venv --clear $(EVAL)/venv && \
		$(EVAL_PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps -r eval/requirements.txt; \
	fi
	@touch $@

# Leaves an environment that is there alone. $(PYTHON), where given, is the only one tried.
define CREATE_VENV
set -eu; \
if $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null; then exit 0; fi; \
for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	if "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
		echo "Creating $(VENV) with $$("$$python" --version)"; \
		if $(UV) --version >/dev/null 2>&1; \
		then exec $(UV) venv --quiet --clear --python "$$("$$python" -c 'import sys; print(sys.executable)')" $(VENV); \
		else exec "$$python" -m venv --clear $(VENV); \
		fi; \
	fi; \
done; \
echo "Python 3.11 or newer is needed, and $(or $(PYTHON),python3) is missing or older." >&2; \
echo "Install one and name it: make install PYTHON=/path/to/python3.12" >&2; \
exit 1
endef

# $(1) says what is installed, $(2) names it. uv takes seconds where pip takes minutes: one that is on the path, or else
# one of its own in $(VENV). pip is there for where uv is not, or cannot. $(3) compiles all ahead: the tests start LiteLLM
# some hundred times, also where Python may not write what it compiles; a single start needs a tenth of it.
define INSTALL
set -eu; uv=$(UV); \
if ! $$uv --version >/dev/null 2>&1; then \
	uv=$(abspath $(BIN))/uv; pin=$$(sed -n 's/^uv==/==/p' constraints.txt); \
	$$uv --version >/dev/null 2>&1 \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile "uv$$pin" || uv=; \
fi; \
echo "Installing $(1) into $(VENV) ..."; \
( n=0; while sleep 10 >/dev/null 2>&1; do n=$$((n + 10)); echo "... still installing, for $$n seconds"; done ) & clock=$$!; \
trap 'kill $$clock 2>/dev/null || true' EXIT; \
{ test -n "$$uv" && $$uv pip install --quiet --python $(BIN)/python -c $(CONSTRAINTS) $(3) -e '$(2)'; } \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(3),,--no-compile) -c $(CONSTRAINTS) -e '$(2)'; \
echo "Installed."
endef

define LIST_VERSIONS
from importlib.metadata import distributions
from re import sub
names = {sub("[-_.]+", "-", d.name).lower(): d.version for d in distributions()}
for own in ("luthien-litellm-hooks", "pip", "setuptools", "wheel"):
    names.pop(own, None)
print("# Written by 'make constraints': the versions a fresh install resolved to.")
print(*(f"{name}=={version}" for name, version in sorted(names.items())), sep="\n")
endef
export LIST_VERSIONS
