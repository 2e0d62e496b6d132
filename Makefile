# The usual ways through the project; `make help` lists them. Each target spells out the command behind it.
PYTHON  ?= python3
PROFILE ?= quick
CHAPTER ?=
FILE    ?=
SEEDS   ?=
CHECK   ?=
ARGS    ?=

BIN       := .venv/bin
INSTALLED := .venv/.installed
DEADBOOK  := $(BIN)/python -m deadbook
PYTEST    := $(BIN)/python -m pytest -q
NBVAL     := $(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout=600 -p no:cacheprovider -n 2 --dist loadfile
QUIET     := OMP_NUM_THREADS=1 PYDEVD_DISABLE_FILE_VALIDATION=1

.DEFAULT_GOAL := help
.PHONY: help install book test check unit notebooks browser lint site chapter sweep results publish verify lab bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## an environment in .venv, with the exact versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit( \
	  None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: " \
	  "name another, as in make PYTHON=python3.12 book")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[book,test]'
	$(BIN)/python -m deadbook.build.site  # KaTeX and the widget player, with npm
	@touch $@

book: install ## execute all chapters (PROFILE=quick) and build the site
	@$(DEADBOOK) book --profile $(PROFILE)

test: install lint unit notebooks browser ## everything below, in this order

check: lint ## lint and the tests of the library: what to run while you work
	@$(QUIET) $(PYTEST) tests/deadunits -n 2 --dist worksteal

lint: install ## ruff: rules and format
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .

unit: install ## unit and property tests
	@$(QUIET) $(PYTEST) tests --ignore tests/site -n 2 --dist worksteal

notebooks: install ## chapters executed from nothing (quick), then again by nbval; unit does the committed ones
	@rm -rf _build/test
	@$(DEADBOOK) book --profile quick --results _build/test --no-site
	@$(QUIET) $(NBVAL) _build/quick/chapters

browser: install ## the site of the chapters just executed, in Chromium
	@$(DEADBOOK) book --profile quick --results _build/test --only-site
	@DEADUNITS_SITE=_build/quick/html $(PYTEST) tests/site -n 2

site: install ## publish what is committed, computing nothing
	@$(DEADBOOK) site

chapter: install ## one chapter: CHAPTER=02-1-saliency [PROFILE=thesis] [ARGS="-p epochs 2"]
	@$(DEADBOOK) chapter $(or $(CHAPTER),'') --profile $(PROFILE) $(ARGS)

sweep: install ## a grid of runs or chapters, here or on SLURM: FILE=grid.yaml [ARGS="--dry-run"]
	@$(DEADBOOK) sweep $(or $(FILE),'') $(ARGS)

results: install ## the runs of all chapters (profile thesis): SEEDS=5; CHECK=1 says what is missing
	@$(DEADBOOK) results $(addprefix --seeds ,$(SEEDS)) $(if $(CHECK),--check) $(ARGS)

publish: install ## put the chapters executed with PROFILE=thesis, and their runs, in book/
	@$(DEADBOOK) publish

verify: install ## compute the first measurement of all published runs again, and compare (an hour); ARGS="KEY ..."
	@$(DEADBOOK) verify $(ARGS)

lab: install ## the chapters live, in JupyterLab
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	$(BIN)/jupyter lab notebooks

bench: install ## ratios of processor time: scores, training steps; ARGS=--check fails at half of what is asked
	@$(QUIET) $(BIN)/python tests/bench.py $(ARGS)

clean: ## remove what was built; runs in results/ and the browser files stay
	rm -rf $(filter-out _build/vendor, $(wildcard _build/*)) .pytest_cache .ruff_cache .hypothesis build dist lib/*.egg-info
