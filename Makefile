# Two commands matter: `make demo` and `make test`. Both install what they need.

.PHONY: help demo test bench deps deps-test deps-demo lint fmt generate clean-demo

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: ## Boot real VMs from a real image, break things, watch them come back
	@./demo/run.sh

test: ## Run all tests, those with real guests included
	@./scripts/test.sh

bench: ## Measure; prints a table and writes JSON into target/bench
	@./scripts/deps.sh build run test
	@cargo xtask bench

deps: ## Install what building and running need (Debian packages)
	@./scripts/deps.sh build run

lint: ## What CI checks beside the tests
	@./scripts/lint.sh

generate: ## Write the generated files anew: OpenAPI, configuration reference
	@cargo xtask generate

fmt: ## Format the sources
	@cargo fmt --all

clean-demo: ## Remove what the demo keeps for its next run
	@./demo/run.sh --clean
