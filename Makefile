# Needs git, make and Python 3.11 or newer with pip; installs everything else into .venv and .manman.
# RabbitMQ and, for tests, Prometheus, Chromium, libfaketime and pgbouncer are system packages: where
# they are missing they are installed with apt-get, if that is allowed.

PYTHON := $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(if $(shell \
	$(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))
UV := $(or $(shell command -v uv),.manman/bootstrap/bin/uv)
BIN := .venv/bin
# The packages for `up` (200 MB), and those with tests and linters too (1 GB).
RUNS := .venv/.runs
INSTALLED := .venv/.installed
# Two workers, each with servers of its own: the tests wait more than they compute.
PYTEST := $(BIN)/pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help up test test-all lint coverage test-faults test-broker test-containers bench setup settings sbom \
	python rabbitmq prometheus chromium faketime pgbouncer
# Parallel goals would share one terminal and two cores.
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# `make up RABBITMQ=/opt/rabbitmq/sbin` runs that server instead of this machine's; `test` and the others take it too.
ifdef RABBITMQ
ifeq ($(wildcard $(RABBITMQ)),)
$(error RABBITMQ=$(RABBITMQ): there is no such file or folder)
endif
export MANMAN_STATUS_RABBITMQ_SERVER := $(abspath $(RABBITMQ))
endif
FIND_RABBITMQ := $(if $(MANMAN_STATUS_RABBITMQ_SERVER),,rabbitmq)
# From the command line only: environments often have a PORT for something else.
PORT_FLAG := $(if $(findstring command,$(origin PORT)),--port $(PORT))

up: $(RUNS) $(if $(MANMAN_STATUS_RABBITMQ_URL),,$(FIND_RABBITMQ)) ## everything on this machine, with a simulated fleet: http://127.0.0.1:8000/, or PORT=8001
	@exec $(BIN)/manman-status dev $(PORT_FLAG)

test: setup lint ## lint, types, import rules and all tests but the slowest outages; RABBITMQ=… names the server
	$(PYTEST) -m "not slow and not containers"

test-all: setup lint ## the same with the slowest
	$(PYTEST) -m "not containers"

lint: $(INSTALLED) ## ruff, mypy, import rules, house rules, hadolint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/architecture/house_rules.py
	$(BIN)/hadolint Dockerfile

test-faults: setup ## the tests that break servers, the slowest too
	$(PYTEST) tests/faults

# Apart from `test`: counting branches costs the tests about half their time again.
coverage: setup ## which branches of the package no test of `test` takes, roles included
	$(PYTEST) -m "not slow and not containers" --cov --cov-report=term:skip-covered $(TESTS)

BROKER_TESTS := $(addprefix tests/,e2e \
	$(addprefix integration/,test_servers.py test_ingest.py test_arrival_order.py test_dead_letters.py test_relay.py test_reporter.py) \
	$(addprefix integration/cli/,test_doctor.py test_dead.py test_publish.py test_record.py) \
	$(addprefix faults/,test_ingest_faults.py test_liveness_outages.py test_partitions.py test_probes.py test_reporter_faults.py))

test-broker: setup ## the tests that depend most on the broker: for another RABBITMQ=…
	$(PYTEST) -m "not slow and not containers" $(BROKER_TESTS)

test-containers: $(INSTALLED) ## the image and compose.yaml, with the container engine that `docker` reaches
	$(BIN)/pytest -m containers tests/deployment

bench: setup ## measurements, each beside the bare minimum of the same work; PART=million for 10,000 to 1,000,000 workers
	$(BIN)/python -m bench $(if $(PART),--only $(PART))

settings: $(RUNS) ## .env.example, docs/settings.md and the chart's schema, from manman_status/settings.py
	$(BIN)/python -m manman_status.dev.settings_files

SBOM := sbom.cdx.json
# The packages of the image: its Dockerfile leaves out the same two.
sbom: $(filter .manman/%,$(UV)) ## sbom.cdx.json: the image's Python packages, as CycloneDX
	$(UV) export --quiet --locked --no-dev --extra server --prune faker --prune polyfactory \
		--format cyclonedx1.5 --output-file $(SBOM) >/dev/null

setup: $(INSTALLED) $(FIND_RABBITMQ) prometheus chromium faketime pgbouncer ## install the needs of `up` and `test`

python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing" >&2; exit 1; }

# Inexact, so that packages for tests stay installed.
$(RUNS): pyproject.toml uv.lock $(filter .manman/%,$(UV)) | python
	$(UV) sync --locked --inexact --no-dev --extra dev-stack --no-python-downloads --python $(PYTHON)
	@touch $@

$(INSTALLED): pyproject.toml uv.lock $(filter .manman/%,$(UV)) | python
	$(UV) sync --locked --all-extras --no-python-downloads --python $(PYTHON)
	@touch $(RUNS) $@

# Installed apart: the system's packages and other environments stay as they are.
.manman/bootstrap/bin/uv: | python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .manman/bootstrap uv

APT := $(if $(filter 0,$(shell id -u)),,sudo -n )env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q
MAY_INSTALL := command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
RABBITMQ_MISSING := RabbitMQ is missing, and may not be installed from here: apt-get install rabbitmq-server, \
	brew install rabbitmq, or https://www.rabbitmq.com/docs/download; `make up` also takes MANMAN_STATUS_RABBITMQ_URL

# Update apt's lists only if the first try fails.
define install
set -x; $(APT) install -y --no-install-recommends $(1) \
		|| { $(APT) update && $(APT) install -y --no-install-recommends $(1); }
endef

rabbitmq: $(RUNS)
	@if $(BIN)/python -c 'from manman_status.dev.rabbitmq import rabbitmq_server as find; find()' 2>/dev/null; \
	then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo '$(RABBITMQ_MISSING)' >&2; exit 1; fi; \
	echo "RabbitMQ is missing: installing it with apt-get"; \
	$(call install,rabbitmq-server)

# Tests that need it are skipped without it.
prometheus:
	@if { command -v promtool && command -v prometheus && { command -v prometheus-alertmanager || command -v alertmanager; }; } \
		>/dev/null; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "Prometheus is missing, and may not be installed from here"; exit; fi; \
	echo "Prometheus is missing: installing it with apt-get, for the tests of alerts"; \
	$(call install,prometheus prometheus-alertmanager) || echo "there is no Prometheus"

# Tests of the page are skipped without it.
chromium:
	@if { command -v chromium || command -v chromium-browser; } >/dev/null; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "Chromium is missing, and may not be installed from here"; exit; fi; \
	echo "Chromium is missing: installing it with apt-get, for the tests of the page"; \
	$(call install,chromium) || echo "there is no Chromium"

# Tests in which the database's clock steps are skipped without it.
faketime:
	@if ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "libfaketime is missing, and may not be installed from here"; exit; fi; \
	echo "libfaketime is missing: installing it with apt-get, for the tests of clock steps"; \
	$(call install,libfaketime) || echo "there is no libfaketime"

# Tests of poolers are skipped without it.
pgbouncer:
	@if command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "pgbouncer is missing, and may not be installed from here"; exit; fi; \
	echo "pgbouncer is missing: installing it with apt-get, for the tests of poolers"; \
	$(call install,pgbouncer) || echo "there is no pgbouncer"
