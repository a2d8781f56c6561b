#!/usr/bin/env bash
# Run Python with this checkout's crossent on a machine whose own Python has torch, Triton, nanobind, CMake and pytest,
# and perhaps no network: build the core into build/gpu, and put it and the sources on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >build/gpu.log 2>&1 || { cat build/gpu.log; exit 1; }
cmake --build build/gpu >>build/gpu.log 2>&1 || { cat build/gpu.log; exit 1; }
mkdir -p build/gpu/site
rm -rf build/gpu/site/crossent
cp -r src/crossent build/gpu/site/
cp build/gpu/_core*.so build/gpu/site/crossent/
PYTHONPATH="$PWD/build/gpu/site:$PWD" exec "$python" "$@"
