// The door to Python: what library.py calls, through ctypes. Nothing here raises: what makes something returns null when
// memory (or threads) ran out, what fills something returns 0, and 1 when all went well.

#include "dense.h"
#include "draw.h"
#include "model.h"
#include "team.h"

namespace {

template <typename F>
void* made(F f) {
    try {
        return f();
    } catch (...) {
        return nullptr;
    }
}

template <typename F>
int done(F f) {
    try {
        f();
        return 1;
    } catch (...) {
        return 0;
    }
}

}  // namespace

extern "C" {

void punchline_interface_6() {}  // its name says which library.py it fits

// Whether this machine's processor can run the kernels.
int punchline_supported() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

// A team of threads, for any number of models; it lives as long as the process.
void* punchline_new_team(int threads) {
    return made([&] { return new Team(threads); });
}
void* punchline_new(const Shape* shape, int slots, void* team) {
    return made([&] { return new Model(*shape, slots, *static_cast<Team*>(team)); });
}
// Draw a token for each row of logits (rows, V); a negative one where the numbers of a row broke.
void punchline_draw(void* team, const float* logits, int rows, int vocab_size, const Draw* draws, int32_t* token_ids) {
    auto& helpers = *static_cast<Team*>(team);
    helpers.run([&] {
        thread_local RowDraw row_draw;
        helpers.each(rows, [&](int row) {
            token_ids[row] = row_draw.run(logits + size_t(row) * vocab_size, vocab_size, draws[row]);
        });
    });
}
double punchline_uniform(uint64_t seed, uint64_t position) { return uniform(seed, position); }
void punchline_delete(void* model) { delete static_cast<Model*>(model); }
int punchline_set_norm(void* model, int layer, int which, const float* weight, const float* bias) {
    return done([&] { static_cast<Model*>(model)->set_norm(layer, which, weight, bias); });
}
int punchline_set_linear(void* model, int layer, int which, const float* weight, const float* bias, int outputs, int inputs,
                         int first, int count) {
    return done([&] { static_cast<Model*>(model)->set_linear(layer, which, weight, bias, outputs, inputs, first, count); });
}
int punchline_set_embedding(void* model, int which, const float* weight, int first, int count) {
    return done([&] { static_cast<Model*>(model)->set_embedding(which, weight, first, count); });
}
void punchline_set_scale(void* model, int layer, float scale) { static_cast<Model*>(model)->set_scale(layer, scale); }
size_t punchline_size_bytes(void* model) { return static_cast<Model*>(model)->size_bytes(); }
int punchline_hidden(void* model, const int64_t* ids, const Chunk* chunks, int num_chunks, float* out) {
    return done([&] { static_cast<Model*>(model)->hidden(ids, chunks, num_chunks, out); });
}
int punchline_logits(void* model, const float* hidden, int rows, float* out) {
    return done([&] { static_cast<Model*>(model)->logits(hidden, rows, out); });
}
void punchline_seconds(void* model, double* out) { std::copy_n(static_cast<Model*>(model)->seconds(), int(kPhases), out); }
size_t punchline_low_rank_size(int rank, int in, int out) { return LowRank::size(rank, in, out); }
void* punchline_new_adapter(int layers, size_t size) {
    return made([&] { return new Adapter(layers, size); });
}
void punchline_delete_adapter(void* adapter) { delete static_cast<Adapter*>(adapter); }
int punchline_set_low_rank(void* adapter, int layer, int which, const float* a, const float* b, int rank, int in, int out) {
    return done([&] { static_cast<Adapter*>(adapter)->set(layer, which, a, b, rank, in, out); });
}
int punchline_pack_dense(float* weight, int outputs, int inputs) {
    return done([&] { Dense::pack(weight, outputs, inputs); });
}
int punchline_dense(void* team, const float* packed, const float* bias, int outputs, int inputs, const float* x, int rows,
                    float* y) {
    return done([&] { Dense(packed, bias, outputs, inputs).apply(*static_cast<Team*>(team), x, rows, y); });
}
void punchline_swap(void* model, int a, int b) { static_cast<Model*>(model)->cache().swap(a, b); }
void punchline_copy(void* model, int source, int target, int length) {
    static_cast<Model*>(model)->cache().copy(source, target, length);
}

}  // extern "C"
