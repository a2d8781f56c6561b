#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace crossent {
namespace {

std::atomic<ParallelFor> lent_threads{nullptr};

constexpr int64_t grains_per_own_thread = 16;  // starting a thread costs what a grain of work costs

#if !defined(_WIN32)
void forget_lent_threads() { lent_threads.store(nullptr); }
#endif

void own_parallel_for(int64_t begin, int64_t end, int64_t grain, Body body, void* context) {
    const int64_t most = (end - begin) / std::max<int64_t>(grain * grains_per_own_thread, 1);
    const int64_t count = std::clamp<int64_t>(most, 1, own_threads());
    const int64_t step = (end - begin + count - 1) / count;
    std::vector<std::thread> threads;
    int64_t at = begin + step;
    try {
        for (; at < end; at += step) {
            threads.emplace_back(body, at, std::min(at + step, end), context);
        }
    } catch (const std::system_error&) {  // no more threads to be had: the rest is done here
        body(at, end, context);
    }
    body(begin, std::min(begin + step, end), context);
    for (auto& thread : threads) thread.join();
}

}  // namespace

int own_threads() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(int64_t begin, int64_t end, int64_t grain, Body body, void* context) {
    if (begin >= end) return;
    const ParallelFor lent = lent_threads.load();
    if (end - begin <= grain) return body(begin, end, context);
    if (lent == nullptr || lent(begin, end, grain, body, context) != 0) {
        own_parallel_for(begin, end, grain, body, context);
    }
}

void lend_threads(ParallelFor lent) {
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_lent_threads);
    (void)registered;
#endif
    lent_threads.store(lent);
}

bool threads_are_lent() { return lent_threads.load() != nullptr; }

void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = uintptr_t{1} << 21;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(page - 1);
    if (bytes < static_cast<int64_t>(4 * page) || end <= begin) return;
    (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)data;
    (void)bytes;
#endif
}

}  // namespace crossent
