// The scope of a kernel's run, in which other Python threads run too.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <thread>

namespace crossent {

// A daemon thread may come back when the interpreter has ended:
// CPython before 3.14 then unwinds its stack, which no C++ function survives, so that the thread sleeps here until the
// process is gone.
class Unlocked {
  public:
    Unlocked() : Unlocked(true) {}
    // A kernel of a few microseconds is over before another thread has woken up, and stays locked.
    explicit Unlocked(bool wanted) : state_(wanted ? PyEval_SaveThread() : nullptr) {}
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;
    ~Unlocked() {
        if (state_ == nullptr) return;
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }

  private:
    PyThreadState* state_;
};

}  // namespace crossent
