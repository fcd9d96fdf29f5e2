// Linear layers with float32 weights: y = W x + b, for the batches of a few to a few hundred rows that serving has.
//
// Libraries reorder a weight in every call, which costs more than the product when there are few rows. Here it is
// reordered once, and the memory of the next panel is fetched while this one is multiplied, whatever the rows:
//
//     packed weights, panels of (inputs, 48):  | 48 outputs of input 0 | the same of input 1 | … | next 48 outputs … |
//     packed rows, tiles of (768, 8):          | 8 rows of input 0 | the same of input 1 | … | next 8 rows … | next inputs … |
//
// The last panel may be narrower, and tiles lower.
//
// Sums are taken in the order of the inputs, 768 at a time: a row's result is the same bits whatever rows are beside it.

#pragma once

#include <algorithm>

#include "simd.h"
#include "team.h"

class Dense {
public:
    // Reorder a weight (outputs, inputs) in its place, on a cache line: a panel takes what its rows took.
    static void pack(float* weight, int outputs, int inputs) {
        Buffer<float> rows(size_t(kPanel) * inputs);
        for (int first = 0; first < outputs; first += kPanel) {
            const int wide = std::min(kPanel, outputs - first);
            float* panel = weight + size_t(first) * inputs;
            std::copy_n(panel, size_t(wide) * inputs, rows.get());
            for (int k = 0; k < inputs; ++k)
                for (int i = 0; i < wide; ++i) *panel++ = rows[size_t(i) * inputs + k];
        }
    }

    // packed: of `pack`. bias: (outputs,) or null.
    Dense(const float* packed, const float* bias, int outputs, int inputs)
        : packed_(packed), bias_(bias), outputs_(outputs), inputs_(inputs) {}

    // y (rows, outputs) = x (rows, inputs) times the weight, plus the bias.
    void apply(Team& team, const float* x, int rows, float* y) const {
        if (!rows) return;
        thread_local Buffer<float> scratch;
        scratch.at_least(size_t(rows) * inputs_);
        float* const a = scratch.get();
        const int num_tiles = (rows + kRows - 1) / kRows;
        const int64_t num_panels = (outputs_ + kPanel - 1) / kPanel;
        const int tasks = int(std::min<int64_t>(num_panels, team.num_threads() > 1 ? team.num_threads() * 8 : 1));
        team.run([&] {
            team.each(num_tiles, [&](int tile) { pack_rows(x, rows, tile, a); });
            team.each(tasks, [&](int task) { multiply(a, rows, y, num_panels * task / tasks, num_panels * (task + 1) / tasks); });
        });
    }

private:
    static constexpr int kPanel = 48;    // outputs: 3 registers; with 8 rows 24 of the 32 hold sums
    static constexpr int kRows = 8;      // in a tile
    static constexpr int kDepth = 768;   // inputs at a time: a block of a panel, 144 KiB, stays in the second-level cache
    static constexpr int kStep = 8;      // inputs between two looks at what is to be fetched
    static constexpr int kNear = 2048;   // floats that are fetched ahead for a single tile
    static constexpr int kLine = 64;     // bytes of a cache line

    // Tiles as even as they go: 9 rows are 5 and 4.
    static int first_row(int rows, int tile) {
        const int num_tiles = (rows + kRows - 1) / kRows;
        return int(int64_t(rows) * tile / num_tiles);
    }

    // Memory that is fetched a little at a time.
    struct Ahead {
        const char* at;
        const char* end;
        void fetch(int lines) {
            for (int i = 0; i < lines && at < end; ++i, at += kLine) _mm_prefetch(at, _MM_HINT_T1);
        }
    };

    void pack_rows(const float* x, int rows, int tile, float* a) const {
        const int first = first_row(rows, tile), height = first_row(rows, tile + 1) - first;
        for (int start = 0; start < inputs_; start += kDepth) {
            float* to = a + size_t(start) * rows + size_t(first) * std::min(kDepth, inputs_ - start);
            for (int k = start; k < std::min(start + kDepth, inputs_); k += kLanes, to += kLanes * height)
                for (int row = 0; row < height; ++row) {
                    const float* from = x + size_t(first + row) * inputs_ + k;
                    alignas(64) float lanes[kLanes];
                    const int count = std::min(kLanes, inputs_ - k);
                    _mm512_store_ps(lanes, _mm512_maskz_loadu_ps(mask(count), from));
                    for (int i = 0; i < kLanes && i < count; ++i) to[i * height + row] = lanes[i];
                }
        }
    }

