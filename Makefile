# Each target sets up what it needs in .venv; nothing else has to be installed but Python 3.11 or newer, with pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
SETUP  := $(wildcard pyproject.toml constraints.txt hookspecs/pyproject.toml core/pyproject.toml libs/*/pyproject.toml plugins/*/pyproject.toml \
	plugins/kernels_cpu/*.py plugins/kernels_cpu/native/*.[ch]*)

DEMO_PACKAGES := hookspecs core libs/answer_parts libs/chat_templates libs/checkpoint_kit libs/command_kit libs/config libs/conversations libs/decoder_kit libs/encoder_kit libs/engine libs/fetch_kit libs/guards libs/huggingface_folder libs/image_input libs/isolation libs/model_store libs/options libs/plugin_calls libs/replicas libs/residency libs/task_kit libs/tokenizing plugins/format_gguf plugins/backend_onnx plugins/sched_fifo plugins/app_text plugins/command_plugins plugins/source_pypi
# Packages that are not installed, such as SKIP=plugins/backend_tf.
SKIP ?=
ALL_PACKAGES  := hookspecs core $(filter-out $(SKIP),$(sort $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml plugins/*/pyproject.toml))))
PROMPT ?= 今天天气很好
# Processes that share the tests: one more than two cores, since a fifth of their time they wait for something. The whole suite needs some 2 GB of
# memory for each. `ARGS` run in one process unless they say `-n`.
JOBS   ?= 3
# A process that dies fails the run: where xdist starts another in its place, the run waits for ever at its end.
SPREAD  = -n $(JOBS) --max-worker-restart=0 -o console_output_style=classic
CASES  ?= 100000
KILLS  ?= 20
# Per cent of lines and branches that `make coverage` asks for; they are raised as tests are added, and not lowered.
CORE_FLOOR      ?= 90
HOOKSPECS_FLOOR ?= 90
SECONDS ?= 1200
# Libs that the runtime is made of: core's coverage is theirs too.
RUNTIME := $(addprefix libs/,config engine guards isolation model_store options plugin_calls replicas residency)
comma   := ,
space   := $(subst ,, )

.PHONY: demo test test-long test-arm lint docs bench bench-guards bench-kernels bench-load bench-loop bench-sampling bench-seal bench-serve bench-console llama-server simulate many-models soak faults fuzz fuzz-guided sanitize mutants wheels release browser coverage clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	@$(BIN)/python tools/installed_size.py llmasos llmasos-format-gguf llmasos-backend-onnx llmasos-sched-fifo llmasos-app-text llmasos-command-plugins llmasos-source-pypi
	$(BIN)/llmasos models pull smollm2
	$(BIN)/llmasos run --raw "$(PROMPT)" --max-new-tokens 64

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(if $(ARGS),,$(SPREAD)) $(ARGS)

test-long: $(VENV)/test.stamp
	LLMASOS_FUZZ_CASES=2000 $(BIN)/python -m pytest -m "not arm" --hypothesis-profile=long $(if $(ARGS),,$(SPREAD)) $(ARGS)

# Fetches an ARM64 Python and qemu by apt into .venv/arm, and a compiler for ARM64 (ziglang); some minutes, and longer the first time.
test-arm: $(VENV)/test.stamp
	$(PIP) install -q -c constraints.txt ziglang
	$(BIN)/python -m pytest -m arm $(or $(ARGS),tests/test_arm.py plugins/kernels_cpu/tests/test_random_shapes.py plugins/kernels_cpu/tests/test_wheels.py)

# mypy follows imports into what the tests need.
lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in site/, to be opened from disk or served by any web server; it fetches nothing.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m tools.site.check

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(ARGS)

bench-serve: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.serving $(if $(wildcard $(VENV)/llama-server),--llama-server $(VENV)/llama-server) $(ARGS)

bench-console: $(VENV)/test.stamp browser
	$(BIN)/python -m benchmarks.console $(ARGS)

llama-server: $(VENV)/llama-server

bench-kernels: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.kernels $(ARGS)

bench-sampling: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.sampling $(ARGS)

bench-loop: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.loop $(ARGS)

bench-guards: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.guard_cost $(ARGS)

bench-load: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.loading $(ARGS)

bench-seal: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.seal_load $(ARGS)

simulate: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/simulate.py $(ARGS)

many-models: $(VENV)/test.stamp
	$(BIN)/python benchmarks/many_models.py $(ARGS)

soak: $(VENV)/test.stamp
	$(BIN)/python benchmarks/soak.py $(ARGS)

faults: $(VENV)/test.stamp
	LLMASOS_FAULTS=all LLMASOS_KILLS=$(KILLS) $(BIN)/python -m pytest -o timeout=0 -m "not arm" tests/test_faults.py libs/engine/tests/test_generated_faults.py \
		core/tests/test_generated_plugin_faults.py core/tests/replicas/test_replica_generated_faults.py $(ARGS)

fuzz: $(VENV)/test.stamp
	LLMASOS_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest -o timeout=0 tests/fuzz $(ARGS)

# Random shapes and contents for the CPU kernels, under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/test.stamp
	$(BIN)/python plugins/kernels_cpu/sanitize.py $(CASES) $(ARGS)

mutants: $(VENV)/mutants.stamp
	ARGS='$(subst ','\'',$(ARGS))' JOBS=$(JOBS) $(BIN)/python tools/mutants.py $(TARGET)

