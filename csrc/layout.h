// A layout as kernels read it: views of the words that openwork.ops.backends.cpu_lower writes.
#pragma once

#include <cstdint>
#include <vector>

#include "interface.h"

namespace openwork {

// The words must outlive it. Throws std::invalid_argument where they are not a lowered layout.
class LayoutView {
public:
    LayoutView(const int64_t* words, int64_t count);
    LayoutView(const LayoutView&) = delete;
    LayoutView& operator=(const LayoutView&) = delete;
    const Layout& layout() const { return layout_; }

private:
    std::vector<Part> parts_;
    std::vector<Plane> planes_;
    Layout layout_;
};

}  // namespace openwork
