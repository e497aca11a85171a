// Who is computed together: a job is a key head and the query heads that read it under one plane.
//
// Jobs run in waves, so that the packed keys of a wave, not those of all heads, are in memory at once. How jobs form
// waves changes memory and never a result: each unit of work writes its own rows, and sums that several units add to
// are ordered by the layout (backward.cpp).
#pragma once

#include "rows.h"

namespace openwork::OPENWORK_ISA {
namespace {

struct Job {
    int64_t batch, kv_head;
    const Plane* plane;
    const int32_t* heads;  // query heads
    int64_t num_heads;
    int64_t rank;  // earlier jobs of the same key head
};

struct Jobs {
    Job* at;
    int64_t count;
    int64_t ranks;      // most jobs of one key head
    int64_t max_parts;  // most parts of a plane
};

inline Jobs make_jobs(const Call& call, Runner& runner) {
    const int64_t batch = call.query.shape[0], q_heads = call.query.shape[1], kv_heads = call.key.shape[1];
    const int64_t group = q_heads / kv_heads;
    Job* jobs = static_cast<Job*>(runner.alloc(batch * q_heads * static_cast<int64_t>(sizeof(Job))));
    int32_t* heads = static_cast<int32_t*>(runner.alloc(batch * q_heads * 4));
    Jobs made{jobs, 0, 0, 0};
    for (int64_t b = 0; b < batch; ++b) {
        for (int64_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
            const int64_t first = made.count;
            for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
                const Plane* plane = &call.layout->plane(b, h);
                bool known = false;
                for (int64_t j = first; j < made.count; ++j) known = known || jobs[j].plane == plane;
                if (known) continue;
                int64_t count = 0;
                for (int64_t other = h; other < (kv_head + 1) * group; ++other)
                    if (&call.layout->plane(b, other) == plane) heads[count++] = static_cast<int32_t>(other);
                jobs[made.count] = Job{b, kv_head, plane, heads, count, made.count - first};
                heads += count;
                ++made.count;
                if (plane->num_parts > made.max_parts) made.max_parts = plane->num_parts;
            }
            if (made.count - first > made.ranks) made.ranks = made.count - first;
        }
    }
    return made;
}

// Units of several jobs, numbered through.
struct Units {
    int64_t* first;  // [jobs + 1]
    int64_t jobs;

    int64_t total() const { return first[jobs]; }

    // the job of a unit; the unit becomes the one within the job
    int64_t locate(int64_t& unit) const {
        int64_t low = 0, high = jobs;  // first[low] <= unit < first[high]
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            (first[middle] <= unit ? low : high) = middle;
        }
        unit -= first[low];
        return low;
    }
};

// Which jobs form the next wave: few, so that packed memory is small and stays near, but enough units for all threads.
struct WaveSize {
    int64_t bytes, units;
    int64_t most_bytes, enough_units;

    // Whether a job that packs so many bytes and has so many units joins; the first of a wave always does.
    bool take(int64_t more_bytes, int64_t more_units) {
        const bool tiny = bytes + more_bytes <= (int64_t{1} << 20);
        if (bytes > 0 && !tiny && (units >= enough_units || bytes + more_bytes > most_bytes)) return false;
        bytes += more_bytes;
        units += more_units;
        return true;
    }
};

inline WaveSize wave_size(const Call& call, const Runner& runner, int64_t units_for_each_thread) {
    int64_t floats = 0;
    const Tensor* inputs[] = {&call.query, &call.key, &call.value};
    for (const Tensor* x : inputs) floats += x->shape[0] * x->shape[1] * x->shape[2] * x->shape[3];
    const int64_t half = floats * 4 / 2, least = int64_t{32} << 20;
    return {0, 0, half > least ? half : least, runner.threads() * units_for_each_thread};
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
