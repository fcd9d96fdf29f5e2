// Layer norm: a row less its mean, over its standard deviation, times a weight plus a bias.

#pragma once

#include <algorithm>

#include "simd.h"

struct Norm {
    Buffer<float> weight, bias;  // zero beyond their size, up to whole groups of 64

    void load(const float* weight_values, const float* bias_values, int size) {
        weight.resize(round_up(size, 64));
        bias.resize(round_up(size, 64));
        std::copy_n(weight_values, size, weight.get());
        std::copy_n(bias_values, size, bias.get());
    }

    // x, out: rows of `size` floats, up to whole groups; x is zero beyond its size, out becomes so.
    void apply(const float* x, float* out, int size, float epsilon) const {
        const int padded = round_up(size, 64);
        __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (int i = 0; i < padded; i += kLanes) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / size);
        for (int i = 0; i < size; i += kLanes) {
            const __mmask16 valid = size - i >= kLanes ? 0xffff : __mmask16((1u << (size - i)) - 1);
            const __m512 d = _mm512_maskz_sub_ps(valid, _mm512_loadu_ps(x + i), mean);
            squares = _mm512_fmadd_ps(d, d, squares);
        }
        const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / size + epsilon));
        for (int i = 0; i < padded; i += kLanes) {
            const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), scale);
            _mm512_storeu_ps(out + i, _mm512_fmadd_ps(d, _mm512_load_ps(&weight[i]), _mm512_load_ps(&bias[i])));
        }
    }
};
