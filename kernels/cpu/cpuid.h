// Whether this process may use tiles.
#pragma once

#include "common.h"

#ifdef EXACT_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cpu {

constexpr unsigned TILE_INT8 = 1u << 25, TILE_BF16 = 1u << 22;

// Tiles need a bit of cpuid, the one of the product, and the operating system's leave.
inline bool has_tiles(unsigned product) {
    unsigned a, b, c, d;
    constexpr unsigned TILE = 1u << 24;
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILE) && (d & product) &&
           syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

}  // namespace cpu
#endif
