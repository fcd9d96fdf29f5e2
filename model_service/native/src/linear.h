// Linear layers with int8 weights: y = W x + b.
//
// A weight has one scale per output; an activation row has one scale per group of 64 inputs. Products are summed in
// int32 within a group and in float over the groups, always in the same order: a row's result is the same bits
// whatever rows are beside it, and however many.
//
//     packed weights, for AVX512-VNNI (vpdpbusd: 4 unsigned times 4 signed bytes, summed into each of 16 int32):
//     | 32 outputs | 4 inputs of outputs 0-15, of outputs 16-31 | the next 4 inputs … |   next 32 outputs …
//
// Weights are stored plus 128 since one side must be unsigned; the sum starts at -128 times the sum of the activations.

#pragma once

#include <algorithm>

#include "low_rank.h"
#include "simd.h"

constexpr int kGroup = 64;    // inputs that share an activation scale
constexpr int kOutputs = 32;  // outputs in a block of packed weights
constexpr int kAhead = 3;     // groups of weights that are fetched from memory while one is multiplied
constexpr int kNotFinite = 0x99;  // quiet NaN, plus and minus infinity, signalling NaN
constexpr int kRows = 6;      // rows in a tile: 2 x 6 int32 and 2 x 6 float registers of the 32

// Rows of activations as the kernels read them.
struct Quantized {
    Buffer<int8_t> values;   // (N, K)
    Buffer<float> scales;    // (N, K / 64)
    Buffer<int32_t> starts;  // (N, K / 64): -128 times the group's sum

    // Make room. width: the largest K, a multiple of 64.
    void reserve(int rows, int width) {
        values.at_least(size_t(rows) * width);
        scales.at_least(size_t(rows) * width / kGroup);
        starts.at_least(size_t(rows) * width / kGroup);
    }

    // Write one of rows that are `width` wide. x: (width,).
    void set(int row, const float* x, int width) {
        const int groups = width / kGroup;
        for (int g = 0; g < groups; ++g) {
            __m512 part[4];
            __m512 largest = _mm512_setzero_ps();
            __mmask16 broken = 0;  // a maximum would lose a NaN
            for (int i = 0; i < 4; ++i) {
                part[i] = _mm512_loadu_ps(x + g * kGroup + i * kLanes);
                broken |= _mm512_fpclass_ps_mask(part[i], kNotFinite);
                largest = _mm512_max_ps(largest, _mm512_abs_ps(part[i]));
            }
            const float absmax = _mm512_reduce_max_ps(largest);
            const __m512 factor = _mm512_set1_ps(absmax > 0 ? 127.0f / absmax : 0.0f);
            __m512i sum = _mm512_setzero_si512();
            for (int i = 0; i < 4; ++i) {
                const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(part[i], factor));
                sum = _mm512_add_epi32(sum, q);
                _mm_store_si128(reinterpret_cast<__m128i*>(&values[size_t(row) * width + g * kGroup + i * kLanes]),
                                _mm512_cvtsepi32_epi8(q));
            }
            scales[size_t(row) * groups + g] = broken ? NAN : absmax * (1.0f / 127.0f);
            starts[size_t(row) * groups + g] = -128 * _mm512_reduce_add_epi32(sum);
        }
    }
};

// What is done with a product before it is stored.
struct Epilogue {
    Activation activation = Activation::none;
    bool add = false;              // to what the output holds: the residual
    const Added* added = nullptr;  // for each row, or null where no row has anything
};

class Linear {
public:
    // Quantise and pack some outputs of all, from `first`; those from 0 come first and make room for all.
    // weight: (count, inputs) row by row; bias: (outputs,) or null.
    void load(const float* weight, const float* bias, int outputs, int inputs, int first, int count) {
        if (first == 0) make_room(bias, outputs, inputs);
        for (int i = 0; i < count; ++i) pack(weight + size_t(i) * inputs, first + i, inputs);
    }

    int outputs() const { return outputs_; }
    size_t size_bytes() const { return packed_.size_bytes() + scales_.size_bytes() + bias_.size_bytes(); }

    // In how many tasks to share out the outputs: long runs for the prefetcher, and yet several for each thread.
    int num_tasks(int num_threads) const { return std::min(num_blocks(), num_threads * 12); }

    // A task's part of y (rows, stride) = epilogue(W x + b).
    void apply(int task, int tasks, const Quantized& x, int rows, float* y, int stride, Epilogue epilogue) const {
        const int64_t blocks = num_blocks();
        for (int64_t block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block)
            multiply(x, rows, y, stride, int(block), epilogue);
    }

private:
    void make_room(const float* bias, int outputs, int inputs) {
        outputs_ = outputs;
        width_ = round_up(inputs, kGroup);
        const int padded = round_up(outputs, kOutputs);
        packed_.resize(size_t(padded) * width_);
        scales_.resize(padded);
        bias_.resize(padded);
        std::memset(packed_.get(), 128, size_t(padded) * width_);
        if (bias) std::copy_n(bias, outputs, bias_.get());
    }

