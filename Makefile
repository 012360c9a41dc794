# Every task of the project. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
MANIFEST ?= examples/quickstart.yaml
# A shell or end-to-end test that fails runs again, at most twice; the summary lists it as RERUN.
RERUN := --reruns 2 --reruns-delay 5 -raR

# No library calls home, and none takes all cores for one test.
export RAY_USAGE_STATS_ENABLED := 0
export RAY_DEDUP_LOGS := 0
export HF_HUB_DISABLE_TELEMETRY := 1
export VLLM_NO_USAGE_STATS := 1
export DO_NOT_TRACK := 1
export TOKENIZERS_PARALLELISM := false
export OMP_NUM_THREADS ?= 2
export PYTHONUNBUFFERED := 1

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: init
init: .venv/.synced ## Install everything into .venv

# `--inexact` and the stamp keep a second `make` from touching an environment that running processes use.
.venv/.synced: pyproject.toml uv.lock
	@echo "Installing into .venv" >&2
	@"$$(scripts/find-uv.sh)" sync --frozen --inexact
	@touch $@

##@ Run

.PHONY: up
up: .venv/.synced ## Serve MANIFEST on this machine until a screenshot is answered (examples/quickstart.yaml)
	.venv/bin/autoglm up $(MANIFEST)

.PHONY: down
down: .venv/.synced ## Stop what `make up` started
	.venv/bin/autoglm down

##@ Check

.PHONY: lint
lint: .venv/.synced ## Style, types, import layers, generated files
	@$(MAKE) -k ruff types layers crds-check

.PHONY: ruff
ruff: .venv/.synced ## Style and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.PHONY: types
types: .venv/.synced ## Types (mypy strict)
	.venv/bin/mypy

.PHONY: layers
layers: .venv/.synced ## Import layers
	.venv/bin/lint-imports

.PHONY: format
format: .venv/.synced ## Format the code and sort its imports
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: test
test: .venv/.synced ## Lint and all tests, with the time each layer took
	@$(PYTHON) scripts/run_layers.py lint test-core test-shell test-e2e test-node

.PHONY: test-core
test-core: .venv/.synced ## Tests of the pure core: no I/O
	$(PYTEST) tests/core

.PHONY: test-shell
test-shell: .venv/.synced ## Tests of each shell against its real part
	$(PYTEST) tests/shell -m "not (faults and slow)" $(RERUN)

.PHONY: test-e2e
test-e2e: .venv/.synced ## Tests of everything together, without those that break something
	$(PYTEST) tests/e2e -m "not faults" $(RERUN)

# Another cluster is only touched by `make e2e`. One rerun: each takes minutes.
.PHONY: test-node
test-node: .venv/.synced ## The chart and KubeRay with real pods, on a node made here; says so where that cannot be
	env -u KUBECONFIG $(PYTEST) tests/node -m "not edge and not extras" --reruns 1 --reruns-delay 5 -raR -rP

.PHONY: e2e
e2e: .venv/.synced ## The chart and KubeRay with real pods, on a node made here or on KUBECONFIG's cluster (minutes)
	$(PYTEST) tests/node -m "not edge and not extras" -rP

.PHONY: e2e-edge
e2e-edge: .venv/.synced ## Two nodes made here, of which one is cut off for minutes
	$(PYTEST) tests/node -m edge -rP

.PHONY: e2e-extras
e2e-extras: .venv/.synced ## Enforced network policies, gateways that follow their load: what a node made here needs more for
	$(PYTEST) tests/node -m extras -rP

.PHONY: test-faults
test-faults: .venv/.synced ## Only the tests that break something
	$(PYTEST) tests -m faults $(RERUN)

.PHONY: bench
bench: .venv/.synced ## Run the benchmarks (minutes)
	$(PYTHON) -m benchmarks

##@ Generate

.PHONY: crds
crds: .venv/.synced ## Write crds/, schemas/, docs/reference/ and the made files of charts/ from the models
	$(PYTHON) -m autoglm_operator crds

.PHONY: crds-check
crds-check: .venv/.synced ## Fail when a generated file is not current
	$(PYTHON) -m autoglm_operator crds --check

.PHONY: messages
messages: ## Make the gateway's Envoy messages from envoy_messages.proto (an old compiler: what it makes, newer libraries read too)
	"$$(scripts/find-uv.sh)" run --no-project --isolated --with grpcio-tools==1.76.0 python -m grpc_tools.protoc \
		-I serving --python_out=serving --pyi_out=serving autoglm_serving/gateway/envoy_messages.proto

.PHONY: lock
lock: ## Bring uv.lock up to date with pyproject.toml
	"$$(scripts/find-uv.sh)" lock

##@ Test cluster

.PHONY: cluster-up
cluster-up: .venv/.synced ## Start etcd and a Kubernetes control plane here; prints its kubeconfig
	@cd tests && ../$(PYTHON) -m support.cluster up

.PHONY: cluster-down
cluster-down: .venv/.synced ## Stop what `make cluster-up` started
	@cd tests && ../$(PYTHON) -m support.cluster down

.PHONY: node
node: .venv/.synced ## Keep the node of `make e2e` with KubeRay on it until Ctrl-C; prints its kubeconfig (root)
	@cd tests && ../$(PYTHON) -m support.node.keep

.PHONY: clean
clean: ## Remove caches and the environment
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
