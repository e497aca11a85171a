#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace openwork {

namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kFirstChunk = int64_t{1} << 18;
constexpr int64_t kLarge = int64_t{4} << 20, kLargePage = int64_t{2} << 20;
constexpr int64_t kKept = int64_t{1} << 24;  // a thread gives back more than this at the end of a unit
// a thread looks for work this long before it sleeps: as long as a caller needs between two passes
constexpr auto kSpin = std::chrono::microseconds(20);

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSeparate = true;  // every request is an allocation of its own, with its red zones
#else
constexpr bool kSeparate = false;
#endif

void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// The floating-point mode of the kernels: nearest, no traps, denormals are zero. The caller's comes back at the end.
class KernelMode {
public:
    KernelMode() {
#if defined(__SSE2__)
        saved_ = _mm_getcsr();
        _mm_setcsr(0x1F80u | 0x8000u | 0x0040u);
#elif defined(__aarch64__)
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(uint64_t{1} << 24));
#endif
    }
    ~KernelMode() {
#if defined(__SSE2__)
        _mm_setcsr(saved_);
#elif defined(__aarch64__)
        asm volatile("msr fpcr, %0" ::"r"(saved_));
#endif
    }
    KernelMode(const KernelMode&) = delete;
    KernelMode& operator=(const KernelMode&) = delete;

private:
#if defined(__aarch64__)
    uint64_t saved_ = 0;
#else
    unsigned saved_ = 0;
#endif
};

struct Job {
    Job(Runner::Unit u, void* c, int64_t n, bool p) : unit(u), context(c), units(n), poisoned(p) {}

    const Runner::Unit unit;
    void* const context;
    const int64_t units;
    const bool poisoned;
    std::atomic<int64_t> next{0};
    std::mutex error_mutex;
    std::exception_ptr error;

    void work() {
        // kept from call to call: new memory costs a page fault for every 4 KiB
        thread_local Arena scratch(false);
        const KernelMode mode;
        try {
            scratch.poison(poisoned);
            for (int64_t i = next.fetch_add(1); i < units; i = next.fetch_add(1)) {
                unit(context, i, scratch);
                scratch.reset();
            }
        } catch (...) {
            scratch.reset();
            next.store(units);
            const std::lock_guard lock(error_mutex);
            if (!error) error = std::current_exception();
        }
    }
};

class Pool {
public:
    static Pool& instance();

    // False: another call has the threads; nothing ran.
    bool try_run(Job& job, int helpers) {
        const std::unique_lock busy(busy_, std::try_to_lock);
        if (!busy.owns_lock()) return false;
        start(helpers);
        {
            const std::lock_guard lock(mutex_);
            job_ = &job;
            may_join_ = helpers;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        job.work();
        // whoever has not joined by now is not waited for
        std::unique_lock lock(mutex_);
        job_ = nullptr;
        left_.wait(lock, [this] { return joined_ == 0; });
        return true;
    }

    int size() {
        const std::lock_guard lock(mutex_);
        return started_;
    }

private:
    void start(int helpers) {
        while (started_ < helpers) {
            std::thread(&Pool::loop, this).detach();
            const std::lock_guard lock(mutex_);
            ++started_;
        }
    }

    void loop() {
        uint64_t seen = 0;
        for (;;) {
            const auto until = std::chrono::steady_clock::now() + kSpin;
            while (generation_.load() == seen && std::chrono::steady_clock::now() < until) pause();
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return generation_.load() != seen; });
            seen = generation_.load();
            if (job_ == nullptr || may_join_ == 0) continue;
            Job& job = *job_;
            --may_join_;
            ++joined_;
            lock.unlock();
            job.work();
            lock.lock();
            if (--joined_ == 0) left_.notify_all();
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable wake_, left_;
    std::atomic<uint64_t> generation_{0};
    Job* job_ = nullptr;
    int may_join_ = 0, joined_ = 0, started_ = 0;
};

// Never destroyed: its threads sleep until the process ends. A child of fork has none of the threads, and locks in a
// state that nobody will change: it starts a pool of its own.
std::atomic<Pool*> g_pool{nullptr};

Pool& Pool::instance() {
    static std::mutex* making = new std::mutex;
    static const int registered = pthread_atfork(nullptr, nullptr, [] {
        g_pool.store(nullptr);
        new (making) std::mutex;
    });
    (void)registered;
    if (Pool* pool = g_pool.load()) return *pool;
    const std::lock_guard lock(*making);
    if (g_pool.load() == nullptr) g_pool.store(new Pool);
    return *g_pool.load();
}

}  // namespace

namespace {

// Large memory is asked for in pages of 2 MB: over long sequences a pass would spend a tenth of its time on the faults
// of small ones, since malloc gives such memory back to the system after every call.
void* allocate(int64_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (!kSeparate && size >= kLarge) {
        const int64_t whole = (size + kLargePage - 1) / kLargePage * kLargePage;
        void* memory = std::aligned_alloc(kLargePage, static_cast<size_t>(whole));
        if (memory != nullptr) (void)madvise(memory, static_cast<size_t>(whole), MADV_HUGEPAGE);
        return memory;
    }
#endif
    return std::aligned_alloc(kAlignment, static_cast<size_t>(size));
}

}  // namespace

void Arena::Free::operator()(void* memory) const { std::free(memory); }

void* Arena::bytes(int64_t count) {
    const int64_t size = std::max<int64_t>(kAlignment, (count + kAlignment - 1) / kAlignment * kAlignment);
    if (kSeparate || chunks_.empty() || chunks_.back().size - chunks_.back().used < size) {
        const int64_t total = kSeparate ? size : std::max(size, kFirstChunk);
        void* memory = allocate(total);
        if (memory == nullptr) throw std::bad_alloc();
        chunks_.push_back({std::unique_ptr<void, Free>(memory), total, 0});
    }
    Chunk& chunk = chunks_.back();
    void* start = static_cast<char*>(chunk.memory.get()) + chunk.used;
    chunk.used += size;
    // all bits set is NaN, and -1 as an integer
    if (poisoned_) std::memset(start, 0xFF, static_cast<size_t>(size));
    return start;
}

void Arena::reset() {
    int64_t total = 0;
    for (const Chunk& chunk : chunks_) total += chunk.size;
    if (kSeparate || total > kKept) {
        chunks_.clear();
    } else if (chunks_.size() > 1) {
        // what the unit took in pieces, the next one gets in one
        chunks_.clear();
        bytes(total);
    }
    if (!chunks_.empty()) chunks_.back().used = 0;
}

void CallRunner::run(int64_t units, Unit unit, void* context) {
    if (units <= 0) return;
    Job job(unit, context, units, poisoned_);
    const int helpers = static_cast<int>(std::min<int64_t>(threads_, units)) - 1;
    if (helpers <= 0 || !Pool::instance().try_run(job, helpers)) job.work();
    if (job.error) std::rethrow_exception(job.error);
}

int pool_size() { return Pool::instance().size(); }

}  // namespace openwork
