# `make help` lists what is here. CUDA=cu130 (default) or cu128 chooses the locked set of docker/requirements.
CUDA ?= cu130
PYTHON := .venv/bin/python
INSTALLED := .venv/.installed-$(CUDA)
LOCK := docker/requirements/dev-$(CUDA).txt

.DEFAULT_GOAL := help
.PHONY: help setup demo table gpu-check test test-fast lint format env image lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

# The Detectron2 chosen last stays until another is named; DETECTRON2= takes the index's copy of v0.6 again.
ifneq ($(origin DETECTRON2),undefined)
export DETECTRON2
endif

setup: $(INSTALLED) ## .venv with the locked packages and Detectron2 (again only when these changed); DETECTRON2=<pip requirement> takes your own
	@$(PYTHON) docker/detectron2.py setup

# Another set in .venv is replaced whole; a changed lock is installed over what is there.
$(INSTALLED): $(LOCK) pyproject.toml
	@python=$$(for python in python3.11 python3.12; do $$python -c 'import ensurepip' 2>/dev/null && echo $$python && break; done); \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or 3.12 with venv was found: install one, on Debian with 'apt install python3.11-venv'." >&2; exit 2; \
	fi; \
	$(if $(filter-out $(INSTALLED),$(wildcard .venv/.installed-*)),rm -rf .venv,:); \
	test -x $(PYTHON) || $$python -m venv .venv
	$(PYTHON) -m pip install --quiet --use-pep517 --require-hashes -r $(LOCK)
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation -e .
	$(PYTHON) -m pip check
	@$(PYTHON) -c 'import cv2' 2>/dev/null || echo "note: segmentation needs libGL and glib of the system, on Debian 'apt install libgl1 libglib2.0-0'"
	@touch $@

demo: setup ## the whole path on synthetic slides: pretrain, transfer, table
	$(PYTHON) -m benchmarks run demo

table: setup ## results/records -> results/tables
	$(PYTHON) -m results table

gpu-check: setup ## speed, bf16, parity and the dense engines on this machine's GPU; a reduced form without one
	$(PYTHON) -m benchmarks.speed.gpu

test: lint ## every check: lint, all tests, containers where an engine runs
	$(PYTHON) -m pytest

test-fast: lint ## the checks that start nothing and train nothing
	$(PYTHON) -m pytest -m 'not slow and not container'

lint: setup
	.venv/bin/ruff check .
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' 2>/dev/null # what a merge may leave
	.venv/bin/ruff format --check .

format: setup ## ruff, fixes applied
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

env: ## look at this machine, write .env for Compose: make env DATA=/slides [GPU=on|off] [CUDA=cu128]
	@docker/look.sh

.env:
	@docker/look.sh

image: .env ## build the images of the services, the commit baked in; DETECTRON2=<pip requirement> as in setup
	REVISION=$$(git describe --always --exclude='*' --abbrev=40 --dirty 2>/dev/null || echo unknown) docker compose build pretrain transfer-det transfer-seg

lock: setup ## resolve docker/requirements again
	PATH="$(CURDIR)/.venv/bin:$$PATH" docker/requirements/lock.sh

clean: ## caches only: .venv, work/ and results/ stay
	rm -rf .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
