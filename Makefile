# Two commands matter: `make demo` and `make test`. Everything they need goes into .venv, from
# whatever package index pip is configured for. Nothing here needs root.

VENV := .venv
BIN := $(VENV)/bin
# Give another with `make PYTHON=python3.12 …`; otherwise the first that is new enough is taken.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python)
PYTEST := $(BIN)/python -m pytest
# What tests could not run for lack of a tool is collected here and named at the end.
NOT_RUN := build/not-run
# They follow from the last commit that changed code: it runs seeds that nobody ran before, and is
# red or green, not sometimes one and sometimes the other.
SEED_BASE := $(or $(shell git log -1 --format=%ct -- '*.py' ':!tests' 2>/dev/null),$(shell date +%s))
SEEDS_1 ?= 2000
SEEDS_2 ?= 200

.PHONY: help demo test check simulate scenarios compose-test bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    eight processes, a volume, a kill, the repair and the verdict; about a minute'
	@echo 'make test    every gate and every test'
	@echo 'make check   the static gates only: format, lint, types, imports'
	@echo 'make simulate  seeds that nobody ran before, at both levels of the simulator; some minutes'
	@echo 'make scenarios  the library of scenarios: 20 seeds each on sim, all that can on processes; minutes'
	@echo 'make compose-test  eight nodes and a broker in containers, five scenarios; needs a Docker engine'
	@echo 'make bench   measure a running cluster beside other NBD servers; some minutes'
	@echo 'make clean   remove what the above made, except the results of measurements'

demo: $(VENV)/.installed
	@$(BIN)/eightfold demo

test: check simulate
	@mkdir -p $(dir $(NOT_RUN)) && rm -f $(NOT_RUN)
	EIGHTFOLD_NOT_RUN=$(NOT_RUN) $(PYTEST) -n 2 -m 'not processes and not interop'
	EIGHTFOLD_NOT_RUN=$(NOT_RUN) $(PYTEST) -m 'processes or interop'
	@if [ -s $(NOT_RUN) ]; then \
	  echo; echo 'Not run, because a tool is missing (.ci/run installs them all):'; \
	  sort -u $(NOT_RUN) | sed 's/^/  /'; \
	else echo; echo 'Nothing was left out.'; fi

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each run takes seeds of its own, and prints which; `eightfold sim run --seeds A..B` repeats them.
simulate: $(VENV)/.installed-dev
	$(BIN)/eightfold sim run --level 1 --seeds $$(($(SEED_BASE) * 10000))..$$(($(SEED_BASE) * 10000 + $(SEEDS_1) - 1)) \
	  --set seconds=2
	$(BIN)/eightfold sim run --level 2 --seeds $$(($(SEED_BASE) * 10000))..$$(($(SEED_BASE) * 10000 + $(SEEDS_2) - 1)) \
	  --set seconds=3
	$(BIN)/eightfold sim mutants --quick

# CI runs two seeds of each, and two scenarios on processes, in `make test`; this is for the night.
scenarios: $(VENV)/.installed-dev
	EIGHTFOLD_SCENARIO_SEEDS=20 $(PYTEST) -n 2 -k library_passes tests/simulation/test_library.py
	EIGHTFOLD_SCENARIO_SEEDS=20 $(PYTEST) -k library_passes tests/processes/test_scenario_on_processes.py

# Whatever it starts it takes down again, also when it fails. Images stay for the next time.
compose-test: $(VENV)/.installed
	@$(BIN)/python -m scenario.files.compose_run --junit build/compose-test.xml $(COMPOSE)

bench: $(VENV)/.installed
	@$(BIN)/python -m scenario.benchmark $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call quick: they are older than pyproject.toml only when it changed.
$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo 'installing what the project needs into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . $(INSTALL_FAILED)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.made
	@echo 'installing what the project and its tests need into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' \
	  $(INSTALL_FAILED)
	@touch $(VENV)/.installed $@

INSTALL_FAILED := || { echo 'error: pip could not install it: see above. It uses the package index' \
  'that it is configured for (pip config list).' >&2; exit 1; }

# Debian leaves ensurepip out of python3: then a pip of the system or virtualenv does as well.
$(VENV)/.made:
	@for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'error: no Python 3.11 or newer was found (looked for: $(CANDIDATES)).' >&2; \
	  echo '  Install one, or name one: make PYTHON=/path/to/python3 …' >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	if ! "$$python" -m venv --clear $(VENV) >/dev/null 2>&1; then \
	  "$$python" -m venv --clear --without-pip $(VENV) >/dev/null 2>&1 \
	    && "$$python" -m pip --quiet --disable-pip-version-check --python $(BIN)/python \
	         install pip >/dev/null 2>&1 \
	  || "$$python" -m virtualenv --quiet --clear $(VENV) >/dev/null 2>&1 \
	  || { rm -rf $(VENV); \
	       echo "error: $$python cannot make a virtual environment with pip." >&2; \
	       echo '  On Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }; \
	fi
	@touch $@
