# Every task of this repository is one target; the work is in scripts/. `make help` lists them.
#
# Settings go on the command line: make up HYPERFAAS_PORT=9090 HYPERFAAS_ADDRESS=0.0.0.0

.DEFAULT_GOAL := help
.PHONY: up down purge build images run test fuzz bench bench-full bench-check bench-bin lint help

up: ## build all, start the services, deploy stack.yml and call its functions
	@scripts/up.sh

down: ## stop the services and remove function containers; what was deployed is kept
	@scripts/down.sh

purge: ## down, and remove what was deployed, images, network and build cache
	@scripts/down.sh --purge

build: ## build the programs (release profile)
	@scripts/build.sh

images: ## build the programs, the services' images and the sample functions' images
	@scripts/images.sh service sample

run: ## run provider and gateway as one plain process on this host, without Compose
	@scripts/run.sh

test: ## run all tests (needs a Docker engine, which root gets installed and started)
	@scripts/test.sh

bench: ## measure: the short set, under ten minutes; the page goes to .build/bench/report
	@scripts/bench.sh short

bench-full: ## measure everything docs/benchmarks.md shows, two hours on a calm machine, and write that page (PARTS="burst cold": only these)
	@scripts/bench.sh full $(PARTS)

bench-check: ## has anything become a fifth slower? (RECORD=1 writes bench/baseline.json instead)
	@scripts/bench.sh check $(if $(RECORD),--record)

bench-bin: ## build the program for single measurements and print its folder
	@scripts/bench.sh bin

fuzz: ## run the fuzz targets under libFuzzer, FUZZ_SECONDS each (default 60; needs a C++ compiler)
	@scripts/fuzz.sh

lint: ## check format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh .ci/run; fi

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
