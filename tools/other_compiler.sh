#!/bin/sh
# Print the other C++ compiler of this machine: clang++ where the default one is GCC, else g++; nothing if there is none.
# Compilers read pragmas differently, so `make sanitize` tries the core with both.
is_clang() {
    "$1" --version 2>/dev/null | grep -qi clang
}

default=${CXX:-c++}
if is_clang ${default%% *}; then
    for candidate in g++ g++-16 g++-15 g++-14 g++-13 g++-12; do
        if "$candidate" --version >/dev/null 2>&1 && ! is_clang "$candidate"; then echo "$candidate" && exit; fi
    done
else
    for candidate in clang++ clang++-22 clang++-21 clang++-20 clang++-19 clang++-18 clang++-17 clang++-16; do
        if "$candidate" --version >/dev/null 2>&1; then echo "$candidate" && exit; fi
    done
fi
