# Every verb sets up what it needs; nothing has to be installed by hand but Python 3.11+ and, for the sandbox, Go
# (which the sandbox fetches itself where it is missing).
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

BIN := $(CURDIR)/.venv/bin
# ninja, kubectl, weed and torchrun live in the environment.
export PATH := $(BIN):$(PATH)
# More workers than two cores: tests wait a fifth of the time. Files stay together, since their fixtures run whole
# trainings.
PYTEST_FLAGS ?= -q -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help env demo demo-dpo test faults lint crds verify bench images clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## Make .venv (dependencies once per machine and lock file)
	@scripts/env.sh

demo: env ## Fine-tune SmolLM2-135M with kubectl on a sandbox cluster of this machine
	@python -m scripts.demo

demo-dpo: env ## The same, then preference tuning of its adapter in a second job
	@python -m scripts.demo --dpo

test: lint verify ## Run all checks and tests (KUBECONFIG set: cluster tests run there)
	@python -m finetune_sandbox build
	@python -m finetune_sandbox helm
	@python -m finetune_sandbox kueue
	@python -m pytest $(PYTEST_FLAGS)

faults: env ## Run the fault suite with 25 seeds instead of one (FAULT_SEED=n repeats one)
	@FAULT_ROUNDS=$${FAULT_ROUNDS:-25} python -m pytest $(PYTEST_FLAGS) tests/faults tests/cluster/test_process_faults.py \
		tests/cluster/test_broken_ways.py

lint: env ## ruff, mypy and the import contracts
	@ruff check .
	@ruff format --check .
	@python scripts/typecheck.py
	@lint-imports

crds: env ## Write crds/ and docs/reference.md from api/, docs/values.md from the chart
	@python scripts/generate_crds.py
	@python scripts/generate_reference.py
	@python scripts/generate_values_reference.py

verify: env ## Fail when a generated file is behind its source
	@python scripts/generate_crds.py --check
	@python scripts/generate_reference.py --check
	@python scripts/generate_values_reference.py --check

bench: env ## Measure against bare peers in the same run
	@python -m benchmarks.latency
	@for each in step_cost loss_head packing leakage startup prepare; do python -m benchmarks.trainer.$$each; done
	@python -m benchmarks.storage.upload
	@python -m benchmarks.storage.checkpoint
	@python -m benchmarks.trainer.page

images: env ## Build both images and start each (needs docker or podman)
	@python scripts/images.py

clean: ## Remove what was made in this folder (caches of the machine stay)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
