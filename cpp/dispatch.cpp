#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace crossent {

// CROSSENT_ISAS is X(name) for each instruction set that CMakeLists.txt compiles rows.cpp for, in ascending order.
#define X(name)                   \
    namespace name {              \
    extern const Kernels kernels; \
    }
CROSSENT_ISAS
#undef X

namespace {

struct Isa {
    std::string name;
    const Kernels* kernels;
};

#if defined(_MSC_VER) && defined(_M_X64)
bool leaf7(int bit) {
    int registers[4];
    __cpuidex(registers, 7, 0);
    return (registers[1] >> bit & 1) != 0;
}
bool saves(unsigned mask) {
    int registers[4];
    __cpuid(registers, 1);
    return (registers[2] >> 27 & 1) != 0 && (_xgetbv(0) & mask) == mask;
}
bool has_avx2() { return saves(0x6) && leaf7(5); }
bool has_avx512() { return saves(0xe6) && leaf7(16) && leaf7(17) && leaf7(30) && leaf7(31); }
#elif defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

bool runs_here(const std::string& name) {
    if (name == "avx512") return has_avx512();
    if (name == "avx2") return has_avx2();
    return true;  // baseline, neon: what every processor of the architecture has
}

const std::vector<Isa>& usable() {
    // Never destroyed: daemon threads run kernels until the process is gone.
    static const std::vector<Isa>& found = *[] {
        auto* const list = new std::vector<Isa>;
#define X(name) \
    if (runs_here(#name)) list->push_back({#name, &name::kernels});
        CROSSENT_ISAS
#undef X
        return list;
    }();
    return found;
}

const Isa* find(const std::string& name) {
    if (name.empty()) return &usable().back();
    for (const Isa& isa : usable()) {
        if (isa.name == name) return &isa;
    }
    std::string text = "instruction set '" + name + "' is not one that this build and processor have; available:";
    for (const Isa& isa : usable()) text += " " + isa.name;
    throw std::invalid_argument(text);
}

std::atomic<const Isa*>& chosen() {
    static std::atomic<const Isa*> isa = [] {
        const char* forced = std::getenv("CROSSENT_ISA");
        return find(forced == nullptr ? "" : forced);
    }();
    return isa;
}

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : usable()) names.push_back(isa.name);
    return names;
}

const std::string& isa() { return chosen().load()->name; }
void use_isa(const std::string& name) { chosen().store(find(name)); }
const Kernels& kernels() { return *chosen().load()->kernels; }

}  // namespace crossent
