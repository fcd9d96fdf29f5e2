// Causal attention over a cache in half precision, one slot a sequence.
//
//     (slot, T / 16, layer, head, keys (D, 16) | values (16, D))
//
// A tile holds 16 positions. Its keys lie side by side, so that a register gets 16 scores without a horizontal sum.
// Positions come before layers: a short answer takes little memory, and that in one piece.
//
// A query meets its keys and values in order of position, whatever other queries are read with it: the same bits
// alone and in a batch, for a prompt read whole or in chunks.

#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "simd.h"

constexpr int kTile = kLanes;  // positions in a tile of keys
constexpr int kQueries = 8;    // queries of one prompt that share each load of a key or value

// One head's tiles of one slot, one after the other `stride` apart.
struct Tiles {
    uint16_t* first;
    size_t stride;
    int width;  // D, rounded up to whole registers

    uint16_t* keys(int position) const { return first + position / kTile * stride; }
    uint16_t* values(int position) const { return keys(position) + kTile * width + position % kTile * width; }

    // Write a key and a value of `head_size` floats.
    void put(int position, const float* k, const float* v, int head_size) const {
        uint16_t *key = keys(position) + position % kTile, *value = values(position);
        alignas(64) uint16_t halves[kLanes];
        for (int d = 0; d < head_size; d += kLanes) {
            const int n = std::min(kLanes, head_size - d);
            const __mmask16 valid = __mmask16((1u << n) - 1);
            float_to_half(halves, _mm512_maskz_loadu_ps(valid, k + d));
            for (int i = 0; i < n; ++i) key[size_t(d + i) * kTile] = halves[i];
            float_to_half(value + d, _mm512_maskz_loadu_ps(valid, v + d));
        }
    }
};

// The keys and values of all slots. Slots can trade places without a copy.
class Cache {
public:
    Cache(int slots, int layers, int heads, int head_size, int context)
        : heads_(heads), width_(round_up(head_size, kLanes)), context_(round_up(context, kTile)) {
        head_stride_ = size_t(2) * kTile * width_;
        tile_stride_ = (size_t(layers) * heads + 1) * head_stride_;  // one more: else a head's tiles share cache sets
        slot_stride_ = context_ / kTile * tile_stride_;
        memory_.resize(slots * slot_stride_);
        places_.resize(slots);
        std::iota(places_.begin(), places_.end(), 0);
    }

    int context() const { return context_; }

    Tiles tiles(int slot, int layer, int head) const {
        return {memory_.get() + places_[slot] * slot_stride_ + (size_t(layer) * heads_ + head) * head_stride_, tile_stride_, width_};
    }

    void swap(int a, int b) { std::swap(places_[a], places_[b]); }

    // Copy the first `length` positions of a slot to another.
    void copy(int source, int target, int length) {
        std::memcpy(memory_.get() + places_[target] * slot_stride_, memory_.get() + places_[source] * slot_stride_,
                    size_t(round_up(length, kTile)) / kTile * tile_stride_ * sizeof(uint16_t));
    }

private:
    int heads_, width_, context_;
    size_t head_stride_, tile_stride_, slot_stride_;
    Buffer<uint16_t> memory_;
    std::vector<int> places_;  // slot -> where its content lies
};

