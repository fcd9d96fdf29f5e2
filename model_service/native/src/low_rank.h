// LoRA: what an adapter adds to a linear layer for its own rows, y += B' (A x), in half precision.
//
// Every row may have its own matrices, so each is read once per row: both lie in the order in which they are read.

#pragma once

#include "simd.h"

struct LowRank {
    int rank = 0;
    int inputs = 0, outputs = 0;  // padded to whole groups and registers, with zeros
    uint16_t* a = nullptr;        // (rank, inputs)
    uint16_t* b = nullptr;        // (outputs / 16, rank, 16)

    // The numbers of half precision that `load` writes.
    static size_t size(int rank, int in, int out) { return size_t(rank) * (round_up(in, 64) + round_up(out, kLanes)); }

    // a_values: (rank, in), b_values: (rank, out), row by row. room: zeroed, for `size` numbers.
    void load(const float* a_values, const float* b_values, int rank_, int in, int out, uint16_t* room) {
        rank = rank_;
        inputs = round_up(in, 64);
        outputs = round_up(out, kLanes);
        a = room;
        b = a + size_t(rank) * inputs;
        for (int j = 0; j < rank; ++j) {
            for (int i = 0; i < in; ++i) a[size_t(j) * inputs + i] = half(a_values[size_t(j) * in + i]);
            for (int o = 0; o < out; ++o) b[(size_t(o / kLanes) * rank + j) * kLanes + o % kLanes] = half(b_values[size_t(j) * out + o]);
        }
    }

    // thin (rank,) = A x. x: readable and zero up to `inputs`.
    void narrow(const float* x, float* thin) const {
        for (int j = 0; j < rank; ++j) {
            const uint16_t* row = a + size_t(j) * inputs;
            __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
            for (int i = 0; i < inputs; i += 4 * kLanes)
                for (int c = 0; c < 4; ++c)
                    sums[c] = _mm512_fmadd_ps(half_to_float(row + i + c * kLanes), _mm512_loadu_ps(x + i + c * kLanes), sums[c]);
            thin[j] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
        }
    }

    // Return y plus outputs `output` to `output + 15` of B thin.
    __m512 widen(__m512 y, const float* thin, int output) const {
        const uint16_t* column = b + size_t(output) * rank;
        __m512 odd = _mm512_setzero_ps();  // two sums: one would wait for itself
        int j = 0;
        for (; j + 1 < rank; j += 2) {
            _mm_prefetch(reinterpret_cast<const char*>(column + (rank + j) * kLanes), _MM_HINT_T0);  // for the next 16
            y = _mm512_fmadd_ps(_mm512_set1_ps(thin[j]), half_to_float(column + j * kLanes), y);
            odd = _mm512_fmadd_ps(_mm512_set1_ps(thin[j + 1]), half_to_float(column + (j + 1) * kLanes), odd);
        }
        if (j < rank) y = _mm512_fmadd_ps(_mm512_set1_ps(thin[j]), half_to_float(column + j * kLanes), y);
        return _mm512_add_ps(y, odd);
    }

private:
    static uint16_t half(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

// What one row of a step gets added to one linear layer.
struct Added {
    const LowRank* low_rank = nullptr;
    const float* thin = nullptr;  // A x
};
