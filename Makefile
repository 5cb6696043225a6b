# Two targets do everything on a fresh machine: `make run` and `make test`. Both install what they need.
SHELL := /bin/bash
VENV := .venv
WEB := services/cli/view/web
BIN := $(VENV)/bin
# Quiet pytest workers: two are what a small machine has; PYTEST_WORKERS=8 where there is more.
PYTEST_WORKERS ?= 2
SIDE_BY_SIDE := --numprocesses $(PYTEST_WORKERS)
# What fails beside others is run once more, alone, until one fails again. Both outcomes are printed, and .ci/run names at its end
# what needed this: it is a test to mend.
pytest = @echo '$(BIN)/pytest -q $(1)'; $(BIN)/pytest -q $(1) || { status=$$?; [ $$status = 1 ] || exit $$status; echo '== failed beside others; once more, alone:'; \
	$(BIN)/pytest -q $(1) --numprocesses 0 --exitfirst --last-failed --last-failed-no-failures none; }

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-e2e setup-cluster setup-kernels run shop test test-e2e test-cluster test-kernels check format docs platforms pictures accuracy fuzz fuzz-inputs bench bench-quick curves clean
.PHONY: chaos chaos-quick audit
.PHONY: release release-version release-wheels release-chart release-images release-checksums release-publish test-release

help: ## show this
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## install what running needs: system packages (as root on Debian or Ubuntu) and the virtual environment
	@deploy/development/setup.sh run

setup-test:
	@deploy/development/setup.sh run test

run: setup ## show live flows as a table; their spans go to wirespan-spans.jsonl, or to OTEL_EXPORTER_OTLP_ENDPOINT
	@$(BIN)/wirespan up $(UP)

shop: ## the same beside a shop with a fault (needs root): make shop FAULT=slow-database; deploy/compose/shop/README.md has them all
	@deploy/development/setup.sh run shop
	@$(BIN)/wirespan up --demo shop $(if $(FAULT),--fault $(FAULT))

test: setup-test ## unit, integration and kernel tests (no Go, no Docker)
	$(call pytest,$(SIDE_BY_SIDE) tests/unit tests/integration tests/release)
	$(call pytest,tests/kernel)

setup-e2e:
	@deploy/development/setup.sh run shop test e2e

test-e2e: setup-e2e ## the whole product against real tools, built once into a cache (needs Go; the containers need Docker)
	$(BIN)/python -m tests.support.tools
	$(call pytest,$(SIDE_BY_SIDE) --dist loadfile tests/e2e)

setup-kernels:
	@deploy/development/setup.sh run test kernels

test-kernels: setup-kernels ## the socket tap on Debian's kernels from 5.10 to the newest, in virtual machines (needs root)
	$(BIN)/python -m tests.support.vm.kernels
	$(call pytest,$(SIDE_BY_SIDE) tests/vm)

setup-cluster:
	@deploy/development/setup.sh run test e2e cluster

test-cluster: setup-cluster ## the chart in a real Kubernetes of one and of two nodes on this machine (needs root, Go, Docker)
	$(BIN)/python -m tests.support.cluster.binaries
	$(call pytest,tests/cluster)

# The seed is printed; CHAOS_SEED=n makes the same choices again.
CHAOS := $(BIN)/python -m tests.chaos $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

chaos: setup-test ## real processes under faults, alone and in pairs: every known connection once and to the byte (15 minutes, needs root)
	$(CHAOS) --minutes 13 --results build/chaos.json

chaos-quick: setup-test ## the same for three minutes
	$(CHAOS) --minutes 2.5

check: setup-test ## lint, types, import contracts, C format, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@[ ! -x $(WEB)/node_modules/.bin/tsc ] || (cd $(WEB) && node_modules/.bin/tsc --noEmit)
	$(BIN)/clang-format --dry-run --Werror bpf/*/*.[ch] bpf/engine/*/*.[ch] bpf/replay/*/*.[ch] bpf/tap/*/*.[ch]

format: ## format Python and C
	$(BIN)/ruff format .
	$(BIN)/clang-format -i bpf/*/*.[ch] bpf/engine/*/*.[ch] bpf/replay/*/*.[ch] bpf/tap/*/*.[ch]

docs: ## write the generated parts of the documents
	$(BIN)/python -m tests.support.documents.generated_docs
	$(BIN)/python -m tests.support.documents.shell_files

platforms: ## docs/platforms.md: what was run where, of what test-cluster and test-kernels left on this machine
	$(BIN)/python -m tests.support.platforms
	$(BIN)/python -m tests.support.documents.generated_docs

pictures: ## draw the README's pictures anew, from what a replay gives
	$(BIN)/python -m tests.support.documents.pictures

# What a release is made of, in dist/. Wheels need no compiler but zig's, which comes with deploy/release/requirements.lock.
DIST ?= dist
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
RELEASE_VENV := build/release-venv
REGISTRY ?= ghcr.io/wirespan

