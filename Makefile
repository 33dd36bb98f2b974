# Everything that is run, here and in CI, is run by these targets. `make serve` and `make test` set up what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
ARGS ?=

.PHONY: serve test check format generate bench bench-kernels compare prove gpu clean

serve: $(VENV)/.server  ## run the service here; ARGS="--http-port 9000" for flags
	$(BIN)/gumball serve $(ARGS)

test: $(VENV)/.test  ## run the tests
	$(BIN)/pytest $(TESTS) $(ARGS)

check: $(VENV)/.test  ## formatting, lint, types, import rules, message definitions, generated code
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cd proto && ../$(BIN)/buf lint
	$(MAKE) --no-print-directory generate STUBS=$(VENV)/stubs
	for stub in $(VENV)/stubs/gumball/v1/*; do cmp $$stub clients/python/gumball/v1/$${stub##*/} || exit 1; done

format: $(VENV)/.test  ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

STUBS ?= clients/python
generate: $(VENV)/.test  ## Python stubs from the message definitions
	mkdir -p $(STUBS)
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(STUBS) --pyi_out=$(STUBS) --grpc_python_out=$(STUBS) gumball/v1/sampling.proto

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
