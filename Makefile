# What people and machines do here. `make` alone lists it; `.ci/run` runs it all.

PYTHON = python3
BIN = .venv/bin
UV_COMPILE = .venv/lock/bin/uv pip compile --quiet --universal --generate-hashes \
  --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)
PACKAGES = buildah busybox-static catatonit chromium containerd curl docker-registry docker.io haproxy microsocks nginx-light \
  pgbouncer podman postgresql prometheus runc skopeo systemd tinyproxy wrk
CEPH = ceph-common ceph-mon ceph-osd radosgw
WITH_BUCKET = tests/integration/shared tests/daemons/test_fleet.py

.PHONY: help serve test test-rgw check format lock bench simulate fuzz chaos clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: .venv/serve.stamp ## Set everything up and run the mirror (CONFIG=file.toml for another than Docker Hub's)
	exec $(BIN)/mirror serve $(if $(CONFIG),--config '$(CONFIG)')

test: .venv/test.stamp ## Set everything up and run all tests, real daemons included (TESTS=path for some of them)
	tests/support/packages.sh $(PACKAGES)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses auto --dist loadfile $(TESTS)
	$(BIN)/coverage combine --quiet
	$(if $(TESTS),,$(BIN)/coverage report)

test-rgw: .venv/test.stamp ## Run what needs a bucket on Ceph's gateway, instead of SeaweedFS (TESTS=path for some of it)
	tests/support/packages.sh $(PACKAGES) $(CEPH)
	$(BIN)/pytest --bucket rgw $(or $(TESTS),$(WITH_BUCKET))

check: .venv/test.stamp ## Check format, lint, types, import directions and declared dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .

format: .venv/test.stamp ## Format the code, and repair what the linter can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: .venv/bin/pip ## Write both requirements.txt anew from pyproject.toml (UPGRADE=1 for newer releases)
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet uv
	$(UV_COMPILE) pyproject.toml --extra shared --group build --output-file deploy/requirements.txt
	$(UV_COMPILE) pyproject.toml --extra shared --group dev --constraint deploy/requirements.txt \
	  --output-file tests/requirements.txt

bench: .venv/test.stamp ## Measure the mirror against real peers, and print the tables
	$(BIN)/python -m tests.bench

simulate: .venv/test.stamp ## Play traces to rules of eviction (FULL=1: all of them), and a cold blob to 1,000 mirrors as one
	$(BIN)/python -m tests.bench.simulate $(if $(FULL),--full)
	$(BIN)/python -m tests.bench.simulate.fleet

fuzz: .venv/test.stamp ## Feed what reads peers' bytes with a fuzzer's, for SECONDS=300 (ONLY=one for one of them)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),300) $(if $(ONLY),--only '$(ONLY)')

chaos: .venv/test.stamp ## Do everything at once to a mirror, at random, for SECONDS=300 (SEED=7 for about the same again)
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED))

clean: ## Remove what was set up here; the cache in mirror-data stays
	rm -rf .venv .coverage .coverage.* .*_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -r {} +

# One stamp for each lock file: nothing is installed twice.
.venv/serve.stamp: deploy/requirements.txt pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --require-hashes --requirement $<
	-$(BIN)/pip uninstall --quiet --quiet --yes oci-mirror  # what it was called once
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/test.stamp: tests/requirements.txt pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --require-hashes --requirement $<
	-$(BIN)/pip uninstall --quiet --quiet --yes oci-mirror  # what it was called once
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Debian keeps `ensurepip` in a package of its own.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/support/packages.sh python3-venv
	$(PYTHON) -m venv .venv
