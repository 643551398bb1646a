# Everything a person or a CI job does with this repository. `make` alone lists the targets.
# Needs only make and Python >= 3.11; the targets for clusters say what else they need.

.DEFAULT_GOAL := help
SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules

# Same version as in the Dockerfile; tests/unit/test_manifests.py compares them.
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
CRD := crds/cachepolicies.yaml

# Names that manifests/overlays/kind uses.
OPERATOR_IMAGE := cachepolicy-operator:dev
CORE_IMAGE := cachepolicy-core:dev
KIND_CLUSTER := cachepolicy

DOCKER ?= docker
KIND ?= kind
KUBECTL ?= kubectl

# uv keeps to this folder's environment and never fetches a Python.
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never

##@ Start here

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Create .venv with everything in it (quick when nothing changed)

# uv trusts the certificates that pip was told to trust. --inexact: uv and pip themselves stay.
$(STAMP): pyproject.toml uv.lock $(BIN)/uv
	@cert=$${SSL_CERT_FILE:-$${PIP_CERT:-$$($(BIN)/python -m pip config list | sed -n "s/^global.cert='\(.*\)'/\1/p")}}; \
	if [ -n "$$cert" ]; then export SSL_CERT_FILE="$$cert"; fi; \
	$(BIN)/uv sync --quiet --frozen --all-extras --inexact
	@touch $@

# PYTHON chooses the interpreter; otherwise the first one found that is new enough and can make environments.
$(BIN)/uv:
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$python; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 or newer with the venv module is needed (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
	  echo "Found: $$(python3 --version 2>&1 || true). Name another one with: make setup PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$found --version)"; \
	$$found -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.PHONY: demo
demo: setup ## Watch the whole product on this machine: embedded Valkey, two replicas, outages
	@$(BIN)/python -m cachepolicy_operator.demo

.PHONY: compose-files
compose-files: setup ## Write the files that manifests/compose mounts; POLICY=file.yaml for another policy
	$(BIN)/python manifests/compose/prepare.py $(POLICY)

##@ Develop

.PHONY: test
test: setup ## Unit and store tests (memory, fakeredis, embedded Valkey, redis-server where installed)
	$(BIN)/pytest tests/unit tests/store

.PHONY: check
check: setup ## Format, lint, types, import contracts, CRD drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy operator runtime tests benchmarks manifests/compose
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m cachepolicy.crd --check $(CRD)

# In an environment of its own: the libraries that it compares with are not for anything else.
.PHONY: bench
bench: setup ## Measure against other libraries and write docs/benchmarks.md (four minutes, an idle machine)
	@cert=$${SSL_CERT_FILE:-$${PIP_CERT:-$$($(BIN)/python -m pip config list | sed -n "s/^global.cert='\(.*\)'/\1/p")}}; \
	if [ -n "$$cert" ]; then export SSL_CERT_FILE="$$cert"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-bench $(BIN)/uv sync --quiet --frozen --all-extras --group bench
	.venv-bench/bin/python -m benchmarks --page

.PHONY: format
format: setup ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: crds
crds: setup ## Write the CRD again from the models
	$(BIN)/python -m cachepolicy.crd >$(CRD).new
	mv $(CRD).new $(CRD)

.PHONY: clean
clean: ## Remove .venv, caches and the demo's data
	rm -rf $(VENV) .venv-bench benchmarks/results .cachepolicy .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find operator runtime tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Clusters

.PHONY: images
images: ## Build the two images with docker (DOCKER=podman works too)
	$(DOCKER) build --target operator --tag $(OPERATOR_IMAGE) .
	$(DOCKER) build --target core --tag $(CORE_IMAGE) .

.PHONY: kind
kind: images ## Create a kind cluster if there is none, load the images, deploy
	@$(KIND) get clusters 2>/dev/null | grep -qx '$(KIND_CLUSTER)' \
	  || $(KIND) create cluster --name $(KIND_CLUSTER) --config kind-config.yaml
	$(KIND) load docker-image --name $(KIND_CLUSTER) $(OPERATOR_IMAGE) $(CORE_IMAGE)
	@$(MAKE) --no-print-directory deploy KUBECTL='$(KUBECTL) --context kind-$(KIND_CLUSTER)'

.PHONY: deploy
deploy: ## Apply manifests/overlays/kind to the current cluster and wait for it
	$(KUBECTL) apply -k manifests/overlays/kind
	$(KUBECTL) -n cachepolicy-system rollout status deployment/cachepolicy-operator --timeout=180s
	$(KUBECTL) -n masterclaw rollout status deployment/core --timeout=180s
	@echo 'Next: $(KUBECTL) apply -f manifests/samples/core.yaml && $(KUBECTL) -n masterclaw get cpol -w'

# The tests create and delete things, so they never guess a cluster: KUBECONFIG has to be set.
.PHONY: cluster-test
cluster-test: setup ## Test on the cluster of KUBECONFIG (images loaded before); PYTEST_ARGS are passed on
	@if [ -z "$$KUBECONFIG" ]; then \
	  echo 'cluster-test: set KUBECONFIG to the cluster to test on, for example:' >&2; \
	  echo '  kind get kubeconfig --name $(KIND_CLUSTER) > /tmp/kind.kubeconfig' >&2; \
	  echo '  make cluster-test KUBECONFIG=/tmp/kind.kubeconfig' >&2; \
	  exit 2; \
	fi
	@command -v $(firstword $(KUBECTL)) >/dev/null || { echo 'cluster-test: kubectl is needed on PATH' >&2; exit 2; }
	@$(KUBECTL) get --raw /readyz >/dev/null \
	  || { echo "cluster-test: the cluster of $$KUBECONFIG does not answer" >&2; exit 2; }
	KUBECTL='$(KUBECTL)' $(BIN)/pytest tests/cluster $(PYTEST_ARGS)
