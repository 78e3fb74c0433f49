// Eight tiles of 16 rows of 64 bytes: included as numbers.h is, by units that have tiles.

// A constant: the compiler sees no read of it and would drop stores to a local.
struct TileShape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
alignas(64) constexpr TileShape TILE_SHAPE;

// For as long as it lives. Others on this thread may use tiles too, so nothing is kept from call
// to call.
struct Tiles {
    Tiles() { _tile_loadconfig(&TILE_SHAPE); }
    ~Tiles() { _tile_release(); }
};
