// GPT-2 on a CPU: one call runs all layers for the tokens of a step.
//
//     x ─┬─ ln_1, quantise ─ qkv ─ put, attend ─ quantise ─ proj ─ + ─ ln_2, quantise ─ up, act ─ quantise ─ down ─ + ─┬─ ln_f
//        └──────────────────────────────────────── L times ────────────────────────────────────────────────────────┘
//
// Every ─ is a phase that the whole team shares: rows, blocks of outputs, or heads. Nothing of a row depends on
// another row of the batch, down to the bits (see linear.h and attention.h).

#pragma once

#include <array>
#include <chrono>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "norm.h"
#include "team.h"

struct Block {
    Norm ln_1, ln_2;
    Linear qkv, proj, up, down;
    float attention_scale;
};

struct Adapter {
    // In one piece, in the order in which a step reads it: small pages cost time.
    Adapter(int layers, size_t halves) : linears(layers), memory(halves) {}
    void set(int layer, int which, const float* a, const float* b, int low_rank, int in, int out) {
        linears[layer][which].load(a, b, low_rank, in, out, memory.get() + filled);
        filled += LowRank::size(low_rank, in, out);
        rank = std::max(rank, low_rank);
    }
    int rank = 0;                                 // the largest
    std::vector<std::array<LowRank, 4>> linears;  // by layer: qkv, proj, up, down; rank 0 where it adds nothing
    Buffer<uint16_t> memory;
    size_t filled = 0;
};

struct Chunk {  // `Tokens` in library.py: tokens of one slot, from position `start`
    int32_t slot, start, count;
    const Adapter* adapter;
};

struct Queries {  // a piece of attention's work: neighbouring rows of one chunk
    int slot, row, count, position;
    bool alone;  // the chunk's only token
};

struct Shape {
    int32_t vocab_size, n_positions, n_embd, n_layer, n_head, n_inner, activation;
    float epsilon;
};

// Where the time of a step goes; `PHASES` in library.py.
enum Phase { kPrepare, kQkvProduct, kAttention, kProjProduct, kUpProduct, kDownProduct, kHeadProduct, kPhases };

enum Which { kQkv, kProj, kUp, kDown };

constexpr int kQueriesPerTask = 32;

class Model {
public:
    Model(const Shape& shape, int slots, Team& team)
        : shape_(shape),
          head_size_(shape.n_embd / shape.n_head),
          team_(team),
          blocks_(shape.n_layer),
          cache_(slots, shape.n_layer, shape.n_head, head_size_, shape.n_positions) {}

    void set_norm(int layer, int which, const float* weight, const float* bias) {
        Norm& norm = layer == shape_.n_layer ? ln_f_ : which == 0 ? blocks_[layer].ln_1 : blocks_[layer].ln_2;
        norm.load(weight, bias, shape_.n_embd);
    }

    void set_linear(int layer, int which, const float* weight, const float* bias, int outputs, int inputs, int first, int count) {
        Block* block = layer == shape_.n_layer ? nullptr : &blocks_[layer];
        Linear& linear = !block ? head_ : which == kQkv ? block->qkv : which == kProj ? block->proj : which == kUp ? block->up : block->down;
        linear.load(weight, bias, outputs, inputs, first, count);
    }

    void set_scale(int layer, float scale) { blocks_[layer].attention_scale = scale; }

    // Take some rows of a table, from `first`; those from 0 come first and make room for all.
    void set_embedding(int which, const float* weight, int first, int count) {
        Buffer<uint16_t>& table = which == 0 ? wte_ : wpe_;
        const int width = stride();
        if (first == 0) table.resize(size_t(which == 0 ? shape_.vocab_size : shape_.n_positions) * width + kLanes);
        for (int row = 0; row < count; ++row)
            for (int i = 0; i < shape_.n_embd; i += kLanes)
                float_to_half(&table[size_t(first + row) * width + i],
                              _mm512_maskz_loadu_ps(valid(shape_.n_embd - i), weight + size_t(row) * shape_.n_embd + i));
    }

    size_t size_bytes() const {
        size_t total = wte_.size_bytes() + wpe_.size_bytes() + head_.size_bytes();
        for (const Block& b : blocks_)
            total += b.qkv.size_bytes() + b.proj.size_bytes() + b.up.size_bytes() + b.down.size_bytes();
        return total;
    }

    Cache& cache() { return cache_; }
    const double* seconds() const { return seconds_; }  // (kPhases,), since the model was made

