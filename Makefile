# What can be done with a checkout; `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/harmony-fleet
STATE := $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/harmony-fleet
# Outside of the checkout: a fresh clone on the same machine builds only what changed.
export CARGO_TARGET_DIR ?= $(CACHE)/target
CARGO_TOOLS := $(CACHE)/cargo-tools/bin
DEMO := $(CARGO_TARGET_DIR)/release/fleet-demo
# Makes cargo start what it built with Debian 13's /usr, and so its Podman, in place of this machine's.
ON_PODMAN5 := --config 'target."cfg(all())".runner = ["$(CURDIR)/e2e/tools/podman5.sh", "run"]'

# All that tests and lints compile is selected the same way, the whole workspace with these features: cargo compiles a
# dependency once for each set of features that a selection of packages gives it.
WORKSPACE := --workspace --features harmony-config/nats,harmony-config/openbao
# Tests that need the real servers run only when they are named (`test = false`).
SCENARIOS := $(basename $(notdir $(wildcard e2e/tests/*.rs))) updates_nats
# Those of them that are about faults and bad input.
FAULTS := adverse faults many_nodes outages refused rollout strangers

.DEFAULT_GOAL := help

##@ Use it

.PHONY: demo
demo: install ## A fleet with two devices on this machine, shown step by step; needs root; it stays up
	@e2e/tools/build.sh kubernetes nats oidc
	@cargo build --release --package callout --package vk-nats --package fleet --package e2e --bins
	@cargo build --profile device --package device-kubelet
	@$(DEMO) up
	@$(DEMO) show

.PHONY: kubeconfig
kubeconfig: ## Print the path of the demo's kubeconfig (`make -s kubeconfig`)
	@echo $(STATE)/demo/pki/admin.kubeconfig

.PHONY: path
path: ## Print the folders of the demo's kubectl and fleet, for PATH (`make -s path`)
	@e2e/tools/build.sh where kubernetes | \
		awk '$$1 == "kubectl" { sub("/kubectl$$", "", $$2); print $$2 ":$(patsubst %/,%,$(dir $(DEMO)))" }'

.PHONY: down
down: ## Remove the demo and everything it started
	@if [[ -x $(DEMO) ]]; then $(DEMO) down; \
	elif [[ -e $(STATE)/demo ]]; then cargo run --quiet --release --package e2e --bin fleet-demo -- down; \
	else echo "no demo is up"; fi

##@ Test it

.PHONY: test
test: install tools fmt lint deny unit scenarios docs ## Everything that CI checks

.PHONY: fmt
fmt: ## Check the format of the sources (`cargo fmt` writes it)
	cargo fmt --all -- --check

.PHONY: lint
lint: ## Lints; every warning is an error
	cargo clippy $(WORKSPACE) --all-targets -- -D warnings
	cargo clippy $(WORKSPACE) $(addprefix --test ,$(SCENARIOS)) -- -D warnings
	@# Fuzz targets are workspaces of their own: here they are kept compiling.
	cargo clippy --locked --manifest-path wire/fuzz/Cargo.toml --bins -- -D warnings
	cargo clippy --locked --manifest-path config/fuzz/Cargo.toml --bins -- -D warnings
	@# The settings library alone, as others take it: above, the features of all its users are one set.
	cargo clippy --package harmony-config --all-targets -- -D warnings
	cargo clippy --package harmony-config --all-targets --no-default-features -- -D warnings
	cargo clippy --package harmony-config --all-targets --features openbao,nats -- -D warnings

.PHONY: deny
deny: ## Licences, banned crates and sources of dependencies
	@e2e/tools/install.sh cargo-deny
	$(CARGO_TOOLS)/cargo-deny check --hide-inclusion-graph bans licenses sources

.PHONY: advisories
advisories: ## Known vulnerabilities of dependencies; downloads the advisory database
	@e2e/tools/install.sh cargo-deny
	$(CARGO_TOOLS)/cargo-deny check advisories

.PHONY: unit
unit: ## Unit, property and behaviour tests; the last start a Podman of their own, which needs root
	cargo test --no-fail-fast $(WORKSPACE)

.PHONY: scenarios
scenarios: install tools build ## Scenarios on the real servers; needs root (one: `ONLY=ground`)
	cargo test --no-fail-fast $(WORKSPACE) $(addprefix --test ,$(or $(ONLY),$(SCENARIOS)))

.PHONY: faults
faults: install tools build ## Scenarios of faults and bad input, ten times in a row (or `TIMES=3`)
	@for run in $$(seq $(or $(TIMES),10)); do \
		echo "faults: run $$run of $(or $(TIMES),10)"; \
		cargo test --quiet $(WORKSPACE) $(addprefix --test ,$(FAULTS)); \
	done

.PHONY: podman5
podman5: install $(if $(ONLY),tools build) ## Behaviour tests on Podman 5 of Debian 13 (a scenario: `ONLY=chain`)
	@e2e/tools/podman5.sh build
	cargo test --no-fail-fast $(WORKSPACE) $(ON_PODMAN5) \
		$(addprefix --test ,$(or $(ONLY),runtime_behaviour pods_podman)) -- --nocapture

.PHONY: podman-answers
podman-answers: install ## Record answers of this machine's Podman and of Podman 5 again, as fixtures
	@e2e/tools/podman5.sh build
	cargo test $(WORKSPACE) --test runtime_behaviour -- --ignored recording
	cargo test $(WORKSPACE) $(ON_PODMAN5) --test runtime_behaviour -- --ignored recording

.PHONY: docs
docs: ## Build the book and the API documentation; every warning is an error
	@e2e/tools/install.sh mdbook
	$(CARGO_TOOLS)/mdbook build docs --dest-dir $(CARGO_TARGET_DIR)/book
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items
	@echo "the book: $(CARGO_TARGET_DIR)/book/index.html; the API: $(CARGO_TARGET_DIR)/doc"

.PHONY: conformance
conformance: ## The official Kubernetes suite against a device (not there yet)
	@echo "[NodeConformance] cannot be run yet; nothing was tested." >&2; exit 1

.PHONY: bench
bench: install ## Measure start times, memory and rates; needs root, takes a quarter of an hour
	@e2e/tools/build.sh kubernetes nats kwok
	cargo build --release --workspace --exclude device-kubelet --bins
	cargo build --profile device --package device-kubelet
	cargo run --release --package e2e --bin fleet-bench
	@$(MAKE) bench-config

.PHONY: bench-config
bench-config: ## Measure the settings library alone, beside figment and config
	cargo bench --package harmony-config --bench settings

##@ Build it

.PHONY: build
build: ## Build our programs, as scenarios use them
	cargo build $(WORKSPACE) --bins --examples

.PHONY: install
install: ## Install missing Debian packages and Rust components, saying what and why
	@e2e/tools/install.sh

.PHONY: tools
tools: ## Build the pinned servers (Kubernetes, etcd, nats-server, OpenID provider, secret store)
	@e2e/tools/build.sh

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