    int num_blocks() const { return round_up(outputs_, kOutputs) / kOutputs; }

    void pack(const float* row, int output, int inputs) {
        float absmax = 0;
        for (int i = 0; i < inputs; ++i) absmax = std::max(absmax, std::fabs(row[i]));
        const float factor = absmax > 0 ? 127.0f / absmax : 0.0f;
        scales_[output] = absmax * (1.0f / 127.0f);
        const int lane = output % kOutputs;
        uint8_t* block = packed_.get() + size_t(output / kOutputs) * kOutputs * width_ + lane * 4;
        for (int i = 0; i < inputs; ++i)
            block[size_t(i / 4) * kOutputs * 4 + i % 4] = uint8_t(128 + std::lrintf(row[i] * factor));
    }

    void multiply(const Quantized& x, int rows, float* y, int stride, int block, Epilogue epilogue) const {
        const int tiles = (rows + kRows - 1) / kRows;
        for (int tile = 0, row = 0; tile < tiles; ++tile) {
            const int height = (rows - row + tiles - tile - 1) / (tiles - tile);  // even tiles: 8 rows are 4 and 4
            switch (height) {
                case 1: multiply_tile<1>(x, row, y, stride, block, tile == 0, epilogue); break;
                case 2: multiply_tile<2>(x, row, y, stride, block, tile == 0, epilogue); break;
                case 3: multiply_tile<3>(x, row, y, stride, block, tile == 0, epilogue); break;
                case 4: multiply_tile<4>(x, row, y, stride, block, tile == 0, epilogue); break;
                case 5: multiply_tile<5>(x, row, y, stride, block, tile == 0, epilogue); break;
                default: multiply_tile<6>(x, row, y, stride, block, tile == 0, epilogue);
            }
            row += height;
        }
    }

    template <int R>
    void multiply_tile(const Quantized& x, int row, float* y, int stride, int block, bool fetch, Epilogue epilogue) const {
        const int groups = width_ / kGroup;
        const uint8_t* w = packed_.get() + size_t(block) * kOutputs * width_;
        const int8_t* values = x.values.get() + size_t(row) * width_;
        const float* scales = x.scales.get() + size_t(row) * groups;
        const int32_t* starts = x.starts.get() + size_t(row) * groups;
        __m512 sums[R][2];
        for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
        for (int g = 0; g < groups; ++g, w += kGroup * kOutputs) {
            if (fetch)
                for (int line = 0; line < kGroup * kOutputs; line += 64)
                    _mm_prefetch(reinterpret_cast<const char*>(w) + kAhead * kGroup * kOutputs + line, _MM_HINT_T0);
            __m512i ints[R][2];
            for (int r = 0; r < R; ++r) ints[r][0] = ints[r][1] = _mm512_set1_epi32(starts[r * groups + g]);
#pragma GCC unroll 16
            for (int k = 0; k < kGroup / 4; ++k) {
                const __m512i w0 = _mm512_load_si512(w + k * 128), w1 = _mm512_load_si512(w + k * 128 + 64);
                for (int r = 0; r < R; ++r) {
                    int32_t four;
                    std::memcpy(&four, values + size_t(r) * width_ + g * kGroup + k * 4, 4);
                    const __m512i xs = _mm512_set1_epi32(four);
                    ints[r][0] = _mm512_dpbusd_epi32(ints[r][0], w0, xs);
                    ints[r][1] = _mm512_dpbusd_epi32(ints[r][1], w1, xs);
                }
            }
            for (int r = 0; r < R; ++r) {
                const __m512 scale = _mm512_set1_ps(scales[r * groups + g]);
                sums[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints[r][0]), scale, sums[r][0]);
                sums[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints[r][1]), scale, sums[r][1]);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int half = 0; half < 2; ++half)
                store(sums[r][half], row + r, y + size_t(row + r) * stride, block * kOutputs + half * kLanes, epilogue);
    }

    void store(__m512 sum, int row, float* y, int output, Epilogue epilogue) const {
        if (output >= outputs_) return;
        const __mmask16 valid = __mmask16((1u << std::min(kLanes, outputs_ - output)) - 1);
        __m512 value = _mm512_fmadd_ps(sum, _mm512_load_ps(&scales_[output]), _mm512_load_ps(&bias_[output]));
        if (epilogue.added && epilogue.added[row].low_rank)
            value = epilogue.added[row].low_rank->widen(value, epilogue.added[row].thin, output);
        value = activate(value, epilogue.activation);
        if (epilogue.add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(valid, y + output));
        _mm512_mask_storeu_ps(y + output, valid, value);
    }

    Buffer<uint8_t> packed_;
    Buffer<float> scales_, bias_;  // (outputs,), zero beyond
    int outputs_ = 0, width_ = 0;
};
