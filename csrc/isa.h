// Which instruction sets this binary has code for, and which of them this machine can run.
#pragma once

#include <string>
#include <vector>

#include "interface.h"

namespace openwork {

struct Isa {
    const char* name;
    bool runs_here;
    void (*forward)(const Forward&, Runner&);
    void (*backward)(const Backward&, Runner&);
    void (*decode)(const Decode&, Runner&);
};

// Widest first: the first that runs here is the one to take.
const std::vector<Isa>& isas();

// Throws std::invalid_argument where the binary has no such variant or the machine cannot run it.
const Isa& isa_named(const std::string& name);

}  // namespace openwork
