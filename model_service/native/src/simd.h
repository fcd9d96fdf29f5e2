// Sixteen floats at a time: half precision, the exponential, the activations, and memory in large pages.

#pragma once

#include <immintrin.h>
#include <sys/mman.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

constexpr int kLanes = 16;  // floats in a register

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Zeroed memory on whole 2 MiB pages where the system has them; pages are taken when first written.
template <typename T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t count) { resize(count); }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() { release(); }

    // Make room for `count` elements; what was there is lost.
    void resize(size_t count) {
        release();
        if (!count) return;
        size_ = (count * sizeof(T) + 4095) / 4096 * 4096;
        void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            size_ = 0;
            throw std::bad_alloc();
        }
        if (size_ >= (1u << 21)) madvise(memory, size_, MADV_HUGEPAGE);
        begin_ = static_cast<T*>(memory);
    }
    void at_least(size_t count) {
        if (size_ < count * sizeof(T)) resize(count);
    }
    T* get() const { return begin_; }
    T& operator[](size_t i) const { return begin_[i]; }
    size_t size_bytes() const { return size_; }

private:
    void swap(Buffer& other) {
        std::swap(begin_, other.begin_);
        std::swap(size_, other.size_);
    }
    void release() {
        if (begin_) munmap(begin_, size_);
        begin_ = nullptr;
        size_ = 0;
    }
    T* begin_ = nullptr;
    size_t size_ = 0;
};

inline __m512 half_to_float(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline void float_to_half(uint16_t* to, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// e^x, to about 2 units in the last place; 0 below -87, infinite above 88, NaN stays NaN.
inline __m512 exp(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // r = x - n ln 2, in two parts so that no digits are lost
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);  // Cephes' expf
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

enum class Activation : int { none = -1, gelu_tanh = 0, gelu = 1, relu = 2, silu = 3 };

inline __m512 silu(__m512 x, __m512 slope) {  // x / (1 + e^(-slope x))
    const __m512 e = exp(_mm512_mul_ps(x, _mm512_sub_ps(_mm512_setzero_ps(), slope)));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

inline __m512 activate(__m512 x, Activation activation) {
    switch (activation) {
        case Activation::none:
            return x;
        case Activation::relu:
            return _mm512_max_ps(x, _mm512_setzero_ps());
        case Activation::silu:
            return silu(x, _mm512_set1_ps(1.0f));
        case Activation::gelu_tanh: {
            // (1 + tanh u) / 2 is the logistic function of 2u
            const __m512 x2 = _mm512_mul_ps(x, x);
            return silu(x, _mm512_fmadd_ps(x2, _mm512_set1_ps(1.5957691216f * 0.044715f), _mm512_set1_ps(1.5957691216f)));
        }
        case Activation::gelu: {
            alignas(64) float lanes[kLanes];
            _mm512_store_ps(lanes, x);
            for (float& lane : lanes) lane = 0.5f * lane * (1.0f + std::erf(lane * 0.70710678f));
            return _mm512_load_ps(lanes);
        }
    }
    return x;
}
