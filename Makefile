# Each of these first sets up the virtual environment .venv:
# make run            run the pipeline as an experiment
# make test           check the code, and run all but the longest tests
# make test-full      the same, and then the longest tests
# make test-cluster   run all tests that need more than one machine, with real processes
# make faults         inject faults, and count them in docs/faults.md
# make audit          look up known vulnerabilities of the packages, if there is a network
# make bench          measure: make bench PHOTOS=/path/to/an/archive/or/folder
# make bench-compare  compare with an earlier revision, with PHOTOS as above and BEFORE=REVISION
# make bench-gpu      measure on a machine with a GPU, with PHOTOS as above
# make bench-cluster  measure sweeps, features and capacity on a cluster, with PHOTOS as above
# make format         format the code

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# If it is "error", a warning of a library stops DVC.
unexport PYTHONWARNINGS

# DVC commits experiments with Git, which needs a name: the login name if none is configured.
USER_NAME := $(or $(shell git config user.name),$(shell id -un))
USER_EMAIL := $(or $(shell git config user.email),$(shell id -un)@localhost)
export GIT_AUTHOR_NAME ?= $(USER_NAME)
export GIT_AUTHOR_EMAIL ?= $(USER_EMAIL)
export GIT_COMMITTER_NAME ?= $(USER_NAME)
export GIT_COMMITTER_EMAIL ?= $(USER_EMAIL)

.PHONY: run test test-slow test-full test-cluster faults audit photos bench bench-compare bench-gpu bench-cluster format constraints

run: $(VENV)/installed
	dvc exp run
	@echo
	@echo "To run dvc here: source $(VENV)/bin/activate"

test: $(VENV)/installed-dev
	ruff check
	ruff format --check
	pytest

test-slow: $(VENV)/installed-dev
	pytest -m 'slow and not exhaustive'

test-full: test test-slow

test-cluster: $(VENV)/installed-cluster
	pytest tests/cluster -m ''

faults: $(VENV)/installed-dev
	pytest tests -m 'fault or exhaustive' --fault-table=docs/faults.md

audit: $(VENV)/installed-dev
	python .ci/audit.py

BENCHMARKS := experiments feature_extraction training_on_features end_to_end growth nothing_to_do two_workers review input_path

photos:
	@test -e "$(PHOTOS)" || { echo "usage: make $(MAKECMDGOALS) PHOTOS=/path/to/photos"; exit 1; }

bench: photos $(VENV)/installed
	for name in $(BENCHMARKS); do python benchmarks/$$name.py "$(PHOTOS)" || exit 1; done

bench-compare: photos $(VENV)/installed
	python benchmarks/compare.py "$(PHOTOS)" "$(BEFORE)"

bench-gpu: photos $(VENV)/installed
	python benchmarks/gpu.py "$(PHOTOS)"

bench-cluster: photos $(VENV)/installed-cluster
	python benchmarks/sweep_on_ray.py "$(PHOTOS)"
	python benchmarks/features_on_ray.py "$(PHOTOS)"
	python benchmarks/scale.py --photos "$(PHOTOS)"

format: $(VENV)/installed-dev
	ruff check --fix
	ruff format

# Pin every package, for all Python versions at once; needs uv.
constraints:
	grep -hv '^-' requirements.txt requirements-dev.txt requirements-cluster.txt | uv pip compile - --universal \
		--python-version 3.10 --no-header --no-annotate --output-file constraints.txt --upgrade

$(VENV)/installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or sys.exit( \
		"Python 3.10 to 3.13 is required, $(PYTHON) is " + sys.version.split()[0] + \
		"; choose another one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(VENV)/installed-cluster: $(VENV)/installed-dev requirements-cluster.txt
	$(VENV)/bin/python -m pip install --quiet --requirement requirements-cluster.txt
	@touch $@
