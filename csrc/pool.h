// The threads of the kernels: as many as a call asks for, asleep between calls, made again after a fork.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "interface.h"

namespace openwork {

// Scratch memory of one thread, kept between units; `poisoned` fills what it hands out with NaN.
class Arena final : public Scratch {
public:
    explicit Arena(bool poisoned) : poisoned_(poisoned) {}
    void* bytes(int64_t count) override;
    void reset();
    void poison(bool on) { poisoned_ = on; }

private:
    struct Free {
        void operator()(void* memory) const;
    };
    struct Chunk {
        std::unique_ptr<void, Free> memory;
        int64_t size, used;
    };
    std::vector<Chunk> chunks_;
    bool poisoned_;
};

// The runner of one call. Units are handed out one by one, in order, to whoever is free; the caller takes part. An
// exception in a unit stops the handing out and is thrown again by `run`.
class CallRunner final : public Runner {
public:
    CallRunner(int threads, bool poisoned) : threads_(threads), poisoned_(poisoned), memory_(poisoned) {}
    void run(int64_t units, Unit unit, void* context) override;
    void* alloc(int64_t bytes) override { return memory_.bytes(bytes); }
    int threads() const override { return threads_; }

private:
    int threads_;
    bool poisoned_;
    Arena memory_;
};

// Threads that the pool of this process has started.
int pool_size();

}  // namespace openwork