    // Run the tokens of `chunks` through all layers and the final norm. out: (N, E).
    void hidden(const int64_t* ids, const Chunk* chunks, int num_chunks, float* out) {
        plan(chunks, num_chunks);
        reserve();
        last_ = now();
        team_.run([&] {
            each(kPrepare, num_rows_, [&](int row) { embed(row, ids[row]); });
            for (int layer = 0; layer < shape_.n_layer; ++layer) run_block(layer, chunks, num_chunks);
            each(kPrepare, num_rows_, [&](int row) {
                ln_f_.apply(&x_[size_t(row) * stride()], &normed_[size_t(row) * stride()], shape_.n_embd, shape_.epsilon);
                std::copy_n(&normed_[size_t(row) * stride()], shape_.n_embd, out + size_t(row) * shape_.n_embd);
            });
        });
    }

    // Return the logits (rows, V) of hidden states (rows, E).
    void logits(const float* hidden, int rows, float* out) {
        num_rows_ = rows;
        reserve();
        last_ = now();
        team_.run([&] {
            each(kPrepare, rows, [&](int row) {
                std::copy_n(hidden + size_t(row) * shape_.n_embd, shape_.n_embd, &normed_[size_t(row) * stride()]);
                quantised_.set(row, &normed_[size_t(row) * stride()], stride());
            });
            multiply(kHeadProduct, head_, out, shape_.vocab_size, {});
        });
    }

private:
    static __mmask16 valid(int n) { return n >= kLanes ? 0xffff : __mmask16((1u << n) - 1); }
    int stride() const { return round_up(shape_.n_embd, kGroup); }
    int inner_stride() const { return round_up(shape_.n_inner, kGroup); }

    static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

    // A phase: share out its tasks, and count its time.
    template <typename F>
    void each(Phase phase, int count, F task) {
        team_.each(count, task);
        if (!Team::leads()) return;
        const double time = now();
        seconds_[phase] += time - last_;
        last_ = time;
    }

    // y (N, stride) = the linear layer of the quantised rows.
    void multiply(Phase phase, const Linear& linear, float* y, int stride, Epilogue epilogue) {
        const int tasks = linear.num_tasks(team_.num_threads());
        each(phase, tasks, [&](int task) { linear.apply(task, tasks, quantised_, num_rows_, y, stride, epilogue); });
    }

    void plan(const Chunk* chunks, int num_chunks) {
        queries_.clear();
        first_rows_.clear();
        adapters_.clear();
        rank_ = 0;
        num_rows_ = 0;
        for (int c = 0; c < num_chunks; ++c) {
            const auto [slot, start, count, adapter] = chunks[c];
            first_rows_.push_back(num_rows_);
            for (int i = 0; i < count; i += kQueriesPerTask)
                queries_.push_back({slot, num_rows_ + i, std::min(kQueriesPerTask, count - i), start + i, count == 1});
            num_rows_ += count;
            adapters_.resize(num_rows_, adapter);
            rank_ = std::max(rank_, adapter ? adapter->rank : 0);
        }
    }

    // Padding columns are zero: buffers start zeroed and only true columns are written.
    void reserve() {
        const size_t rows = num_rows_;
        for (Buffer<float>* buffer : {&x_, &normed_, &attended_}) buffer->at_least(rows * stride() + kLanes);
        qkv_.at_least(rows * 3 * stride() + kLanes);
        inner_.at_least(rows * inner_stride() + kLanes);
        added_.resize(rows);
        thin_.at_least(rows * rank_);
        quantised_.reserve(num_rows_, std::max(stride(), inner_stride()));
    }

    void embed(int row, int64_t id) {
        const uint16_t* token = &wte_[size_t(id) * stride()];
        const uint16_t* position = &wpe_[size_t(position_of(row)) * stride()];
        for (int i = 0; i < shape_.n_embd; i += kLanes)
            _mm512_mask_storeu_ps(&x_[size_t(row) * stride() + i], valid(shape_.n_embd - i),
                                  _mm512_add_ps(half_to_float(token + i), half_to_float(position + i)));
    }

    int position_of(int row) const {
        auto after = std::upper_bound(queries_.begin(), queries_.end(), row, [](int r, const Queries& q) { return r < q.row; });
        return (after - 1)->position + row - (after - 1)->row;
    }

