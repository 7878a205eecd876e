#include "pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

namespace llmasos {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSpins = 4000;  // some tens of microseconds: longer than between two products of a step
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

    // The first index of a part.
    size_t at(size_t part) const { return first + count * part / parts; }
};

// Parts of a run for each of its threads: so many that what one of them does not come to is shared evenly by the others.
constexpr size_t kParts = 8;

// What is left of the parts that one thread begins with: the number of the run, the next part, and the first that is another thread's.
struct alignas(64) Share {
    std::atomic<uint64_t> left{0};

    void set(uint32_t number, size_t next, size_t end) { left.store(static_cast<uint64_t>(number) << 32 | next << 16 | end, std::memory_order_release); }

    // Claims a part of the run of this number; false where none is left.
    bool claim(uint32_t number, size_t* part) {
        uint64_t now = left.load(std::memory_order_acquire);
        while (now >> 32 == number && (now >> 16 & 0xffff) < (now & 0xffff)) {
            if (!left.compare_exchange_weak(now, now + (1 << 16), std::memory_order_acquire)) continue;
            *part = now >> 16 & 0xffff;
            return true;
        }
        return false;
    }
};

// Every thread of a run begins with a share of its parts, and claims those of others when it has none left: a thread that gets no core in time,
// or a slower one, leaves its parts to the others.
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
        const size_t shares = std::min({threads, count, kMost}), parts = std::min(count, shares * kParts);
        while (workers_.size() + 1 < shares) workers_.emplace_back([this, own = workers_.size() + 1, seen = number_.load()] { serve(own, seen); });
        run_ = Run{work, data, first, count, parts};
        done_.store(0, std::memory_order_relaxed);
        const uint32_t number = number_.load(std::memory_order_relaxed) + 1;
        for (size_t each = 0; each < shares; ++each) shares_[each].set(number, parts * each / shares, parts * (each + 1) / shares);
        used_.store(shares, std::memory_order_relaxed);
        number_.store(number, std::memory_order_release);
        number_.notify_all();
        work_on(number, 0, shares);
        for (int spins = 0; done_.load(std::memory_order_acquire) < parts; ++spins)
            if (spins < kSpins)
                pause();
            else
                std::this_thread::yield();
    }

private:
    // Claims parts of the run of this number until none is left, of its own share first. What is in `run_` may be read between a claim and its
    // end only.
    void work_on(uint32_t number, size_t own, size_t shares) {
        size_t part;
        for (size_t each = 0; each < shares; ++each)
            while (shares_[(own + each) % shares].claim(number, &part)) {
                for (size_t at = run_.at(part), end = run_.at(part + 1); at < end; ++at) run_.work(run_.data, at);
                done_.fetch_add(1, std::memory_order_release);
            }
    }

    void serve(size_t own, uint32_t seen) {
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
            const size_t shares = used_.load(std::memory_order_relaxed);
            if (own < shares) work_on(number, own, shares);
        }
    }

    static constexpr size_t kMost = 256;  // threads

    std::mutex busy_;
    Run run_{};
    std::atomic<uint32_t> number_{0};  // of the newest run
    std::atomic<size_t> used_{0};      // its shares
    Share shares_[kMost];
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
