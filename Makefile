# `make up` and `make test` need nothing but make, bash and (without root) a Python of at least 3.11.
SHELL := /bin/bash
BIN := .venv/bin
ARGS ?=

SEEDS ?= 1000
FIRST_SEED ?= 0

.PHONY: up test test-seeds test-chaos test-kubernetes lint format lock wheel images clean help

help:
	@echo 'make up [ARGS="--nodes 3 --port 9000"]   install what is missing, start, print the URL'
	@echo 'make test [ONLY="unit e2e"]              install what the tests need, run all of them'
	@echo 'make test-seeds [SEEDS=1000]              break connections on every hop, as so many seeds say'
	@echo 'KUBECONFIG=FILE make test-kubernetes     the tests of a cluster, on yours: docs/kubernetes.md'
	@echo 'make test-chaos [SEEDS=200]               kill, pause, cut off and drain, as so many seeds say'
	@echo 'make lint                                ruff, mypy, import contract'
	@echo 'make format                              rewrite the code as ruff wants it'
	@echo 'make lock [LOCK_ARGS=--upgrade]          resolve the lock files anew'
	@echo 'make wheel                               build dist/'
	@echo 'make images [BASE=debian:12] [TAG=...]   build the images of gateway and agent'
	@echo 'make clean                               remove everything that was made here'

up:
	@scripts/bootstrap.sh run
	@exec $(BIN)/sessionkeeper up --workspace examples $(ARGS)

test:
	@scripts/bootstrap.sh test
	@exec scripts/check.sh all $(ONLY)

# Seeds that fail are kept in failed_seeds.txt, and run with the tests from then on.
test-seeds:
	@scripts/bootstrap.sh test
	@SEEDS=$(SEEDS) FIRST_SEED=$(FIRST_SEED) nice $(BIN)/python -m pytest -q \
		tests/integration/gateway/test_seeds.py tests/integration/ui/test_ui_seeds.py

# The cluster that KUBECONFIG names, with a gateway in it: see docs/kubernetes.md.
test-kubernetes:
	@scripts/bootstrap.sh test
	@test -n "$$KUBECONFIG" || { echo 'error: KUBECONFIG names no cluster' >&2; exit 2; }
	@CI=true $(BIN)/python -m pytest -q --timeout 900 \
		tests/integration/kubernetes/test_sessions_on_pods.py

test-chaos: SEEDS = 200
test-chaos:
	@scripts/bootstrap.sh test
	@SEEDS=$(SEEDS) FIRST_SEED=$(FIRST_SEED) nice $(BIN)/python -m pytest -q tests/chaos

lint:
	@scripts/bootstrap.sh test
	@exec scripts/check.sh lint

format:
	@scripts/bootstrap.sh test
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

# Needs uv, in .venv or on PATH. What is locked already stays unless LOCK_ARGS=--upgrade.
lock:
	@scripts/lock.sh $(LOCK_ARGS)

wheel:
	@scripts/bootstrap.sh test
	@$(BIN)/python -m hatchling build

# With podman or docker; ARGS go to its `build`.
images:
	@BASE="$(BASE)" TAG="$(TAG)" scripts/images.sh $(ARGS)

clean:
	rm -rf .venv .cache dist build tests/artifacts
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