    void run_block(int layer, const Chunk* chunks, int num_chunks) {
        const Block& block = blocks_[layer];
        const int width = shape_.n_embd;
        prepare(&block.ln_1, x_, width, layer, kQkv);
        multiply(kQkvProduct, block.qkv, qkv_.get(), 3 * width, {.added = added()});
        if (num_rows_ > num_chunks) put(layer, chunks, num_chunks);
        attend(layer, block.attention_scale);
        prepare(nullptr, attended_, width, layer, kProj);
        multiply(kProjProduct, block.proj, x_.get(), stride(), {.add = true, .added = added()});
        prepare(&block.ln_2, x_, width, layer, kUp);
        const auto activation = Activation(shape_.activation);
        multiply(kUpProduct, block.up, inner_.get(), inner_stride(), {.activation = activation, .added = added()});
        prepare(nullptr, inner_, shape_.n_inner, layer, kDown);
        multiply(kDownProduct, block.down, x_.get(), stride(), {.add = true, .added = added()});
    }

    const Added* added() const { return rank_ ? added_.data() : nullptr; }

    // Make the rows of an activation, after a norm if there is one, ready for a linear.
    void prepare(const Norm* norm, const Buffer<float>& activation, int inputs, int layer, Which linear) {
        const int width = round_up(inputs, kGroup);
        each(kPrepare, num_rows_, [&](int row) {
            if (norm) norm->apply(&x_[size_t(row) * width], &normed_[size_t(row) * width], inputs, shape_.epsilon);
            const float* x = (norm ? normed_ : activation).get() + size_t(row) * width;
            quantised_.set(row, x, width);
            if (rank_) narrow(row, x, layer, linear);
        });
    }

    void narrow(int row, const float* x, int layer, Which linear) {
        const LowRank* low_rank = adapters_[row] ? &adapters_[row]->linears[layer][linear] : nullptr;
        float* thin = &thin_[size_t(row) * rank_];
        if (low_rank && low_rank->rank) low_rank->narrow(x, thin);
        added_[row] = {low_rank && low_rank->rank ? low_rank : nullptr, thin};
    }

    // Write the keys and values of prompts, before any of their queries.
    void put(int layer, const Chunk* chunks, int num_chunks) {
        each(kAttention, num_chunks * shape_.n_head, [&](int task) {
            const int head = task % shape_.n_head;
            const Chunk& chunk = chunks[task / shape_.n_head];
            for (int i = 0; i < chunk.count && chunk.count > 1; ++i)
                put(chunk.slot, layer, head, chunk.start + i, first_rows_[task / shape_.n_head] + i);
        });
    }

    void put(int slot, int layer, int head, int position, int row) {
        const float* k = query(row, head) + shape_.n_embd;
        cache_.tiles(slot, layer, head).put(position, k, k + shape_.n_embd, head_size_);
    }

    const float* query(int row, int head) const { return &qkv_[size_t(row) * 3 * shape_.n_embd + head * head_size_]; }

    void attend(int layer, float scale) {
        const int heads = shape_.n_head;
        each(kAttention, int(queries_.size()) * heads, [&](int task) {
            const Queries& queries = queries_[task / heads];
            const int head = task % heads;
            if (queries.alone) put(queries.slot, layer, head, queries.position, queries.row);
            int i = 0;
            for (; i + kQueries <= queries.count; i += kQueries) attend<kQueries>(queries, i, layer, head, scale);
            for (; i < queries.count; ++i) attend<1>(queries, i, layer, head, scale);
        });
    }

    template <int Q>
    void attend(const Queries& queries, int i, int layer, int head, float scale) {
        const int row = queries.row + i, room = cache_.context();
        thread_local Buffer<float> scores;
        scores.at_least(size_t(Q) * room);
        Attend<Q>::run(cache_.tiles(queries.slot, layer, head), queries.position + i + 1, query(row, head), 3 * shape_.n_embd,
                       head_size_, scale, scores.get(), room, &attended_[size_t(row) * stride() + head * head_size_], stride());
    }

    const Shape shape_;
    const int head_size_;
    Team& team_;
    std::vector<Block> blocks_;
    Norm ln_f_;
    Linear head_;
    Buffer<uint16_t> wte_, wpe_;
    Cache cache_;
    double seconds_[kPhases] = {}, last_ = 0;
    int num_rows_ = 0;              // of this step
    std::vector<int> first_rows_;   // of this step's chunks
    std::vector<Queries> queries_;  // of this step
    std::vector<const Adapter*> adapters_;  // of this step's rows
    std::vector<Added> added_;              // to the current linear, by row
    int rank_ = 0;                          // the largest of their adapters', 0 if none has one
    Buffer<float> thin_;                    // (N, rank_)
    Buffer<float> x_, normed_, attended_, qkv_, inner_;
    Quantized quantised_;
};
