# `make demo` and `make test` install what is missing by themselves; run both as root.
PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
ENGINES := debian12 debian13 unstable
MODES := macvlan bridge vxlan
CODE := qnet plugins scheduler tests

.PHONY: e2e-hosts e2e-fleet e2e-debian13 e2e-unstable deb dist demo demo-down test test-quick test-matrix test-package test-vm bench lint format typecheck docs lock bootstrap engines clean

bootstrap:
	@packaging/bootstrap.sh

engines: bootstrap
	@packaging/bootstrap.sh engines

demo: bootstrap
	@$(PYTHON) -m tests.lab.demo up

demo-down: bootstrap
	@$(PYTHON) -m tests.lab.demo down

# Unit and contract tests, integration tests, the end-to-end tests on the oldest engine, what engines differ in on the newest (of the
# one between, what concerns its plugins), in another mode on each, then the package, and those in virtual machines.
# `make test-matrix` leaves nothing out.
test: engines
	@packaging/bootstrap.sh vm
	$(PYTEST) tests/unit tests/contract tests/integration
	@$(MAKE) --no-print-directory -j2 --output-sync=target e2e-hosts e2e-fleet
	@$(MAKE) --no-print-directory -j2 --output-sync=target e2e-debian13 e2e-unstable
	@packaging/bootstrap.sh package
	$(PYTEST) $(PACKAGE)
	$(PYTEST) tests/vm

# The first of these waits until the package is built.
PACKAGE := --timeout 1800 tests/package

# Parts of `make test`, two at a time: each has labs of its own, and waits more than it works.
FLEET := tests/e2e/front tests/e2e/placement
e2e-hosts:
	QNET_LAB_DIR=/run/qnet-$@ $(PYTEST) tests/e2e $(FLEET:%=--ignore %) --engine debian12 --mode macvlan
e2e-fleet:
	QNET_LAB_DIR=/run/qnet-$@ $(PYTEST) $(FLEET) --engine debian12 --mode macvlan
e2e-debian13:
	QNET_LAB_DIR=/run/qnet-$@ $(PYTEST) tests/e2e/test_*.py tests/e2e/placement --engine debian13 --mode bridge -m engines
e2e-unstable:
	QNET_LAB_DIR=/run/qnet-$@ $(PYTEST) tests/e2e --engine unstable --mode vxlan -m engines

# The end-to-end tests on each engine in each mode; what is about one mode only, once on each engine.
test-matrix: engines
	@set -e; for engine in $(ENGINES); do $(PYTEST) tests/e2e -m mode --engine $$engine; \
	  for mode in $(MODES); do $(PYTEST) tests/e2e -m "not mode" --engine $$engine --mode $$mode; done; done

test-quick: bootstrap
	$(PYTEST) -q tests/unit tests/contract -m "not slow"

# Two machines with systemd, in containers, on which the package is installed by the commands of docs/install.md.
test-package: bootstrap
	@packaging/bootstrap.sh package
	$(PYTEST) $(PACKAGE)

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

# docs/reference and packaging/qnet.toml, from the code.
docs: bootstrap
	$(PYTHON) -m tests.reference
	.venv/bin/qnet config default > packaging/qnet.toml

lock: bootstrap
	packaging/lock.sh

deb: bootstrap
	@packaging/bootstrap.sh package
	@packaging/deb.sh

dist: bootstrap
	@packaging/deb.sh dist

clean:
	rm -rf build .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
