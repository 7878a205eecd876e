// Threads for products, attention and draws.
#pragma once

#include "kernels.h"

namespace llmasos {

// Runs work(data, i) for each i below count on up to `threads` threads, the caller's among them. Between two runs the others spin for some
// microseconds, then yield their core for a millisecond, then sleep. One run uses them at a time: a second caller meanwhile works on its
// own thread alone, until they are free for the rest, so that two models in one process do not wait for each other.
void run_in_pool(void* threads, void (*work)(void* data, size_t index), size_t count, void* data);

inline Parallel pool(size_t& threads) { return Parallel{run_in_pool, &threads}; }

}  // namespace llmasos
