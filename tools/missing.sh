#!/bin/sh
# Print, in one line, the first thing that the build needs and this machine lacks, and how to install it; else nothing.
python=${1:-python3}
newer="apt-get install python3 python3-venv python3-dev (Debian, Ubuntu) or brew install python (macOS)"

compiler() {
    for candidate in ${CXX:-c++ g++ clang++}; do
        "$candidate" --version >/dev/null 2>&1 && return
    done
    return 1
}

if ! command -v "$python" >/dev/null 2>&1; then
    echo "crossent needs Python 3.11 or later and finds no $python: $newer"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "crossent needs Python 3.11 or later and $python is $("$python" --version 2>&1): $newer, then make PYTHON=python3.12"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "crossent needs Python's venv module: apt-get install python3-venv (Debian, Ubuntu)"
elif ! "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then
    echo "crossent needs Python's headers: apt-get install python3-dev (Debian, Ubuntu) or brew install python (macOS)"
elif ! compiler; then
    echo "crossent needs a C++ compiler: apt-get install g++ (Debian, Ubuntu) or xcode-select --install (macOS)"
fi
