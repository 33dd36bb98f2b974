# Everything that is run, here and in CI, is run by these targets. `make serve` and `make test` set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
ARGS ?=

.PHONY: serve test check format generate manifests image pins picture sizing bench bench-kernels compare prove gpu clean

serve: $(VENV)/.server  ## run the service here; ARGS="--http-port 9000" for flags
	$(BIN)/gumball serve $(ARGS)

test: $(VENV)/.test $(BIN)/helm  ## run the tests
	$(BIN)/pytest $(TESTS) $(ARGS)

check: $(VENV)/.test  ## formatting, lint, types, import rules, message definitions, generated code
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cd proto && ../$(BIN)/buf lint
	$(MAKE) --no-print-directory generate STUBS=$(VENV)/stubs DESCRIPTORS=$(VENV)/stubs
	for stub in $(VENV)/stubs/gumball/v1/*; do cmp $$stub clients/python/gumball/v1/$${stub##*/} || exit 1; done
	cmp $(VENV)/stubs/inference.binpb service/gumball_server/wire/inference.binpb

format: $(VENV)/.test  ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

STUBS ?= clients/python
DESCRIPTORS ?= service/gumball_server/wire
generate: $(VENV)/.test  ## Python stubs and descriptors from the message definitions
	mkdir -p $(STUBS)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(STUBS) --pyi_out=$(STUBS) --grpc_python_out=$(STUBS) gumball/v1/sampling.proto
	$(BIN)/python -m grpc_tools.protoc -Iproto --descriptor_set_out=$(DESCRIPTORS)/inference.binpb inference/inference.proto

manifests: $(VENV)/.test $(BIN)/helm  ## the chart's schema of settings, deploy/gumball.yaml and the dashboard
	$(BIN)/python deploy/generate.py

# Podman builds in the format of Docker, which has health checks.
ENGINE ?= $(firstword $(notdir $(shell command -v podman docker)))
DEVICE ?= cpu
TAG ?= gumball:0.1.0
image:  ## the container image, by Podman or Docker; DEVICE=cuda for GPUs
	BUILDAH_FORMAT=docker $(ENGINE) build --build-arg DEVICE=$(DEVICE) --tag $(TAG) $(ARGS) .

pins: $(VENV)/.python  ## the newest versions for the image, deploy/image/constraints.txt
	$(BIN)/python deploy/image/pin.py

picture: $(VENV)/.test  ## the dashboard drawn from a live Prometheus, deploy/grafana/dashboard.png
	$(BIN)/python -m pip install --quiet matplotlib
	MPLBACKEND=Agg PYTHONPATH=tests:tests/deploy:deploy $(BIN)/python tests/deploy/draw_dashboard.py deploy/grafana/dashboard.png

sizing: $(VENV)/.test  ## the figures of the operator's guide: processor time of a request, memory of a queue
	PYTHONPATH=tests:tests/deploy $(BIN)/python tests/deploy/sizing.py

bench: $(VENV)/.bench  ## speed of the service beside its floor and its rivals; needs two cores and h2load (Debian: nghttp2-client)
	$(BIN)/python tests/bench/service.py $(ARGS)

bench-kernels: $(VENV)/.test  ## speed of the kernels against torch, as ratios in one run
	$(BIN)/python tests/bench/kernels.py $(ARGS)

compare: $(VENV)/.test  ## a thousand million categories, kernels against the NumPy contract
	$(BIN)/python tests/statistics/compare_kernels.py --categories 1e9 $(ARGS)

GPU_PYTHON ?= python3
gpu:  ## on a GPU, with what is installed there (torch, triton, numba): the bits of 10^6 rows, and the speed
	$(GPU_PYTHON) tests/gpu/run.py $(ARGS)

prove: $(VENV)/.test  ## every proof in full: the noise, the distribution, independence; some twenty minutes
	$(BIN)/python tests/statistics/prove.py

clean:
	rm -rf $(VENV)

# Where there is none, only the tests of the chart fail.
$(BIN)/helm: deploy/get_helm.py | $(VENV)/.python
	-$(BIN)/python deploy/get_helm.py $@

# A stamp is newer than pyproject.toml once its extra is installed.
$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.server: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --editable '.[server]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@
