// A team of threads that run one function together (SPMD). `run` starts it on all of them; inside it `each` shares out
// the tasks of a phase, and returns when all of them are done. Between runs the helpers sleep. A team is never taken
// down: the process ends under it.
//
//     caller  ── run(f) ── f: each ─ each ─ each ─ return
//     helper  ── asleep ── (waking up)  f: .  ─ each ─ asleep
//
// Nobody waits for a helper that is not at work: one that wakes up late, because its core has other things to do, finds
// the phases behind it done and skips them. So f must change shared things in `each` only. At the end of a phase a
// thread spins, since the others are microseconds away, and gives up its core when they are not.

#pragma once

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

class Team {
public:
    explicit Team(int num_threads) : num_threads_(num_threads) {
        sched_getaffinity(0, sizeof(allowed_), &allowed_);
        for (int i = 1; i < num_threads; ++i) std::thread([this] { help(); }).detach();
    }

    int num_threads() const { return num_threads_; }

    // Run `f` on the threads of the team. One caller at a time; others wait.
    void run(const std::function<void()>& f) {
        std::lock_guard<std::mutex> one_caller(busy_);
        work_ = &f;
        caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
        first_phase_ = at().phase = state_.load(std::memory_order_relaxed) >> kBits;
        door_.store(kOpen, std::memory_order_release);
        run_number_.fetch_add(1, std::memory_order_release);
        if (num_threads_ > 1) run_number_.notify_all();
        f();
        door_.fetch_and(~kOpen, std::memory_order_acq_rel);
        for (int spins = 0; door_.load(std::memory_order_acquire); ++spins) pause(spins);  // helpers are leaving f
    }

    // Inside `run`: whether this is the thread that called it.
    static bool leads() { return !at().helps; }

    // Inside `run`: call `task(i)` for each i below `count`, whoever of the team is there.
    template <typename F>
    void each(int count, F task) {
        const uint64_t phase = at().phase++;
        if (!enter(phase)) return;  // done without us
        std::atomic<int>& next = next_[phase % 2];
        for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
        state_.fetch_sub(1, std::memory_order_acq_rel);
        if (leads())
            end(phase);
        else
            for (int spins = 0; state_.load(std::memory_order_acquire) >> kBits == phase; ++spins) pause(spins);
    }

private:
    static constexpr int kPatience = 1000;  // pauses, about 40 microseconds: longer than any phase of a small batch
    static constexpr int kBits = 16;        // of the count in `state_`
    static constexpr uint32_t kOpen = 1u << 31;

    struct Place {  // of a thread
        uint64_t phase = 0;
        bool helps = false;
    };

    static Place& at() {
        thread_local Place place;
        return place;
    }

    static void pause(int spins) {
        if (spins < kPatience)
            _mm_pause();
        else
            sched_yield();
    }

    // Count as a member of a phase, unless it is over.
    bool enter(uint64_t phase) {
        uint64_t state = state_.load(std::memory_order_acquire);
        while (state >> kBits == phase)
            if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
        return false;
    }

    // Wait until nobody is in the phase, and begin the next one.
    void end(uint64_t phase) {
        next_[(phase + 1) % 2].store(0, std::memory_order_relaxed);  // its last users left a phase ago
        uint64_t empty = phase << kBits;
        for (int spins = 0; !state_.compare_exchange_weak(empty, (phase + 1) << kBits, std::memory_order_acq_rel); ++spins) {
            empty = phase << kBits;
            pause(spins);
        }
    }

    // Count as one who runs f, unless the run is over.
    bool join() {
        uint32_t inside = door_.load(std::memory_order_acquire);
        while (inside & kOpen)
            if (door_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) return true;
        return false;
    }

    // Move to another core than the caller's: the system likes to wake a thread beside the one that woke it.
    void leave_core(int cpu) const {
        if (sched_getcpu() != cpu || CPU_COUNT(&allowed_) < 2) return;
        cpu_set_t others = allowed_;
        CPU_CLR(cpu, &others);
        sched_setaffinity(0, sizeof(others), &others);
    }

    void help() {
        at().helps = true;
        for (uint32_t seen = 0;;) {
            for (int spins = 0; run_number_.load(std::memory_order_acquire) == seen && spins < kPatience; ++spins) _mm_pause();
            run_number_.wait(seen, std::memory_order_acquire);
            seen = run_number_.load(std::memory_order_acquire);
            leave_core(caller_cpu_.load(std::memory_order_relaxed));
            if (!join()) continue;
            at().phase = first_phase_;
            (*work_)();
            door_.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    const int num_threads_;
    cpu_set_t allowed_;  // cores that the process may use
    std::atomic<int> caller_cpu_{0};
    std::mutex busy_;
    const std::function<void()>* work_ = nullptr;
    uint64_t first_phase_ = 0;                           // of this run
    alignas(64) std::atomic<uint32_t> run_number_{0};
    alignas(64) std::atomic<uint32_t> door_{0};          // whether helpers may join, and how many are inside f
    alignas(64) std::atomic<uint64_t> state_{0};         // the phase, and how many are in it
    alignas(64) std::atomic<int> next_[2] = {};          // task, by parity of the phase
};
