# Everything a person runs: `make demo` and `make test`. Both set up what they need and work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
.DEFAULT_GOAL := help

.PHONY: help demo test test-slow test-mysql check bench dist clean setup debian labextension
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# A registry that fails or answers slowly for a moment is asked again: by uv, pip and npm, in the tests too.
export UV_HTTP_RETRIES ?= 8
export UV_HTTP_TIMEOUT ?= 120
export PIP_RETRIES ?= 8
export PIP_DEFAULT_TIMEOUT ?= 120
export npm_config_fetch_retries ?= 8

$(VENV)/.installed: pyproject.toml
	@sh tests/python.sh "$(PYTHON)" $(VENV)

setup: $(VENV)/.installed debian labextension ## Install everything that demo and test use

debian: ## Debian packages of the test servers and the browser (root or sudo; else names the command)
	@sh tests/debian.sh

labextension: $(VENV)/.installed ## Build the JupyterLab extension (Node from the registry where it is missing)
	@sh sidecar/jupyter/build.sh $(BIN)

dist: labextension ## Build wheel and sdist, with the JupyterLab extension in them
	$(BIN)/uv build -q --out-dir dist .

demo: setup ## The whole path on real local servers; CHECK=1 runs it headless and prints what happened
	@$(BIN)/python tests/demo.py $(if $(CHECK),--check)

test: setup ## All quick tests
	@$(BIN)/python -m tests.programs
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

test-slow: setup ## The long suites: faults, crashes, models, pods
	@$(BIN)/python -m tests.programs --slow
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m slow $(ARGS)

test-mysql: setup ## The MariaDB tests on Oracle's MySQL (Debian's, unpacked below .cache; TEST_MYSQL=DIR for another)
	$(if $(TEST_MYSQL),,sh tests/mysql.sh .cache/mysql)
	TEST_MYSQL=$(or $(TEST_MYSQL),.cache/mysql) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(MYSQL_TESTS) $(ARGS)

# MariaDB's own types, and a server without TLS, are none of MySQL's.
MYSQL_TESTS := $(wildcard tests/integration/test_*mysql*.py) tests/conformance/drivers \
  tests/integration/test_pod_controller.py tests/integration/test_earlier_fetch.py tests/integration/test_policy_recipes.py \
  -k "mysql and not uuid and not inet6 and not required_tls_fails or test_pod_controller or test_earlier or test_policy_recipes"

check: $(VENV)/.installed ## Style, types, import contracts, and what the unit tests cover
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --cov --cov-report=term:skip-covered tests/unit

bench: setup ## Benchmarks beside the peers; writes docs/benchmarks/
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[bench]'
	$(BIN)/python -m tests.bench $(ARGS)

clean: ## Remove what the commands above made
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache tests/output build dist
	rm -rf sidecar/jupyter/lab/node_modules sidecar/jupyter/lab/lib sidecar/jupyter/labextension
