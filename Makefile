# Needs git, make and Python 3.11 or newer with pip; brings everything else, into .venv and .manman.
# RabbitMQ and, for tests, Prometheus, Chromium and libfaketime are system packages: installed with
# apt-get where they are missing and that is allowed.

PYTHON := $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(if $(shell \
	$(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))
UV := $(or $(shell command -v uv),.manman/bootstrap/bin/uv)
BIN := .venv/bin
# What `up` needs, and all of it with what tests and linters need: some 200 MB, and 1 GB.
RUNS := .venv/.runs
INSTALLED := .venv/.installed
# Two at once, each with servers of its own: the tests wait more than they compute.
PYTEST := $(BIN)/pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help up test test-all lint test-faults test-broker test-containers bench setup settings sbom \
	python rabbitmq prometheus chromium faketime pgbouncer
# Several goals at once would share one terminal and two cores.
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
# Of the command line alone: many an environment has a PORT for something else.
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

test-faults: setup ## all tests that break servers, the slowest too
	$(PYTEST) tests/faults

BROKER_TESTS := $(addprefix tests/,e2e \
	$(addprefix integration/,test_servers.py test_ingest.py test_arrival_order.py test_dead_letters.py test_relay.py test_reporter.py) \
	$(addprefix integration/cli/,test_doctor.py test_dead.py test_publish.py test_record.py) \
	$(addprefix faults/,test_ingest_faults.py test_liveness_outages.py test_partitions.py test_probes.py test_reporter_faults.py))

test-broker: setup ## what depends most on the broker: for another RabbitMQ=…
	$(PYTEST) -m "not slow and not containers" $(BROKER_TESTS)

test-containers: $(INSTALLED) ## the image and compose.yaml, with the container engine that `docker` reaches
	$(BIN)/pytest -m containers tests/deployment

bench: setup ## measurements, beside the least that the same work can cost; PART=million for 10,000 to 1,000,000 workers
	$(BIN)/python -m bench $(if $(PART),--only $(PART))

settings: $(RUNS) ## .env.example, docs/settings.md and the chart's schema, from manman_status/settings.py
	$(BIN)/python -m manman_status.dev.settings_files

SBOM := sbom.cdx.json
# What the image installs: its Dockerfile leaves the same two out.
sbom: $(filter .manman/%,$(UV)) ## sbom.cdx.json: the image's Python packages, as CycloneDX
	$(UV) export --quiet --locked --no-dev --extra server --prune faker --prune polyfactory \
		--format cyclonedx1.5 --output-file $(SBOM) >/dev/null

setup: $(INSTALLED) $(FIND_RABBITMQ) prometheus chromium faketime pgbouncer ## what `up` and `test` need

python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing" >&2; exit 1; }

# Inexact: what tests need stays where it is.
$(RUNS): pyproject.toml uv.lock $(filter .manman/%,$(UV)) | python
	$(UV) sync --locked --inexact --no-dev --extra dev-stack --no-python-downloads --python $(PYTHON)
	@touch $@

$(INSTALLED): pyproject.toml uv.lock $(filter .manman/%,$(UV)) | python
	$(UV) sync --locked --all-extras --no-python-downloads --python $(PYTHON)
	@touch $(RUNS) $@

# Neither the system's packages nor another environment are touched.
.manman/bootstrap/bin/uv: | python
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .manman/bootstrap uv

APT := $(if $(filter 0,$(shell id -u)),,sudo -n )env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q
MAY_INSTALL := command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
RABBITMQ_MISSING := RabbitMQ is missing, and may not be installed from here: apt-get install rabbitmq-server, \
	brew install rabbitmq, or https://www.rabbitmq.com/docs/download; `make up` also takes MANMAN_STATUS_RABBITMQ_URL

# With the newest lists where it cannot be had by those that are here.
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

# The tests that need it are skipped where it is not.
prometheus:
	@if { command -v promtool && command -v prometheus && { command -v prometheus-alertmanager || command -v alertmanager; }; } \
		>/dev/null; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "Prometheus is missing, and may not be installed from here"; exit; fi; \
	echo "Prometheus is missing: installing it with apt-get, for the tests of alerts"; \
	$(call install,prometheus prometheus-alertmanager) || echo "there is no Prometheus"

# The tests of the page are skipped where it is not.
chromium:
	@if { command -v chromium || command -v chromium-browser; } >/dev/null; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "Chromium is missing, and may not be installed from here"; exit; fi; \
	echo "Chromium is missing: installing it with apt-get, for the tests of the page"; \
	$(call install,chromium) || echo "there is no Chromium"

# The tests in which the database's clock steps are skipped where it is not.
faketime:
	@if ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "libfaketime is missing, and may not be installed from here"; exit; fi; \
	echo "libfaketime is missing: installing it with apt-get, for the tests of clock steps"; \
	$(call install,libfaketime) || echo "there is no libfaketime"

# The tests of poolers are skipped where it is not.
pgbouncer:
	@if command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; then exit; fi; \
	if ! { $(MAY_INSTALL); }; then echo "pgbouncer is missing, and may not be installed from here"; exit; fi; \
	echo "pgbouncer is missing: installing it with apt-get, for the tests of poolers"; \
	$(call install,pgbouncer) || echo "there is no pgbouncer"
