// Draws a token from a row of logits, as engine/sampler.py defines it: temperature, min_p, top_k, top_p, then the inverse
// of the cumulative sum at u, where u is a function of (seed, position). A row's draw depends on that row alone.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "simd.h"

struct Draw {  // `Draw` in library.py
    uint64_t seed, position;
    float temperature, top_p, min_p;
    int32_t top_k;  // 0: off
};

constexpr int kNotANumber = -1;  // instead of a token, where the model's numbers broke
constexpr int kSpan = 64;        // logits that share a partial sum and a maximum

// A number in [0, 1) of (seed, position) alone (SplitMix64, Steele et al. 2014); sampler.uniform is its twin.
inline double uniform(uint64_t seed, uint64_t position) {
    const auto mix = [](uint64_t z) {
        z += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return (z ^ (z >> 31)) >> 11 << 11;  // 53 bits
    };
    return double(mix(mix(seed) + position)) * 0x1p-64;
}

class RowDraw {
public:
    // logits: (V,). Returns a token id, or kNotANumber.
    int run(const float* logits, int vocab_size, const Draw& draw) {
        const int best = largest(logits, vocab_size);
        if (best == kNotANumber || draw.temperature <= 0) return best;
        weigh(logits, vocab_size, logits[best], draw.temperature);
        const double u = uniform(draw.seed, draw.position);
        const bool truncates = draw.top_k > 0 || draw.top_p < 1 || draw.min_p > 0;
        return truncates ? among_best(draw, u) : among_all(u);
    }

    // The first of the largest logits, or kNotANumber if one is NaN or none is finite.
    static int largest(const float* logits, int n) {
        __m512 top = _mm512_set1_ps(-INFINITY);
        __mmask16 nan = 0;
        for (int i = 0; i < n; i += kLanes) {
            const __m512 x = _mm512_mask_loadu_ps(top, first(n - i), logits + i);
            nan |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
            top = _mm512_max_ps(top, x);
        }
        const float best = _mm512_reduce_max_ps(top);
        if (nan || !std::isfinite(best)) return kNotANumber;
        for (int i = 0;; i += kLanes) {
            const __mmask16 found = _mm512_mask_cmp_ps_mask(first(n - i), _mm512_maskz_loadu_ps(first(n - i), logits + i), _mm512_set1_ps(best), _CMP_EQ_OQ);
            if (found) return i + __builtin_ctz(found);
        }
    }

private:
    static __mmask16 first(int n) { return n >= kLanes ? 0xffff : __mmask16((1u << n) - 1); }