// Attention of one head for `Q` neighbouring queries of a sequence; query i sees the first `seen + i` positions.
template <int Q>
class Attend {
public:
    // scores: room for Q x (context) floats. q, out: rows of `head_size` floats, `stride` apart.
    static void run(const Tiles& tiles, int seen, const float* q, int q_stride, int head_size, float scale,
                    float* scores, int room, float* out, int out_stride) {
        const int length = seen + Q - 1;
        for (int t = 0; t < length; t += kTile) score(tiles.keys(t), q, q_stride, head_size, scale, scores + t, room);
        float totals[Q];
        for (int i = 0; i < Q; ++i) totals[i] = softmax(scores + size_t(i) * room, seen + i, length);
        for (int d = 0; d < head_size; d += kWide * kLanes)
            mix(tiles, d, length, scores, room, totals, out + d, out_stride, head_size - d);
    }

private:
    static void score(const uint16_t* keys, const float* q, int q_stride, int head_size, float scale, float* scores, int room) {
        __m512 sums[Q][2];
        for (int i = 0; i < Q; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
        int d = 0;
        for (; d + 1 < head_size; d += 2) {
            const __m512 k0 = half_to_float(keys + d * kTile), k1 = half_to_float(keys + (d + 1) * kTile);
            for (int i = 0; i < Q; ++i) {
                sums[i][0] = _mm512_fmadd_ps(_mm512_set1_ps(q[size_t(i) * q_stride + d]), k0, sums[i][0]);
                sums[i][1] = _mm512_fmadd_ps(_mm512_set1_ps(q[size_t(i) * q_stride + d + 1]), k1, sums[i][1]);
            }
        }
        if (d < head_size)
            for (int i = 0; i < Q; ++i)
                sums[i][0] = _mm512_fmadd_ps(_mm512_set1_ps(q[size_t(i) * q_stride + d]), half_to_float(keys + d * kTile), sums[i][0]);
        for (int i = 0; i < Q; ++i)
            _mm512_storeu_ps(scores + size_t(i) * room,
                             _mm512_mul_ps(_mm512_add_ps(sums[i][0], sums[i][1]), _mm512_set1_ps(scale)));
    }

    // Turn scores into e^(score - largest), zero from `seen` to `length`; return their sum.
    static float softmax(float* scores, int seen, int length) {
        __m512 largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (int t = 0; t < seen; t += kLanes)
            largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(largest, first(seen - t), scores + t));
        const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
        for (int t = 0; t < round_up(length, kLanes); t += kLanes) {
            const __m512 x = _mm512_maskz_mov_ps(first(seen - t), exp(_mm512_sub_ps(_mm512_loadu_ps(scores + t), top)));
            total = _mm512_add_ps(total, x);
            _mm512_storeu_ps(scores + t, x);
        }
        return _mm512_reduce_add_ps(total);
    }

    static __mmask16 first(int n) { return n >= kLanes ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1); }

    static constexpr int kWide = Q == 1 ? 4 : 1;  // registers of a value's dimensions that are mixed in one pass

    // out = sum of probability times value, for up to 16 x kWide of the head's dimensions from `first_dim`.
    static void mix(const Tiles& tiles, int first_dim, int length, const float* scores, int room, const float* totals,
                    float* out, int out_stride, int dims) {
        __m512 sums[2][Q][kWide];  // positions even and odd: a sum waits four cycles for itself
        for (auto& chain : sums)
            for (auto& row : chain)
                for (__m512& sum : row) sum = _mm512_setzero_ps();
        const int wide = std::min(kWide, (tiles.width - first_dim) / kLanes);
        for (int start = 0; start < length; start += kTile) {
            const uint16_t* values = tiles.values(start) + first_dim;
            const int count = std::min(kTile, length - start);
            int t = 0;
            for (; t + 1 < count; t += 2) {
                add(sums[0], values + t * tiles.width, wide, scores + start + t, room);
                add(sums[1], values + (t + 1) * tiles.width, wide, scores + start + t + 1, room);
            }
            if (t < count) add(sums[0], values + t * tiles.width, wide, scores + start + t, room);
        }
        for (int i = 0; i < Q; ++i)
            for (int j = 0; j < wide; ++j)
                _mm512_mask_storeu_ps(out + size_t(i) * out_stride + j * kLanes, first(dims - j * kLanes),
                                      _mm512_mul_ps(_mm512_add_ps(sums[0][i][j], sums[1][i][j]), _mm512_set1_ps(1.0f / totals[i])));
    }

    static inline __attribute__((always_inline)) void add(__m512 (&sums)[Q][kWide], const uint16_t* value, int wide,
                                                          const float* probs, int room) {
        for (int j = 0; j < kWide; ++j) {
            if (kWide > 1 && j >= wide) break;
            const __m512 v = half_to_float(value + j * kLanes);
            for (int i = 0; i < Q; ++i)
                sums[i][j] = _mm512_fmadd_ps(_mm512_set1_ps(probs[size_t(i) * room]), v, sums[i][j]);
        }
    }
};
