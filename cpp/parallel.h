// Threads and pages: what the core borrows from the process it runs in.
#pragma once

#include <cstdint>

namespace crossent {

using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// Runs body on ranges that cover [begin, end), none of them larger than it must be and none smaller than grain. The
// threads are those lent by `lend_threads`, else a few made for this call if the work is worth it.
void parallel_for(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// A function of the C shape above, or null for the core's own. A forked child falls back to the core's own, because
// the pools of OpenMP runtimes do not survive a fork.
void lend_threads(ParallelFor lent);
bool threads_are_lent();
int own_threads();

// Asks for huge pages under a large array that is about to be written, where the system gives them on request: fresh
// pages cost more than the arithmetic of a gradient. Does nothing elsewhere.
void prefer_huge_pages(void* data, int64_t bytes);

template <class F>
void parallel_ranges(int64_t size, int64_t grain, F&& f) {
    parallel_for(
        0, size, grain, [](int64_t begin, int64_t end, void* context) { (*static_cast<F*>(context))(begin, end); }, &f);
}

}  // namespace crossent
