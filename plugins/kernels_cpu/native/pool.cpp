#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace llmasos {
namespace {

constexpr int kSpins = 4000;  // some tens of microseconds: longer than between two products of a step
constexpr int kYields = 200;

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
    size_t count;
    size_t parts;
};

class Pool {
public:
    void run(size_t threads, const Run& wanted) {
        const std::unique_lock lock(busy_, std::try_to_lock);
        const size_t parts = threads < wanted.count ? threads : wanted.count;
        if (!lock || parts < 2) {
            for (size_t index = 0; index < wanted.count; ++index) wanted.work(wanted.data, index);
            return;
        }
        while (workers_.size() + 1 < parts) {
            const size_t part = workers_.size() + 1;
            workers_.emplace_back([this, part, seen = number_.load()] { serve(part, seen); });
        }
        run_ = wanted;
        run_.parts = parts;
        pending_.store(workers_.size(), std::memory_order_relaxed);
        number_.fetch_add(1, std::memory_order_release);
        number_.notify_all();
        part(0);
        for (int spins = 0; pending_.load(std::memory_order_acquire); ++spins)
            if (spins < kSpins)
                pause();
            else
                std::this_thread::yield();
    }

private:
    void part(size_t index) const {
        if (index >= run_.parts) return;
        for (size_t at = run_.count * index / run_.parts, end = run_.count * (index + 1) / run_.parts; at < end; ++at) run_.work(run_.data, at);
    }

    void serve(size_t index, uint32_t seen) {
        for (;;) {
            int spins = 0;
            while (number_.load(std::memory_order_acquire) == seen) {
                if (++spins < kSpins)
                    pause();
                else if (spins < kSpins + kYields)
                    std::this_thread::yield();
                else
                    number_.wait(seen, std::memory_order_acquire);
            }
            ++seen;
            part(index);
            pending_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex busy_;
    Run run_{};
    std::atomic<uint32_t> number_{0};
    std::atomic<size_t> pending_{0};
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
    of_this_process().run(*static_cast<size_t*>(threads), Run{work, data, count, 0});
}

}  // namespace llmasos
