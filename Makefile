# `make search` and `make test` are all that is needed; the first of them makes .venv. `make help` lists the rest.
#
#   make search ARGS="--data digits --candidates 200"     options of `hypernas search`
#   make test PYTEST_ARGS="-k encoders"                   options of pytest
#   make test PYTHON=python3.12                           the interpreter that .venv is made with

ARGS =
PYTEST_ARGS =
WORKERS = 2
READY = .venv/ready
# One thread for torch in every process that a test starts: the workers share the cores already.
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest

.DEFAULT_GOAL = help
.PHONY: help search env format lint test test-slow test-all wheel clean distclean FORCE

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \2/p' Makefile | awk '{ $$2 = sprintf("%-10s", $$2); print "  " $$0 }'

search: $(READY) ## Search the CIFAR cell space: rank by emitted weights, train the best. Options in ARGS.
	@.venv/bin/hypernas search --space cifar_cells $(ARGS)

test: lint ## Formatting, lint, types and the fast tests: below 8 minutes on 2 cores.
	@$(PYTEST) -m "not slow" -n $(WORKERS) $(PYTEST_ARGS)

test-slow: $(READY) ## The slow tests alone, one at a time: kills, browsers, long runs.
	@$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: test ## Both tiers of tests.
	@$(MAKE) --no-print-directory test-slow

lint: $(READY) ## Check formatting, lint and types; change nothing.
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

format: $(READY) ## Format the code, and mend what the linter can.
	@.venv/bin/python -m ruff check --fix-only --quiet .
	@.venv/bin/python -m ruff format .

wheel: $(READY) ## Build dist/*.whl.
	@rm -rf build
	@.venv/bin/python -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist .
	@rm -rf build; ls dist/*.whl

clean: ## Remove builds and caches; .venv and results stay.
	@rm -rf build dist hypernas.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name .venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## Remove .venv too.
	@rm -rf .venv

env: $(READY) ## Make .venv, or bring it up to date.

# The environment. The stamp is written last, so an interrupted installation is taken up again, and it holds the folder
# that .venv was made in: the scripts in .venv/bin name it, and after a move they would start the wrong tree or nothing.
ifneq "$(shell cat $(READY) 2>/dev/null)" "$(shell pwd -P)"
$(READY): FORCE
endif

$(READY): pyproject.toml constraints.txt requirements-dev.txt
	@here=`pwd -P`; made_in=`cat $@ 2>/dev/null`; rm -f $@; \
	if [ "$${made_in:-$$here}" = "$$here" ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3 python3.13 python3.12 python3.11 python; fi; \
	for python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "Making .venv with `$$python --version`; this takes some minutes and about 2 GB, once."; \
			"$$python" -m venv --clear .venv; exit; \
		fi; \
	done; \
	echo "hypernas needs Python 3.11 or newer; found none as: $$*." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1
	@.venv/bin/python -m pip install --disable-pip-version-check --no-input -r requirements-dev.txt
	@pwd -P > $@

FORCE:
