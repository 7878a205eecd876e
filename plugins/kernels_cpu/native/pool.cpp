#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

namespace llmasos {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSpins = 4000;                            // some tens of microseconds: longer than between two products of a step
constexpr Clock::duration kYields = std::chrono::milliseconds(1);  // longer than between two steps

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

struct Run {
    void (*work)(void*, size_t);
    void* data;
    size_t first, count;  // of the indices
    size_t parts;
};

// A run's parts are claimed one by one, by whoever is free: a thread that gets no core in time leaves its part to the others.
class Pool {
public:
    void run(size_t threads, void (*work)(void*, size_t), void* data, size_t count) {
        std::unique_lock lock(busy_, std::defer_lock);
        size_t first = 0;
        for (; first < count; ++first) {
            if (threads > 1 && count - first > 1 && lock.try_lock()) break;
            work(data, first);
        }
        if (!lock) return;
        count -= first;
        const size_t parts = threads < count ? threads : count;
        while (workers_.size() + 1 < parts) workers_.emplace_back([this, seen = number_.load()] { serve(seen); });
        run_ = Run{work, data, first, count, parts};
        done_.store(0, std::memory_order_relaxed);
        const uint32_t number = number_.load(std::memory_order_relaxed) + 1;
        open_.store(static_cast<uint64_t>(number) << 32 | parts, std::memory_order_release);
        number_.store(number, std::memory_order_release);
        number_.notify_all();
        work_on(number);
        for (int spins = 0; done_.load(std::memory_order_acquire) < parts; ++spins)
            if (spins < kSpins)
                pause();
            else
                std::this_thread::yield();
    }

private:
    // Claims parts of the run of this number until none is left. What is in `run_` may be read between a claim and its end only.
    void work_on(uint32_t number) {
        uint64_t open = open_.load(std::memory_order_acquire);
        while (open >> 32 == number && static_cast<uint32_t>(open)) {
            if (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acquire)) continue;
            const size_t part = run_.parts - static_cast<uint32_t>(open);
            const size_t end = run_.first + run_.count * (part + 1) / run_.parts;
            for (size_t at = run_.first + run_.count * part / run_.parts; at < end; ++at) run_.work(run_.data, at);
            done_.fetch_add(1, std::memory_order_release);
            open = open_.load(std::memory_order_acquire);
        }
    }

    void serve(uint32_t seen) {
        for (;;) {
            int spins = 0;
            Clock::time_point end;
            uint32_t number;
            while ((number = number_.load(std::memory_order_acquire)) == seen) {
                if (++spins < kSpins)
                    pause();
                else if (spins == kSpins)
                    end = Clock::now() + kYields;
                else if (Clock::now() < end)
                    std::this_thread::yield();
                else
                    number_.wait(seen, std::memory_order_acquire);
            }
            seen = number;
            work_on(number);
        }
    }

    std::mutex busy_;
    Run run_{};
    std::atomic<uint32_t> number_{0};  // of the newest run
    std::atomic<uint64_t> open_{0};    // its number in the upper half, and how many of its parts nobody has claimed
    std::atomic<size_t> done_{0};      // how many of its parts have ended
    std::vector<std::thread> workers_;
};

// A process that was forked has only the thread that forked it, so it gets a pool of its own. Pools are never freed: their threads may run
// until the process ends.
Pool& of_this_process() {
    static std::atomic<Pool*> current{nullptr};
    static std::atomic<pid_t> owner{0};
    static std::mutex making;
    const pid_t process = getpid();
    if (owner.load(std::memory_order_acquire) != process) {
        const std::lock_guard lock(making);
        if (owner.load(std::memory_order_relaxed) != process) {
            current.store(new Pool, std::memory_order_relaxed);
            owner.store(process, std::memory_order_release);
        }
    }
    return *current.load(std::memory_order_relaxed);
}

}  // namespace

void run_in_pool(void* threads, void (*work)(void* data, size_t index), size_t count, void* data) {
    of_this_process().run(*static_cast<size_t*>(threads), work, data, count);
}

}  // namespace llmasos