    void multiply(const float* a, int rows, float* y, int64_t panel, int64_t last) const {
        const int num_tiles = (rows + kRows - 1) / kRows;
        const float* const end = packed_ + std::min<int64_t>(last * kPanel, outputs_) * inputs_;
        for (; panel < last; ++panel) {
            const int wide = int(std::min<int64_t>(kPanel, outputs_ - panel * kPanel));
            for (int start = 0; start < inputs_; start += kDepth) {
                const int depth = std::min(kDepth, inputs_ - start);
                const float* w = packed_ + panel * kPanel * inputs_ + size_t(start) * wide;
                const int lines = (kStep * kPanel * 4 / kLine + num_tiles - 1) / num_tiles;
                // the next block while this one is read again and again; alone, a tile is read as it comes from memory
                const float* next = w + (num_tiles > 1 ? size_t(depth) * wide : size_t(kNear));
                Ahead ahead{reinterpret_cast<const char*>(next), reinterpret_cast<const char*>(end)};
                for (int tile = 0; tile < num_tiles; ++tile) {
                    const int row = first_row(rows, tile);
                    const Block block{a + size_t(start) * rows + size_t(row) * depth, w, depth, wide,
                                      y + size_t(row) * outputs_ + panel * kPanel, start ? nullptr : bias(panel), start == 0};
                    switch (first_row(rows, tile + 1) - row) {
                        case 1: add<1>(block, ahead, lines); break;
                        case 2: add<2>(block, ahead, lines); break;
                        case 3: add<3>(block, ahead, lines); break;
                        case 4: add<4>(block, ahead, lines); break;
                        case 5: add<5>(block, ahead, lines); break;
                        case 6: add<6>(block, ahead, lines); break;
                        case 7: add<7>(block, ahead, lines); break;
                        default: add<8>(block, ahead, lines);
                    }
                }
            }
        }
    }

    const float* bias(int64_t panel) const { return bias_ ? bias_ + panel * kPanel : nullptr; }

    // Some inputs of a panel times the rows of a tile.
    struct Block {
        const float* a;     // rows: (depth, R)
        const float* w;     // weights: (depth, wide)
        int depth;
        int wide;           // outputs: 48, fewer in the last panel
        float* y;           // of the first row and output
        const float* bias;  // of the panel, where the output begins with it
        bool begins;        // or the output holds a part of the sum
    };

    template <int R>
    void add(const Block& block, Ahead& ahead, int lines) const {
        if (block.wide == kPanel)
            add<R, true>(block, ahead, lines);
        else
            add<R, false>(block, ahead, lines);
    }

    template <int R, bool kWhole>
    void add(const Block& block, Ahead& ahead, int lines) const {
        constexpr int kParts = kPanel / kLanes;
        __mmask16 masks[kParts];
        for (int i = 0; i < kParts; ++i) masks[i] = mask(block.wide - i * kLanes);
        __m512 sums[R][kParts] = {};
        const float *a = block.a, *w = block.w;
        const int wide = kWhole ? kPanel : block.wide;
        const auto multiply = [&] {
#pragma GCC unroll 8
            for (int row = 0; row < R; ++row)
#pragma GCC unroll 3
                for (int i = 0; i < kParts; ++i) {
                    const __m512 part = kWhole ? _mm512_load_ps(w + i * kLanes) : _mm512_maskz_loadu_ps(masks[i], w + i * kLanes);
                    sums[row][i] = _mm512_fmadd_ps(_mm512_set1_ps(a[row]), part, sums[row][i]);
                }
            a += R, w += wide;
        };
        int k = 0;
        for (; k + kStep <= block.depth; k += kStep) {
            ahead.fetch(lines);
#pragma GCC unroll 8
            for (int step = 0; step < kStep; ++step) multiply();
        }
        for (; k < block.depth; ++k) multiply();
        for (int i = 0; i < kParts; ++i)
            for (int row = 0; row < R; ++row) {
                float* to = block.y + size_t(row) * outputs_ + i * kLanes;
                const float* from = !block.begins ? to : block.bias ? block.bias + i * kLanes : nullptr;
                if (from) sums[row][i] = _mm512_add_ps(sums[row][i], _mm512_maskz_loadu_ps(masks[i], from));
                _mm512_mask_storeu_ps(to, masks[i], sums[row][i]);
            }
    }

    // The lanes below `count`.
    static __mmask16 mask(int64_t count) { return count >= kLanes ? 0xffff : count <= 0 ? 0 : __mmask16((1 << count) - 1); }

    const float* packed_;
    const float* bias_;
    int outputs_;
    int inputs_;
};