    // weights_[i] = e^((logit - largest) / temperature), with sums and maxima of every span.
    void weigh(const float* logits, int n, float best, float temperature) {
        count_ = n;
        const int spans = (n + kSpan - 1) / kSpan;
        weights_.resize(size_t(spans) * kSpan);
        sums_.resize(spans);
        maxima_.resize(spans);
        total_ = 0;
        for (int s = 0; s < spans; ++s) {
            __m512 sum = _mm512_setzero_ps(), top = _mm512_setzero_ps();
            for (int i = s * kSpan; i < (s + 1) * kSpan; i += kLanes) {
                const __mmask16 valid = i < n ? first(n - i) : 0;
                const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(valid, logits + i), _mm512_set1_ps(best));
                const __m512 w = _mm512_maskz_mov_ps(valid, exp(_mm512_div_ps(x, _mm512_set1_ps(temperature))));
                _mm512_storeu_ps(&weights_[i], w);
                sum = _mm512_add_ps(sum, w);
                top = _mm512_max_ps(top, w);
            }
            total_ += sums_[s] = _mm512_reduce_add_ps(sum);
            maxima_[s] = _mm512_reduce_max_ps(top);
        }
    }

    // In order of ids: which one's share of the sum u falls into.
    int among_all(double u) const {
        double target = u * total_;
        size_t span = 0;
        for (; span + 1 < sums_.size() && target >= sums_[span]; ++span) target -= sums_[span];
        int last = 0;
        for (int i = int(span) * kSpan; i < std::min(count_, int(span + 1) * kSpan); ++i) {
            if (weights_[i] <= 0) continue;
            last = i;
            if ((target -= weights_[i]) < 0) break;
        }
        return last;
    }

    // In order of weight: the same among those that the filters keep.
    int among_best(const Draw& draw, double u) {
        gather(floor_of(draw));
        const size_t most = draw.top_k > 0 ? draw.top_k : candidates_.size();
        const bool filtered = draw.top_k > 0 || draw.min_p > 0;  // then top_p is a share of what they left
        const double whole = filtered ? heaviest(most, INFINITY).mass : total_;
        const Kept kept = heaviest(most, draw.top_p < 1 ? double(draw.top_p) * whole : INFINITY);
        double target = u * kept.mass;
        size_t passed = 0;
        for (Bucket& bucket : buckets_) {
            if (target >= bucket.mass && passed + bucket.count() < kept.count) {
                target -= bucket.mass;
                passed += bucket.count();
                continue;
            }
            sort(bucket);
            for (size_t i = bucket.begin;; ++i)
                if ((target -= weights_[candidates_[i]]) < 0 || ++passed == kept.count || i + 1 == bucket.end) return candidates_[i];
        }
        return candidates_[0];
    }

    struct Kept {
        size_t count;
        double mass;
    };
    struct Bucket {  // candidates of about the same weight, heaviest bucket first; inside it they are sorted when needed
        size_t begin, end;
        double mass;
        bool sorted;
        size_t count() const { return end - begin; }
    };

    // The heaviest candidates: at most `most`, and none with `mass` or more before it.
    Kept heaviest(size_t most, double mass) {
        Kept kept{0, 0};
        for (Bucket& bucket : buckets_) {
            if (kept.count + bucket.count() <= most && kept.mass + bucket.mass < mass) {
                kept = {kept.count + bucket.count(), kept.mass + bucket.mass};
                continue;
            }
            sort(bucket);
            for (size_t i = bucket.begin; i < bucket.end; ++i) {
                if (kept.count && (kept.count == most || kept.mass >= mass)) return kept;
                kept = {kept.count + 1, kept.mass + weights_[candidates_[i]]};
            }
        }
        return kept;
    }

    void sort(Bucket& bucket) {
        if (bucket.sorted) return;
        bucket.sorted = true;
        std::sort(candidates_.begin() + bucket.begin, candidates_.begin() + bucket.end,
                  [this](int a, int b) { return weights_[a] != weights_[b] ? weights_[a] > weights_[b] : a < b; });
    }

    // A weight below which nothing can be kept; the largest weight is 1.
    float floor_of(const Draw& draw) {
        float floor = std::max(draw.min_p, std::numeric_limits<float>::min());
        if (draw.top_k > 0 && size_t(draw.top_k) <= maxima_.size()) {  // so many spans reach it, so at least so many weights
            std::vector<float>& sorted = scratch_ = maxima_;
            std::nth_element(sorted.begin(), sorted.begin() + draw.top_k - 1, sorted.end(), std::greater<>());
            floor = std::max(floor, sorted[draw.top_k - 1]);
        }
        if (draw.top_k == 0 && draw.min_p == 0)  // all that are lighter weigh less than what top_p leaves out
            floor = std::max(floor, float((1.0 - draw.top_p) * total_ / count_ * 0.999));
        return floor;
    }

    // Fill the buckets with all that weigh `floor` or more: a counting sort by exponent and four bits of mantissa.
    void gather(float floor) {
        found_.clear();
        for (size_t span = 0; span < maxima_.size(); ++span) {
            if (maxima_[span] < floor) continue;
            for (int i = int(span) * kSpan; i < int(span + 1) * kSpan; i += kLanes)
                for (unsigned heavy = _mm512_cmp_ps_mask(_mm512_loadu_ps(&weights_[i]), _mm512_set1_ps(floor), _CMP_GE_OQ); heavy; heavy &= heavy - 1)
                    found_.push_back(i + __builtin_ctz(heavy));
        }
        const int lowest = level(floor), levels = level(1.0f) - lowest + 1;
        counts_.assign(levels + 1, 0);
        for (int i : found_) ++counts_[level(1.0f) - level(weights_[i]) + 1];
        buckets_.clear();
        for (int l = 0; l < levels; ++l) {
            const size_t begin = counts_[l];
            counts_[l + 1] += begin;
            buckets_.push_back({begin, counts_[l + 1], 0, false});
        }
        candidates_.resize(found_.size());
        for (int i : found_) {
            const int l = level(1.0f) - level(weights_[i]);
            candidates_[counts_[l]++] = i;
            buckets_[l].mass += weights_[i];
        }
        std::erase_if(buckets_, [](const Bucket& bucket) { return bucket.begin == bucket.end; });
    }

    static int level(float weight) {
        uint32_t bits;
        std::memcpy(&bits, &weight, 4);
        return int(bits >> 19);
    }

    int count_ = 0;
    double total_ = 0;
    std::vector<float> weights_, maxima_, scratch_;
    std::vector<double> sums_;
    std::vector<int> found_, candidates_;  // ids: as found, and by bucket
    std::vector<size_t> counts_;
    std::vector<Bucket> buckets_;
};
