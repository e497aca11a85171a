#include "isa.h"

#include <stdexcept>

namespace openwork {

namespace {

#if defined(__x86_64__) || defined(__i386__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

const std::vector<Isa>& isas() {
    static const std::vector<Isa> all = {
#if defined(OPENWORK_HAS_AVX512)
        {"avx512", has_avx512(), avx512::forward, avx512::backward, avx512::decode},
#endif
#if defined(OPENWORK_HAS_AVX2)
        {"avx2", has_avx2(), avx2::forward, avx2::backward, avx2::decode},
#endif
#if defined(OPENWORK_HAS_NEON)
        {"neon", true, neon::forward, neon::backward, neon::decode},
#endif
#if defined(OPENWORK_HAS_PLAIN)
        {"plain", true, plain::forward, plain::backward, plain::decode},
#endif
    };
    return all;
}

const Isa& isa_named(const std::string& name) {
    for (const Isa& isa : isas()) {
        if (isa.name != name) continue;
        if (!isa.runs_here) throw std::invalid_argument("this machine cannot run " + name);
        return isa;
    }
    throw std::invalid_argument("this binary has no code for " + name);
}

}  // namespace openwork
