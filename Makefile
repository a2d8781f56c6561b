# make demo     install and run the demonstration        make test-fast formatters, linters, types, and the fast tests
# make bench    install and run the benchmarks           make test   every check and the whole test suite
# make format   the formatters, in place                 make docs   the pages, into build/docs/html
# make sanitize the core's own tests, sanitized          make test-all the same, and whole grids and the long tests
# make lint     formatters, linters, types, contracts    make release a rehearsal: sdist, wheel, an empty environment
# make core-test-aarch64, core-compile-windows, core-compile-macos   the core for other systems
# make test-versions   the oldest and the newest torch, NumPy and Python, tried with the smoke test
# make clean    back to a fresh clone
# make test-gpu, bench-gpu, prove-gpu   the GPU backend on a GPU, with the torch and Triton that are there
PYTHON ?= python3
bin := .venv/bin
missing = $(shell /bin/sh tools/missing.sh $(PYTHON))
install = $(if $(missing),$(error $(missing)))@$(PYTHON) tools/install.py
sources = find cpp \( -name '*.cpp' -o -name '*.h' \) -exec
unexport PYTHONDONTWRITEBYTECODE  # packages are installed without bytecode, each module's is written when first used

# a compiler that gives back what it has compiled before, in whatever folder, where there is one
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_NOHASHDIR ?= 1
endif

# tests on every processor, four at most: a process that has run out of tests takes over half of another's
pytest = $(bin)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# two targets at once, each with its output in one piece, where make can do that (4.0 and later; macOS has 3.81)
side_by_side = $(if $(filter output-sync,$(.FEATURES)),--jobs 2 --output-sync=target)

.PHONY: demo lint test-fast pytest-fast test test-all checks docs release bench check-gpu-build test-interpreter test-gpu bench-gpu prove-gpu sanitize sanitize-core core-test-other-compiler core-test-aarch64 core-compile-windows core-compile-macos test-versions format clean
.PHONY: install-demo install-dev

demo: install-demo
	@$(bin)/crossent demo
	@echo "crossent score demo-output/predictions.csv --label y --probs 'p_*' --id id --html demo-output/score.html"
	@$(bin)/crossent score demo-output/predictions.csv --label y --probs 'p_*' --id id --html demo-output/score.html

# tests that measure time, when nothing else runs; the modules alone that have some
alone = $(bin)/pytest $$(grep -rl 'mark[.]alone' tests --include='test_*.py') -m

# before a commit: every check, and of each grid of tests every pair of options (tests/covering.py), without long tests;
# of the calls of each GPU kernel every value of each option (tools/gpu_build/brief.py)
test: install-dev
	@$(MAKE) --no-print-directory $(side_by_side) checks BRIEF=--brief
	@echo '== pytest'
	@$(pytest) --brief -m 'not alone'
	@echo '== pytest, tests that measure time'
	@$(alone) alone

# at night: every check and every test
test-all: install-dev
	@$(MAKE) --no-print-directory $(side_by_side) checks
	@echo '== pytest, whole'
	@$(pytest) -m 'not alone'
	@echo '== pytest, tests that measure time'
	@$(alone) alone

checks: sanitize lint check-gpu-build test-interpreter core-test-aarch64

# what to run after each change: the linters beside the tests that are not marked slow (CONTRIBUTING.md)
test-fast: install-dev
	@echo '== linters and fast tests, side by side; each prints when it is done'
	@$(MAKE) --no-print-directory $(side_by_side) lint pytest-fast

pytest-fast: install-dev
	@echo '== pytest, fast tests'
	@$(pytest) --brief -m 'not slow' --durations=3 --durations-min=2

# formatters, linters, types and import contracts
lint: install-dev
	@echo '== clang-format'
	@$(sources) $(bin)/clang-format --dry-run --Werror --ferror-limit=3 {} +
	@echo '== ruff format'
	@$(bin)/ruff format --check .
	@echo '== ruff'
	@$(bin)/ruff check .
	@echo '== basedpyright'
	@$(bin)/basedpyright
	@echo '== import-linter'
	@$(bin)/lint-imports --no-logo

