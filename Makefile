# `make demo` and `make test` install what is missing by themselves; run both as root.
PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
ENGINES := debian12 debian13 unstable
CODE := qnet plugins tests

.PHONY: demo demo-down test test-quick test-engines test-vm bench lint format typecheck lock bootstrap engines clean

bootstrap:
	@packaging/bootstrap.sh

engines: bootstrap
	@packaging/bootstrap.sh engines

demo: bootstrap
	@$(PYTHON) -m tests.lab.demo up

demo-down: bootstrap
	@$(PYTHON) -m tests.lab.demo down

# Unit and contract tests, integration tests, the end-to-end tests on each engine, then those in virtual machines.
test: engines
	@packaging/bootstrap.sh vm
	$(PYTEST) tests/unit tests/contract tests/integration
	@set -e; for engine in $(ENGINES); do echo "== end to end on $$engine"; $(PYTEST) tests/e2e --engine $$engine; done
	@echo "== in virtual machines"
	$(PYTEST) tests/vm

test-quick: bootstrap
	$(PYTEST) -q tests/unit tests/contract -m "not slow"

# Two virtual machines, by emulation, with a kernel that has 802.1q. The first run builds their image.
test-vm: bootstrap
	@packaging/bootstrap.sh vm
	$(PYTEST) tests/vm

# ONLY=ipam runs one part.
bench: bootstrap
	$(PYTHON) -m tests.bench $(if $(ONLY),--only $(ONLY))

lint: bootstrap
	.venv/bin/ruff check $(CODE)
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/lint-imports

format: bootstrap
	.venv/bin/ruff check --fix $(CODE)
	.venv/bin/ruff format $(CODE)

typecheck: bootstrap
	.venv/bin/mypy

lock: bootstrap
	packaging/lock.sh

clean:
	rm -rf build .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
