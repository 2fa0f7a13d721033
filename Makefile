# Two commands first: `make demo` and `make test`. Each target makes what it needs.
# Standard output belongs to the target (`make demo DEMO_ARGS=--json` prints one document);
# everything about setting up goes to standard error.

PYTHON ?= python3
DEMO_ARGS ?=
TEST_ARGS ?=
PYTHONS ?=
BENCH_ARGS ?=
BENCH_SCHEDULING_ARGS ?=
BENCH_GRPC_ARGS ?=
GPU_BOX_ARGS ?=
RELEASE_ARGS ?=
KEY ?=
RELEASE ?=
ALLOWED_SIGNERS ?=
KEYRING ?=
CERTIFICATE ?=
BUNDLE_KEY ?=
BSP ?=
ROOTFS ?=
SUMS ?=
IMAGE_ARGS ?=
LOCKS_ARGS ?=
GPU_CHECK_ARGS ?=
GPU_CHECK_PYTHON ?=
GPU_PYTHON ?= 3.12
# 12 where the driver is too old for what is made with CUDA 13: docs/gpu.md.
RTX_CUDA ?= 13
CUDA_HOME ?= /usr/local/cuda

VENV := .venv
BIN := $(VENV)/bin
BUILD := .build
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILED := appliance/sessions/fastpath
SOURCES := pyproject.toml hatch_build.py $(wildcard proto/*.proto $(COMPILED)/*.pyx $(COMPILED)/*.pxd)
# All that `appliance[gpu]` needs, but TensorRT and pycuda, and what pycuda needs.
GPU_BOX := attrs protobuf pyzmq onnx onnxruntime cuda-bindings nvidia-cuda-nvrtc nvidia-ml-py \
	grpcio grpcio-health-checking grpcio-reflection h11 hdrhistogram lz4 mcap pillow rich soundfile \
	structlog textual trio zstandard pytools siphash24 mako platformdirs
GPU_BOX_WHEELS = --wheel $(BUILD)/wheels-$(GPU_PYTHON)/pycuda*.whl
MODELS := requirements/demo-models.txt
GPU_MODELS := requirements/gpu-models.txt
PEERS := $(abspath $(BUILD)/peers)
WHEELS := $(abspath $(BUILD)/machines/wheels)

.DELETE_ON_ERROR:
.PHONY: gpu-stage gpu-stage-classic gpu-check beside-dev help demo test test-sdk test-sdk-versions test-kernels test-unit test-deploy test-image test-arm64 image bundle jetson test-release peers check release locks bench bench-grpc bench-scheduling bench-scheduling-real chromium systemd screenshots proto clean

help:
	@echo "make demo         real models, simulated robots, a plot   DEMO_ARGS='--seconds 10 --json'"
	@echo "make test         all tests                               TEST_ARGS='-k wire -x'"
	@echo "make check        ruff, pyright, import contracts, ansible-lint"
	@echo "make bench        the table of speed and memory           BENCH_ARGS=..."
	@echo "make bench-grpc   the gRPC door beside a bare handler and Triton, under perf_analyzer   BENCH_GRPC_ARGS=..."
	@echo "make bench-scheduling   who serves how many robots in time, simulated   BENCH_SCHEDULING_ARGS=..."
	@echo "make bench-scheduling-real   the same fleets on the real stack    BENCH_SCHEDULING_ARGS=..."
	@echo "make release      wheels, hashes, bill of materials and signature for robots   KEY=... PYTHONS='...'"
	@echo "make test-release the release is installed without a network, for each Python that is here"
	@echo "make locks        the versions that a release has, chosen anew    LOCKS_ARGS=--upgrade"
	@echo "make gpu-stage    TensorRT in parts of 60 MB, for a GPU box that no network reaches   GPU_BOX_ARGS=..."
	@echo "make gpu-check    does this GPU do what it should, and how fast?   GPU_CHECK_ARGS=..."
	@echo "make chromium     what tests of the page need, else they are skipped (Debian, as root)"
	@echo "make systemd      what tests of the unit need, else they are skipped (Debian, as root)"
	@echo "make screenshots  the pictures in docs/images: the page, \`appliance top\`, \`appliance plan\`"
	@echo "make test-kernels kernels compiled by NVRTC, and pycuda's calls on a stand-in, without a GPU   TEST_ARGS=..."
	@echo "make test-unit    the systemd unit on a machine in systemd-nspawn (Debian, as root)   TEST_ARGS=..."
	@echo "make test-deploy  five robots in systemd-nspawn get releases by Ansible (Debian, as root)   TEST_ARGS=..."
	@echo "make image        a disk for x86, with two slots           RELEASE=dist/appliance-... ALLOWED_SIGNERS=... KEYRING=..."
	@echo "make bundle       an update of such a box, signed           the same, and CERTIFICATE=... BUNDLE_KEY=..."
	@echo "make jetson       NVIDIA's system with the appliance in it, to be flashed   RELEASE=... BSP=... ROOTFS=... SUMS=..."
	@echo "make test-image   the image boots in QEMU, and is updated (Debian, as root)   TEST_ARGS=..."
	@echo "make test-arm64   the one for Jetson, on Debian for arm64, emulated (Debian, as root)   TEST_ARGS=..."
	@echo "make test-sdk-versions   the SDK with its oldest and newest dependencies   PYTHONS='...'"
	@echo "make proto        what is generated and compiled, made anew"
	@echo "make clean        remove what was built, $(VENV) included"

demo: $(BUILD)/demo.stamp
	@$(BIN)/appliance demo $(DEMO_ARGS)

test: $(BUILD)/dev.stamp test-sdk peers
	@APPLIANCE_PEER_010=$$(ls $(PEERS)/0.1.0/bin/python 2>/dev/null) \
		APPLIANCE_PEER_140=$$(ls $(PEERS)/1.4.0/bin/python 2>/dev/null) \
		APPLIANCE_TRITONCLIENT=$(PEERS)/tritonclient/bin/python \
		$(BIN)/python -m pytest $(TEST_ARGS)

# The clients and the server that the wire is compatible with, unmodified, each by itself.
peers: $(PEERS)/0.1.0.stamp $(PEERS)/1.4.0.stamp $(PEERS)/tritonclient.stamp

# The base install is what robot controllers get: it must work with nothing else beside it.
test-sdk: $(BUILD)/sdk.stamp
	@$(BUILD)/sdk/bin/python tests/sdk_alone.py

# Slow, and not among the tests: a fresh environment for each line of the matrix in it.
test-sdk-versions: $(BUILD)/dev.stamp
	@PYTHONS="$(PYTHONS)" $(BIN)/python tests/sdk_versions.py

# Not among the tests, for NVRTC takes 150 MB, and building pycuda minutes. Without nvcc, what needs
# pycuda is skipped.
test-kernels: beside-dev
	@$(BESIDE_DEV) $(BIN)/python -m pytest tests/engines/test_kernel_compiler.py \
		tests/engines/test_device_images.py tests/engines/test_cuda_device.py $(TEST_ARGS)

# What `appliance[gpu]` needs and `[dev]` has not. pycuda lies beside the environment: other tests
# say what is told where it is missing.
BESIDE_DEV = PYTHONPATH=$(abspath $(BUILD)/pycuda)
beside-dev: $(BUILD)/dev.stamp
	@$(PIP) 'nvidia-cuda-nvrtc>=13' >&2
	@if test -x $(CUDA_HOME)/bin/nvcc; then \
		$(MAKE) --no-print-directory $(BUILD)/pycuda.stamp >&2; \
	else \
		echo "no $(CUDA_HOME)/bin/nvcc: pycuda is not built" >&2; \
	fi

# Slow, and not among the tests: Debian is fetched the first time, and a machine is booted.
test-unit: $(BUILD)/dev.stamp $(WHEELS).stamp
	@APPLIANCE_WHEELS=$(WHEELS) $(BIN)/python -m pytest tests/deploy/test_unit_*.py $(TEST_ARGS)

# Slow, as well: five robots get releases by the playbooks.
test-deploy: $(BUILD)/dev.stamp $(BUILD)/ansible.stamp $(WHEELS).stamp
	@APPLIANCE_WHEELS=$(WHEELS) APPLIANCE_ANSIBLE=$(abspath $(BUILD))/ansible/bin \
		$(BIN)/python -m pytest tests/deploy/test_deploy*.py -s $(TEST_ARGS)

test-image: $(BUILD)/dev.stamp $(BUILD)/ansible.stamp $(WHEELS).stamp
	@APPLIANCE_WHEELS=$(WHEELS) APPLIANCE_ANSIBLE=$(abspath $(BUILD))/ansible/bin \
		$(BIN)/python -m pytest tests/vm/test_image.py -s $(TEST_ARGS)

# The release is made of the last commit. Debian for arm64 is fetched once: a quarter of an hour.
test-arm64: $(BUILD)/dev.stamp $(BUILD)/ansible.stamp $(BUILD)/release.stamp
	@release=$$($(BUILD)/release/bin/python -m tools.release aarch64-cp311 --into $(BUILD)/arm64) && \
		APPLIANCE_ARM64_RELEASE=$$release APPLIANCE_ANSIBLE=$(abspath $(BUILD))/ansible/bin \
		$(BIN)/python -m pytest tests/vm/test_arm64.py -s $(TEST_ARGS)

check: $(BUILD)/dev.stamp
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@PATH="$(abspath $(BIN)):$$PATH" cython-lint --max-line-length 100 $(COMPILED)
	@PATH="$(abspath $(BIN)):$$PATH" ansible-lint --offline -q ansible

bench: $(BUILD)/dev.stamp $(PEERS)/1.4.0.stamp
	@APPLIANCE_PEER_140=$(PEERS)/1.4.0/bin/python $(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-grpc: $(BUILD)/dev.stamp $(PEERS)/perf.stamp $(PEERS)/triton.stamp
	@$(BIN)/python -m benchmarks.inference $(BENCH_GRPC_ARGS)

bench-scheduling: $(BUILD)/dev.stamp
	@$(BIN)/python -m benchmarks.scheduling $(BENCH_SCHEDULING_ARGS)

bench-scheduling-real: $(BUILD)/dev.stamp $(PEERS)/1.4.0.stamp
	@APPLIANCE_PEER_140=$(PEERS)/1.4.0/bin/python \
		$(BIN)/python -m benchmarks.scheduling --real $(BENCH_SCHEDULING_ARGS)

# See docs/gpu.md. There: `python3.12 install.py . /opt/gpu`, then `/opt/gpu/bin/python -m tools.gpu_check`.
gpu-stage: $(BIN)/python $(BUILD)/wheels-$(GPU_PYTHON).stamp
	@rm -rf $(BUILD)/gpu-box
	@APPLIANCE_PURE=1 $(BIN)/python -m tools.stage $(BUILD)/gpu-box $(GPU_BOX_ARGS) \
		--python $(GPU_PYTHON) $(GPU_BOX_WHEELS) --models $(GPU_BOX) \
		'tensorrt-rtx-cu$(RTX_CUDA)-bindings==1.7.1.*' 'tensorrt-rtx-cu$(RTX_CUDA)-libs==1.7.1.*' \
		--build 'tensorrt-rtx-cu$(RTX_CUDA)==1.7.1.*' --build .

# TensorRT 8.5.3, for GPUs that TensorRT for RTX does not take; it needs Python 3.10 there. Alone:
# what it says it needs is a gigabyte that `tools.stand_ins` stands in for.
gpu-stage-classic: GPU_PYTHON := 3.10
gpu-stage-classic: $(BIN)/python $(BUILD)/wheels-3.10.stamp $(BUILD)/wheels-cublas.stamp
	@rm -rf $(BUILD)/gpu-box-classic
	@APPLIANCE_PURE=1 $(BIN)/python -m tools.stage $(BUILD)/gpu-box-classic $(GPU_BOX_ARGS) \
		--python 3.10 $(GPU_BOX_WHEELS) --wheel $(BUILD)/wheels-cublas/*.whl --models $(GPU_BOX) \
		'numpy<2' tomli exceptiongroup --alone tensorrt==8.5.3.1 --build .

# GPU_CHECK_PYTHON=/opt/gpu/bin/python is what `install.py` made there: nothing is fetched or built.
gpu-check: $(if $(GPU_CHECK_PYTHON),,beside-dev)
	@mkdir -p $(BUILD)
	@$(if $(GPU_CHECK_PYTHON),$(GPU_CHECK_PYTHON),$(BESIDE_DEV) $(BIN)/python) \
		-m tools.gpu_check $(BUILD)/gpu-check.json $(GPU_CHECK_ARGS)

$(BUILD)/wheels-3.%.stamp: | $(BIN)/python
	@echo "building pycuda for Python 3.$*, a minute or two" >&2
	@rm -rf $(BUILD)/wheels-3.$*
	@$(BIN)/python -m tools.stand_ins pycuda $(BUILD)/wheels-3.$* --python python3.$* \
		--cuda $(CUDA_HOME) >&2
	@touch $@

# For the Python of $(VENV).
$(BUILD)/pycuda.stamp: | $(BIN)/python
	@wheels=$(BUILD)/wheels-$$($(BIN)/python -c "import sys; print('%d.%d' % sys.version_info[:2])") && \
		$(MAKE) --no-print-directory $$wheels.stamp && rm -rf $(BUILD)/pycuda && \
		$(PIP) --target $(BUILD)/pycuda $$wheels/pycuda*.whl >&2
	@touch $@

$(BUILD)/wheels-cublas.stamp: | $(BIN)/python
	@rm -rf $(BUILD)/wheels-cublas && mkdir -p $(BUILD)/wheels-cublas/tensorrt
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.10 \
		--platform manylinux_2_17_x86_64 --dest $(BUILD)/wheels-cublas/tensorrt tensorrt==8.5.3.1 >&2
	@$(BIN)/python -m tools.stand_ins cublas $(BUILD)/wheels-cublas \
		--tensorrt $(BUILD)/wheels-cublas/tensorrt/*.whl >&2
	@touch $@

release: $(BUILD)/release.stamp
	@$(BUILD)/release/bin/python -m tools.release $(if $(KEY),--key '$(KEY)') \
		$(addprefix --python=,$(PYTHONS)) $(RELEASE_ARGS)

# Slow, and not among the tests: what `make release` made is installed without a network.
test-release:
	@PYTHONS="$(PYTHONS)" $(PYTHON) tests/release_installs.py $(wildcard dist/appliance-*)

locks: $(BUILD)/release.stamp
	@$(BUILD)/release/bin/python -m tools.release.locks $(LOCKS_ARGS)

# See docs/images.md. Debian's tools, as root.
SIGNED = '$(RELEASE)' $(if $(ALLOWED_SIGNERS),--allowed-signers '$(ALLOWED_SIGNERS)') $(IMAGE_ARGS)
IMAGE_OF = $(SIGNED) --keyring '$(KEYRING)'

image: $(BUILD)/ansible.stamp
	@$(PYTHON) -m images image $(IMAGE_OF)

bundle: $(BUILD)/ansible.stamp
	@$(PYTHON) -m images bundle $(IMAGE_OF) --certificate '$(CERTIFICATE)' --key '$(BUNDLE_KEY)'

# See images/jetson/README.md.
jetson: $(BUILD)/ansible.stamp
	@$(PYTHON) -m images jetson $(SIGNED) --bsp '$(BSP)' --rootfs '$(ROOTFS)' --sums '$(SUMS)'

chromium:
	@command -v chromedriver >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq --no-install-recommends chromium chromium-driver; } >&2 || \
		echo "no Chromium: the page's tests in a browser will be skipped" >&2

systemd:
	@command -v systemd-analyze >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq --no-install-recommends systemd; } >&2 || \
		echo "no systemd-analyze: what it says of the unit is not tested" >&2

screenshots: $(BUILD)/dev.stamp
	@PYTHONPATH=tests $(BIN)/python -m support.pictures_of_top
	@PYTHONPATH=tests $(BIN)/python -m support.pictures_of_page docs/images
	@$(BIN)/appliance plan docs/examples/fleet.toml --plot docs/images/plan.png

proto:
	@rm -f $(BUILD)/dev.stamp
	@$(MAKE) --no-print-directory $(BUILD)/dev.stamp

clean:
	@rm -rf $(VENV) $(BUILD) build dist appliance/wire/pb $(COMPILED)/*.so \
		.pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv $(VENV) >&2

$(BUILD)/demo.stamp: $(SOURCES) $(MODELS) | $(BIN)/python
	@echo "installing the appliance and the demo's models into $(VENV)" >&2
	@$(PIP) --editable '.[demo]' >&2
	@$(PIP) --no-deps --requirement $(MODELS) >&2
	@mkdir -p $(BUILD) && touch $@

$(BUILD)/dev.stamp: $(SOURCES) $(MODELS) $(GPU_MODELS) | $(BIN)/python
	@echo "installing the appliance, its tests' tools and the demo's models into $(VENV)" >&2
	@$(PIP) --editable '.[dev]' >&2
	@$(PIP) --no-deps --requirement $(MODELS) --requirement $(GPU_MODELS) >&2
	@mkdir -p $(BUILD) && touch $@ $(BUILD)/demo.stamp

$(BUILD)/release.stamp: requirements/release.txt
	@echo "installing what makes a release into $(BUILD)/release" >&2
	@rm -rf $(BUILD)/release && mkdir -p $(BUILD)
	@$(PYTHON) -m venv $(BUILD)/release >&2
	@$(BUILD)/release/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement $< >&2
	@touch $@

$(BUILD)/sdk.stamp: $(SOURCES) $(shell find appliance -name '*.py' -not -path '*/pb/*')
	@echo "installing the SDK alone into $(BUILD)/sdk" >&2
	@test -x $(BUILD)/sdk/bin/python || $(PYTHON) -m venv $(BUILD)/sdk >&2
	@APPLIANCE_PURE=1 $(BUILD)/sdk/bin/python -m pip install --quiet --disable-pip-version-check \
		--force-reinstall --no-deps . >&2
	@APPLIANCE_PURE=1 $(BUILD)/sdk/bin/python -m pip install --quiet --disable-pip-version-check . >&2
	@touch $@

# For the Python of Debian 12, which the machines have.
$(WHEELS).stamp: $(SOURCES) $(shell find appliance -name '*.py' -not -path '*/pb/*') | $(BIN)/python
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || \
		{ echo "the machines have Python 3.11, and $(VENV) another: make it with PYTHON=python3.11" >&2; exit 1; }
	@echo "making wheels of the appliance and of what it needs in $(WHEELS)" >&2
	@rm -f $(WHEELS)/appliance-*.whl
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --wheel-dir $(WHEELS) '.[server,images]' uv >&2
	@touch $@

$(BUILD)/ansible.stamp: requirements/ansible.txt
	@echo "installing Ansible into $(BUILD)/ansible" >&2
	@rm -rf $(BUILD)/ansible && mkdir -p $(BUILD)
	@$(PYTHON) -m venv $(BUILD)/ansible >&2
	@$(BUILD)/ansible/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/ansible.txt >&2
	@touch $@

$(PEERS)/tritonclient.stamp:
	@mkdir -p $(PEERS)
	@echo "installing tritonclient into $(BUILD)/peers/tritonclient" >&2
	@$(PYTHON) -m venv $(PEERS)/tritonclient >&2
	@$(PEERS)/tritonclient/bin/python -m pip install --quiet --disable-pip-version-check \
		'tritonclient[grpc]==2.73.0' >&2
	@touch $@

# perf_analyzer lies in tritonclient's wheel for Linux (2.51.0 is the newest for the C library of
# Debian 12), and needs two libraries that are nowhere else: Debian's, and NVIDIA's for a GPU.
$(PEERS)/perf.stamp: | $(BIN)/python
	@echo "fetching perf_analyzer into $(BUILD)/peers/perf" >&2
	@rm -rf $(PEERS)/perf && mkdir -p $(PEERS)/perf/lib
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--platform manylinux1_x86_64 --platform manylinux2014_x86_64 --dest $(PEERS)/perf \
		tritonclient==2.51.0 'nvidia-cuda-runtime-cu12>=12.4,<13' >&2
	@cd $(PEERS)/perf && for wheel in *.whl; do $(abspath $(BIN))/python -m zipfile -e $$wheel unpacked; done
	@cd $(PEERS)/perf && cp $$(find unpacked -name perf_analyzer -type f | head -1) . && chmod +x perf_analyzer
	@cd $(PEERS)/perf && cp $$(find unpacked -name 'libcudart.so.12*' | head -1) lib/libcudart.so.12
	@cd $(PEERS)/perf && apt-get download -qq libb64-0d >&2 && dpkg-deb -x libb64-0d*.deb deb && \
		cp $$(find deb -name 'libb64.so.0d*' -type f | head -1) lib/libb64.so.0d
	@rm -rf $(PEERS)/perf/unpacked $(PEERS)/perf/deb $(PEERS)/perf/*.whl $(PEERS)/perf/*.deb
	@touch $@

# Triton with its python backend lies in PyTriton's wheel; that backend wants the system's Python.
TRITON_PYTHON ?= /usr/bin/python3
$(PEERS)/triton.stamp: | $(BIN)/python
	@echo "fetching Triton into $(BUILD)/peers/triton" >&2
	@rm -rf $(PEERS)/triton && mkdir -p $(PEERS)/triton
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--platform manylinux_2_35_x86_64 --dest $(PEERS)/triton nvidia-pytriton==0.7.0 >&2
	@cd $(PEERS)/triton && $(abspath $(BIN))/python -m zipfile -e nvidia_pytriton*.whl . && rm *.whl
	@$(TRITON_PYTHON) -m venv $(PEERS)/triton/python >&2
	@$(PEERS)/triton/python/bin/python -m pip install --quiet --disable-pip-version-check numpy >&2
	@cd $(PEERS)/triton/pytriton/tritonserver && cp "python_backend_stubs/$$($(PEERS)/triton/python/bin/python -c \
		'import sys; print("%d.%d" % sys.version_info[:2])')/triton_python_backend_stub" backends/python/ && \
		chmod +x bin/tritonserver backends/python/triton_python_backend_stub
	@touch $@

# It needs Python 3.11: with an older one, what needs it is skipped.
$(PEERS)/%.stamp:
	@mkdir -p $(PEERS)
	@if $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))"; then \
		echo "installing inferential $* into $(BUILD)/peers/$*" >&2 && \
		$(PYTHON) -m venv $(PEERS)/$* >&2 && \
		$(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check \
			inferential==$* pydantic >&2; \
	else \
		echo "inferential $* needs Python 3.11: left out" >&2; \
	fi
	@touch $@