docs: install-dev
	@$(bin)/sphinx-build -q -W --keep-going -d build/docs/doctrees docs build/docs/html
	@echo 'build/docs/html/index.html'

# the files of a release, tried in environments of their own; RELEASING.md says what comes before and after
release: install-dev
	@$(bin)/python tools/release.py

bench: install-dev
	@$(bin)/python -m benchmarks

# every GPU kernel that can be launched, compiled for four GPUs without one; for `make test` few calls of each kernel
check-gpu-build: install-dev
	@echo '== GPU kernels, compiled'
	@if $(bin)/python -c 'import triton' 2>/dev/null; then $(bin)/python -m tools.gpu_build $(BRIEF); else echo 'no Triton for this system'; fi

# the GPU backend in Triton's interpreter, on CPU tensors
test-interpreter: install-dev
	@echo "== GPU kernels, interpreted"
	@if $(bin)/python -c 'import triton' 2>/dev/null; then TRITON_INTERPRET=1 $(pytest) $(BRIEF) tests/conformance tests/kernels/triton -k triton; else echo 'no Triton for this system'; fi

# on a machine with a GPU, with whatever torch and Triton its Python has: nothing is installed but the core
test-gpu:
	@bash tools/on_gpu.sh -m pytest tests/conformance tests/kernels/triton tests/torch/sources/test_plan.py tests/torch/sources/test_plan_carried_out.py -k "triton or plan" -p no:randomly -q

bench-gpu:
	@bash tools/on_gpu.sh -m benchmarks.gpu

# in six minutes, build included; COMMIT=… where there is no git to ask, RESULT=… for another file of results
prove-gpu:
	@bash tools/on_gpu.sh -m benchmarks.gpu.prove $(if $(COMMIT),--commit $(COMMIT)) $(if $(RESULT),--out $(RESULT))

# the core's own tests: under AddressSanitizer and UndefinedBehaviorSanitizer, then as users get the core, but built by
# the machine's other compiler; both without Python, and without a warning
configure = $(bin)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM='$(CURDIR)/$(bin)/ninja' -DCMAKE_COMPILE_WARNING_AS_ERROR=ON -DCROSSENT_TEST=ON
other_compiler := $(shell /bin/sh tools/other_compiler.sh)
run_core_tests = $(bin)/ctest --parallel --output-on-failure --no-tests=error --test-dir

sanitize: sanitize-core core-test-other-compiler

sanitize-core: install-dev
	@echo '== sanitizers'
	@mkdir -p build
	@$(configure) -B build/asan -DCROSSENT_SANITIZE=ON >build/asan.log
	@$(bin)/cmake --build build/asan
	@$(run_core_tests) build/asan

core-test-other-compiler: install-dev
ifeq ($(other_compiler),)
	@echo '== core_test by another compiler: skipped, there is none; apt-get install clang (Debian, Ubuntu), brew install gcc (macOS)'
else
	@echo '== core_test, built by $(other_compiler)'
	@mkdir -p build
	@CXX=$(other_compiler) $(configure) -B build/$(other_compiler) -DCMAKE_BUILD_TYPE=Release >build/other-compiler.log
	@$(bin)/cmake --build build/$(other_compiler)
	@$(run_core_tests) build/$(other_compiler)
endif

# the core for other systems than this one, each once for each core and compiler; without its compiler it is skipped
core-test-aarch64 core-compile-windows core-compile-macos: install-dev
	@echo '== $(subst -, ,$@)'
	@$(bin)/python -m tools.other_systems $(lastword $(subst -, ,$@))

# every environment takes up to 6 GB while it is tried; what passes is written to src/crossent/tried.json
test-versions: install-dev
	@$(bin)/python -m tools.versions

format: install-dev
	@$(sources) $(bin)/clang-format -i {} +
	@$(bin)/ruff check -q --fix-only .
	@$(bin)/ruff format -q .

clean:
	rm -rf .venv build dist demo-output .*_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install-demo:
	$(install) demo

install-dev:
	$(install) dev