fuzz-guided: $(VENV)/fuzz.stamp
	$(BIN)/python -m benchmarks.fuzz --seconds $(SECONDS) $(addprefix --target ,$(TARGET)) $(ARGS)

# For the tests that drive a browser or a terminal: Debian's chromium and its driver, tmux, and axe. Without them these tests skip.
AXE := 4.10.3
browser:
	@{ command -v chromium && command -v chromedriver && command -v tmux; } > /dev/null || \
		{ apt-get update -q && apt-get install -y -q --no-install-recommends chromium chromium-driver tmux; }
	@[ -f $(VENV)/browser/node_modules/axe-core/axe.min.js ] || \
		npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/browser axe-core@$(AXE)

wheels: $(VENV)/test.stamp
	for package in $(ALL_PACKAGES); do $(BIN)/python -m build -q --wheel --no-isolation --outdir dist $$package || exit 1; done

# Every wheel, checked, and tried in an environment of its own; changelog.d goes into CHANGELOG.md by `towncrier build --version ...` before.
release: $(VENV)/release.stamp
	$(BIN)/python tools/release.py $(ALL_PACKAGES)

# What the tests of core and the contract run of them, child processes included; some twice as long as the tests alone. Tracing changes the
# timing of threads, so a test that fails here and not in `make test` does not keep the report back.
coverage: $(VENV)/coverage.stamp
	rm -rf $(VENV)/coverage && mkdir $(VENV)/coverage
	-$(BIN)/python -m coverage run -m pytest $(SPREAD) $(or $(ARGS),hookspecs/tests core/tests $(RUNTIME:%=%/tests))
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report --include="core/src/*,$(subst $(space),$(comma),$(RUNTIME:%=%/src/*))" --fail-under=$(CORE_FLOOR)
	$(BIN)/python -m coverage report --include="hookspecs/src/*" --fail-under=$(HOOKSPECS_FLOOR)

clean:
	rm -rf dist site $(VENV)

# pip compiles modules one after the other. Some files of some packages are of other versions of Python, so what does not compile is no error.
COMPILE = { $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true; }

# One build backend for all packages, rather than an environment of its own for each build.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt pip editables hatchling
	@[ -n "$$CXX" ] || command -v c++ > /dev/null || command -v g++ > /dev/null || command -v clang++ > /dev/null || $(PIP) install -q -c constraints.txt ziglang

$(VENV)/demo.stamp: $(SETUP) | $(BIN)/python
	$(PIP) install -q -c constraints.txt --no-compile --no-build-isolation $(addprefix -e ./,$(DEMO_PACKAGES))
	@$(COMPILE)
	@touch $@

# Holds the checksums of the files it was made from, so that one with a new time only (git checkout) installs nothing.
$(VENV)/test.stamp: $(SETUP) | $(BIN)/python
	@cksum $(SETUP) | cmp -s - $@ || { echo "Installing into $(VENV) what the tests need"; $(PIP) install -q -c constraints.txt --no-compile --no-build-isolation --group test --group lint \
		$(subst voice_espeak,voice_espeak[wheel],$(subst app_code,app_code[languages],$(addprefix -e ./,$(ALL_PACKAGES)))) && $(COMPILE) && cksum $(SETUP) > $@; }
	@touch $@

$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(PIP) install -q -c constraints.txt --group bench
	@touch $@

# llama.cpp's own server, of the sources that its Python package brings, with the libraries that this package has compiled.
LLAMA_SOURCE := $(VENV)/llama-source
LLAMA_SERVER := benchmarks/serving/llama_server
$(VENV)/llama-server: $(LLAMA_SERVER)/CMakeLists.txt | $(VENV)/bench.stamp
	rm -rf $(LLAMA_SOURCE) && mkdir $(LLAMA_SOURCE)
	@{ command -v cmake && command -v ninja; } > /dev/null || $(PIP) install -q cmake ninja
	$(PIP) download -q -c constraints.txt --no-deps --no-binary llama-cpp-python -d $(LLAMA_SOURCE) llama-cpp-python
	tar -xzf $(LLAMA_SOURCE)/*.tar.gz -C $(LLAMA_SOURCE) --strip-components=1
	PATH="$(abspath $(BIN)):$$PATH" cmake -S $(LLAMA_SERVER) -B $(LLAMA_SOURCE)/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
		-DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA=$(abspath $(LLAMA_SOURCE))/vendor/llama.cpp \
		-DLIBRARIES="$$($(BIN)/python -c 'import importlib.util; print(importlib.util.find_spec("llama_cpp").submodule_search_locations[0])')/lib"
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(LLAMA_SOURCE)/build --parallel $(JOBS) --target llama-server
	cp $(LLAMA_SOURCE)/build/server/llama-server $@

$(VENV)/docs.stamp: $(VENV)/test.stamp
	$(PIP) install -q -c constraints.txt --group docs
	@touch $@

$(VENV)/release.stamp $(VENV)/coverage.stamp: $(VENV)/test.stamp
	$(PIP) install -q -c constraints.txt --group $(basename $(notdir $@))
	@touch $@

$(VENV)/mutants.stamp: $(VENV)/test.stamp
	$(PIP) install -q -c constraints.txt --group mutants
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	$(PIP) install -q -c constraints.txt --group fuzz
	@touch $@