release: release-version release-wheels release-chart release-images release-checksums ## everything that a release publishes, in dist/; what cannot be built here is skipped and said

release-version: ## the versions of package and chart agree, with TAG too where it is given
	@grep -qx 'appVersion: $(VERSION)' deploy/helm/wirespan/Chart.yaml && grep -qx 'version: $(VERSION)' deploy/helm/wirespan/Chart.yaml || { echo "Chart.yaml is not of version $(VERSION)"; exit 1; }
	@[ -z "$(TAG)" ] || [ "$(TAG)" = "v$(VERSION)" ] || { echo "the tag is $(TAG), the version $(VERSION)"; exit 1; }

$(RELEASE_VENV): deploy/release/requirements.lock
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $@
	@$(BIN)/uv pip sync --quiet --python $@ --require-hashes $<

release-wheels: setup-test $(RELEASE_VENV) ## sdist, manylinux wheels for x86-64 and arm64, and what they bring along (SBOM)
	$(RELEASE_VENV)/bin/python deploy/release/wheels.py $(DIST)
	deploy/release/wheel_sbom.sh $(DIST) $(VERSION)

release-chart: setup-test ## the chart as a package (needs Helm, or Go to build it)
	@mkdir -p $(DIST)
	$$(command -v helm || $(BIN)/python -c 'from tests.support.tools import tool; print(tool("helm"))') package deploy/helm/wirespan --destination $(DIST)

release-images: ## the images as OCI archives, with their SBOMs (needs Docker and skopeo)
	deploy/release/images.sh $(DIST) $(VERSION)

release-checksums: $(RELEASE_VENV) ## every SBOM in dist/ is valid; SHA256SUMS of all that is there
	$(RELEASE_VENV)/bin/python deploy/release/check_sboms.py $(DIST)/*.cdx.json
	cd $(DIST) && find . -maxdepth 1 -type f ! -name SHA256SUMS ! -name SKIPPED -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
	@cat $(DIST)/SKIPPED 2>/dev/null || true

test-release: setup-test ## the wheel where there is no compiler, and the workflow that publishes it
	$(BIN)/pytest -q tests/release

release-publish: ## images and chart of dist/ to REGISTRY, which skopeo and helm are logged in to
	deploy/release/publish.sh $(DIST) $(VERSION) $(REGISTRY)

FUZZ_RUNS ?= 10000000
FUZZ := $(HOME)/.cache/wirespan-fuzz

fuzz: setup-test ## fuzz the flow engine and the readers of files, of header blocks and of spans under sanitizers, FUZZ_RUNS each (needs clang and its fuzzing library)
	@mkdir -p $(FUZZ)/replay $(FUZZ)/files $(FUZZ)/calls $(FUZZ)/otlp
	$(BIN)/python -m tests.support.packets.fuzz_seeds $(FUZZ)
	for target in replay files calls otlp; do \
	  clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o $(FUZZ)/$$target/fuzz bpf/$$target/fuzz.c && \
	  (cd $(FUZZ)/$$target && ./fuzz -runs=$(FUZZ_RUNS) -max_len=2048 -print_final_stats=1 corpus) || exit 1; \
	done

# What others say to us, as property-based tests make it up: batches and questions, headers, answers, settings, requests of spans,
# objects, names in payloads. Each says how many examples it passed.
FUZZ_TIMES ?= 100
INPUTS = $(shell grep -rl "from hypothesis import" tests/unit/proto tests/unit/runtime tests/unit/enricher/following tests/unit/enricher/kubernetes tests/unit/enricher/intake tests/unit/exporter/delivery tests/unit/exporter/otlp tests/unit/capture/names)

fuzz-inputs: setup-test ## FUZZ_TIMES as many made-up inputs as every run of the unit tests draws, one test after the other
	FUZZ_TIMES=$(FUZZ_TIMES) $(BIN)/pytest -q -n0 -m "not e2e" --timeout 0 --hypothesis-show-statistics $(INPUTS)

accuracy: setup-test ## docs/accuracy.md: our TCP measures beside tshark's, over the captures in WIRESPAN_PCAPS
	$(BIN)/python -m tests.support.packets.oracle.accuracy

bench: setup-test ## benchmarks, as ratios to a baseline of the same run, in a quarter of an hour, into docs/performance.md
	$(BIN)/python -m tests.bench --into docs/performance.md

audit: setup-test ## known vulnerabilities of the locked packages, where their databases can be reached
	@deploy/development/audit.sh

curves: setup-test ## load and growth as curves, in ten minutes, into docs/performance.md and docs/images; as root, the table's too
	$(BIN)/uv pip install --quiet --python $(VENV) --require-hashes --requirement tests/bench/load/requirements.lock
	$(BIN)/python -m tests.bench.load.curves

bench-quick: setup-test ## those that need no kernel and no bus, in two minutes, into docs/performance.md
	$(BIN)/python -m tests.bench --quick --into docs/performance.md

clean: ## remove what was built or installed here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bpf/*.so $(WEB)/node_modules $(WEB)/../assets
