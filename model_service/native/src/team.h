// A team of threads that run one function together (SPMD): `run` starts it on all of them, inside it they share
// out tasks by a counter and meet at barriers. Between runs the helpers sleep. A team is never taken down: the process
// ends under it.
//
//     caller  ── run(f) ── f(0) ─ barrier ─ f(0) ─ barrier ─ return
//     helper  ── asleep ── f(1) ─ barrier ─ f(1) ─ barrier ─ asleep
//
// At a barrier a thread spins, since the others are microseconds away, and gives up its core when they are not:
// a machine that also trains or serves the sockets has more to run than cores.

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
        for (int i = 1; i < num_threads; ++i) std::thread([this] { help(); }).detach();
    }

    int num_threads() const { return num_threads_; }

    // Run `f` on every thread of the team and wait for all. One caller at a time; others wait.
    void run(const std::function<void()>& f) {
        std::lock_guard<std::mutex> one_caller(busy_);
        task_.store(0, std::memory_order_relaxed);
        work_ = &f;
        run_number_.fetch_add(1, std::memory_order_release);
        if (num_threads_ > 1) run_number_.notify_all();
        f();
        barrier();
    }

    // Inside `run`: whether this is the thread that called it.
    static bool leads() { return !helps(); }

    // Inside `run`: the next of `count` tasks, or -1 when all are taken. Tasks start anew after each barrier.
    int next(int count) {
        int task = task_.fetch_add(1, std::memory_order_relaxed);
        return task < count ? task : -1;
    }

    // Inside `run`: wait for all threads.
    void barrier() {
        if (num_threads_ == 1) {
            task_.store(0, std::memory_order_relaxed);
            return;
        }
        const uint32_t before = generation_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            task_.store(0, std::memory_order_relaxed);
            generation_.store(before + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; generation_.load(std::memory_order_acquire) == before; ++spins) pause(spins);
    }

private:
    static constexpr int kPatience = 1000;  // pauses, about 40 microseconds: longer than any phase of a small batch

    static bool& helps() {
        thread_local bool helping = false;
        return helping;
    }

    static void pause(int spins) {
        if (spins < kPatience)
            _mm_pause();
        else
            sched_yield();
    }

    void help() {
        helps() = true;
        uint32_t seen = 0;
        while (true) {
            for (int spins = 0; run_number_.load(std::memory_order_acquire) == seen && spins < kPatience; ++spins)
                _mm_pause();
            run_number_.wait(seen, std::memory_order_acquire);
            seen = run_number_.load(std::memory_order_acquire);
            (*work_)();
            barrier();
        }
    }

    const int num_threads_;
    std::mutex busy_;
    const std::function<void()>* work_ = nullptr;
    alignas(64) std::atomic<uint32_t> run_number_{0};
    alignas(64) std::atomic<int> task_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
};
