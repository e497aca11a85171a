// The words, all int64; an offset is a number of words from the start, 0 where there is nothing:
//   header[16]: magic, count, q_len, kv_len, q_start, planes, parts, index batch, index heads,
//               q_position_rows, kv_position_rows, and offsets of index, planes, parts, q_positions, kv_positions
//   plane[4]:   first part, stop part, offsets of query_sees and key_seen
//   part[22]:   q_block, kv_block, q_blocks, kv_blocks, num_masks, mask_row_bytes, q_natural, kv_natural, then an
//               offset for each array of Part in its order
// Arrays of int32 and uint8 lie in words, the last one padded.
#include "layout.h"

#include <stdexcept>

namespace openwork {

namespace {

constexpr int64_t kMagic = 0x6F70656E776F726B;  // "openwork"
constexpr int64_t kHeader = 16, kPlane = 4, kPart = 22;

class Words {
public:
    Words(const int64_t* words, int64_t count) : words_(words), count_(count) {}

    const int64_t* at(int64_t offset, int64_t length) const {
        if (offset < 0 || length < 0 || offset > count_ || length > count_ - offset)
            throw std::invalid_argument("the layout's words are cut short");
        return words_ + offset;
    }

    template <typename T>
    const T* array(int64_t offset, int64_t length) const {
        if (offset == 0) return nullptr;
        const int64_t per_word = int64_t{sizeof(int64_t)} / int64_t{sizeof(T)};
        return reinterpret_cast<const T*>(at(offset, (length + per_word - 1) / per_word));
    }

    const int32_t* offsets(int64_t offset, int64_t blocks) const { return array<int32_t>(offset, blocks + 1); }

private:
    const int64_t* words_;
    int64_t count_;
};

Part read_part(const Words& words, const int64_t* w) {
    Part part{};
    part.q_block = w[0], part.kv_block = w[1], part.q_blocks = w[2], part.kv_blocks = w[3];
    part.num_masks = w[4], part.mask_row_bytes = w[5], part.q_natural = w[6] != 0, part.kv_natural = w[7] != 0;
    part.q_order = words.array<int32_t>(w[8], part.q_blocks * part.q_block);
    part.kv_order = words.array<int32_t>(w[9], part.kv_blocks * part.kv_block);
    part.full_offsets = words.offsets(w[10], part.q_blocks);
    part.full_runs = words.array<int32_t>(w[11], 2 * int64_t{part.full_offsets[part.q_blocks]});
    part.partial_offsets = words.offsets(w[12], part.q_blocks);
    const int64_t entries = part.partial_offsets[part.q_blocks];
    part.partial_kv_block = words.array<int32_t>(w[13], entries);
    part.partial_mask = words.array<int32_t>(w[14], entries);
    part.masks = words.array<uint8_t>(w[15], part.num_masks * part.q_block * part.mask_row_bytes);
    part.kv_full_offsets = words.offsets(w[16], part.kv_blocks);
    part.kv_full_runs = words.array<int32_t>(w[17], 2 * int64_t{part.kv_full_offsets[part.kv_blocks]});
    part.kv_partial_offsets = words.offsets(w[18], part.kv_blocks);
    part.kv_partial_q_block = words.array<int32_t>(w[19], entries);
    part.kv_partial_mask = words.array<int32_t>(w[20], entries);
    return part;
}

}  // namespace

LayoutView::LayoutView(const int64_t* start, int64_t count) : layout_{} {
    const Words words(start, count);
    const int64_t* h = words.at(0, kHeader);
    if (h[0] != kMagic || h[1] != count) throw std::invalid_argument("these words are no lowered layout");
    const int64_t num_planes = h[5], num_parts = h[6];
    const int64_t* parts = words.at(h[13], num_parts * kPart);
    for (int64_t i = 0; i < num_parts; ++i) parts_.push_back(read_part(words, parts + i * kPart));
    const int64_t* planes = words.at(h[12], num_planes * kPlane);
    for (int64_t i = 0; i < num_planes; ++i) {
        const int64_t* w = planes + i * kPlane;
        if (w[0] < 0 || w[1] < w[0] || w[1] > num_parts) throw std::invalid_argument("a plane has no such parts");
        planes_.push_back({parts_.data() + w[0], w[1] - w[0], words.array<uint8_t>(w[2], h[2]),
                           words.array<uint8_t>(w[3], h[3])});
    }
    layout_.q_len = h[2], layout_.kv_len = h[3], layout_.q_start = h[4];
    layout_.num_planes = num_planes, layout_.index_batch = h[7], layout_.index_heads = h[8];
    layout_.planes = planes_.data();
    layout_.index = words.array<int32_t>(h[11], h[7] * h[8]);
    layout_.q_position_rows = h[9], layout_.kv_position_rows = h[10];
    layout_.q_positions = words.array<int64_t>(h[14], h[9] * h[2]);
    layout_.kv_positions = words.array<int64_t>(h[15], h[10] * h[3]);
}

}  // namespace openwork
