// Draws a token of each row by inverse transform sampling, after top-k, top-p and min-p.
//
// One pass over a row, block by block, does all that must see every logit: the maxima, and where a sum over the vocabulary is needed the sums of
// the weights. The cuts then look at few tokens, which they find by the maxima.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <numbers>
#include <vector>

#include "kernels.h"

namespace llmasos {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The place of a number in the order of all, and the number of a place.
constexpr int64_t place_of(float number) {
    const auto bits = std::bit_cast<int32_t>(number);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}
constexpr float number_at(int64_t place) {
    const auto bits = static_cast<int32_t>(place);
    return std::bit_cast<float>(bits < 0 ? bits ^ 0x7fffffff : bits);
}

constexpr size_t padded(size_t count) { return (count + kRows - 1) / kRows * kRows; }

// Memory that is not filled with zeros, since most rows use a small part of it.
template <class T>
std::unique_ptr<T[]> room_for(size_t count) {
    return std::make_unique_for_overwrite<T[]>(count);
}

class Row {
public:
    Row(const Kernel& kernel, size_t vocab)
        : kernel_(kernel), vocab_(vocab), count_(blocks_of(vocab)), blocks_(count_), maxima_(count_ * kMaxima), most_(padded(count_), -kInfinity),
          bases_(count_), sums_(count_), changed_(room_for<float>(count_ * kBlock)), ids_(room_for<uint32_t>(count_ * kBlock)),
          logits_(room_for<float>(count_ * kBlock)), weights_(room_for<float>(count_ * kBlock)) {}

    bool is_for(const Kernel& kernel, size_t vocab) const { return &kernel_ == &kernel && vocab_ == vocab; }

    // -1 where nothing may be chosen.
    int64_t draw(const float* logits, const Choice& choice) {
        choice_ = choice;
        lay_out(logits);
        const bool greedy = choice.temperature == 0, limited = 0 < choice.top_k && static_cast<size_t>(choice.top_k) < vocab_;
        const bool whole = !greedy && !limited && (choice.top_p < 1 || choice.min_p == 0);  // the sum over the vocabulary counts
        const double total = whole ? weigh() : look();
        if (!std::isfinite(top_) || !std::isfinite(total)) return -1;
        if (greedy) return likeliest();
        if (limited) return drawn(choice.top_p < 1 ? nucleus(largest(), 0) : Cut{largest()}, true);
        if (choice.top_p < 1) {
            const Cut cut = nucleus(enough(total), total);
            return choice.min_p > 0 ? drawn(cut, false) : drawn_by_weights(cut);
        }
        if (choice.min_p > 0) return drawn(Cut{find(logit_of(choice.min_p * (1 - 1e-6)))}, true);
        return drawn_from_all(total);
    }

private:
    // Which of the tokens that were found stay: those of more than this logit, and those of just this up to an id.
    struct Cut {
        float logit;
        uint32_t last = std::numeric_limits<uint32_t>::max();
    };

    // The row's blocks: of those that bias and penalties change, and of the last one, copies.
    void lay_out(const float* logits) {
        for (size_t block = 0; block < count_; ++block) blocks_[block] = logits + block * kBlock;
        if (const size_t rest = vocab_ % kBlock; rest) {
            float* const last = changed_.get() + vocab_ - rest;
            std::copy_n(logits + vocab_ - rest, rest, last);
            std::fill_n(last + rest, kBlock - rest, -kInfinity);
            blocks_.back() = last;
        }
        for (int64_t at = 0; at < choice_.biased; ++at) changing(choice_.biased_ids[at]) += choice_.biases[at];
        for (int64_t at = 0; at < choice_.seen; ++at) {
            float& logit = changing(choice_.seen_ids[at]);
            logit = logit < 0 ? logit * choice_.repetition : logit / choice_.repetition;
        }
        for (int64_t at = 0; at < choice_.generated; ++at)
            changing(choice_.generated_ids[at]) -= choice_.frequency * choice_.counts[at] + choice_.presence;
    }

    float& changing(int64_t id) {
        const size_t block = static_cast<size_t>(id) / kBlock;
        float* const copy = changed_.get() + block * kBlock;
        if (blocks_[block] != copy) {
            std::copy_n(blocks_[block], kBlock, copy);
            blocks_[block] = copy;
        }
        return copy[static_cast<size_t>(id) % kBlock];
    }

    // Finds the maxima, without a sum.
    double look() {
        top_ = kernel_.maxima(blocks_.data(), count_, maxima_.data(), most_.data());
        return 0;
    }

    // Finds the maxima, and the sums of all weights: returns the whole vocabulary's. Blocks in which nothing may be chosen get none.
    double weigh() {
        top_ = kernel_.weigh(blocks_.data(), count_, factor(), maxima_.data(), most_.data(), bases_.data(), sums_.data());
        if (!std::isfinite(top_)) return 0;
        const float least = logit_of(kLeastWeight);
        double total = 0, scale = 0;
        for (size_t block = 0; block < count_; ++block) {
            if (block == 0 || bases_[block] != bases_[block - 1]) scale = weight_of(bases_[block]);
            const double sum = sums_[block] * scale;
            total += sum;
            sums_[block] = most_[block] >= least ? static_cast<float>(sum) : 0;
        }
        return total;
    }

    // For powers of two.
    float factor() const { return static_cast<float>(std::min(1 / (choice_.temperature * std::numbers::ln2), 1e30)); }

    // The logit at which the weight is so much, rounded down.
    float logit_of(double weight) const {
        if (weight <= 0) return kLeastLogit;
        const double found = top_ + choice_.temperature * std::log(weight);
        return std::max(std::nextafter(static_cast<float>(std::max<double>(found, kLeastLogit)), -kInfinity), kLeastLogit);
    }

    double weight_of(float logit) const { return std::exp((static_cast<double>(logit) - top_) / choice_.temperature); }

    int64_t likeliest() const {
        const auto block = static_cast<size_t>(std::find(most_.begin(), most_.end(), top_) - most_.begin());
        return static_cast<int64_t>(block * kBlock) + (std::find(blocks_[block], blocks_[block] + kBlock, top_) - blocks_[block]);
    }

    // Finds all tokens of at least this logit, in order; returns it.
    float find(float least) {
        found_ = kernel_.find(blocks_.data(), count_, most_.data(), maxima_.data(), least, ids_.get(), logits_.get());
        std::fill_n(logits_.get() + found_, padded(found_) - found_, -kInfinity);
        return least;
    }

    // The largest of the numbers down to `least` that `holds`, where it holds for that and for all below another: a number of the row.
    template <class Holds>
    float last(float least, Holds holds) const {
        int64_t low = place_of(least), high = place_of(top_) + 1;
        while (high - low > 1) {
            const int64_t middle = low + (high - low) / 2;
            (holds(number_at(middle)) ? low : high) = middle;
        }
        return number_at(low);
    }

    // Finds the `top_k` largest, and all that equal the last of them, whose logit it returns.
    float largest() {
        const auto rank = static_cast<float>(choice_.top_k);
        const auto ranked = [&](const float* values, size_t count) {
            if (kernel_.number(values, count, kLeastLogit) < rank) return kLeastLogit;
            return last(kLeastLogit, [&](float number) { return kernel_.number(values, count, number) >= rank; });
        };
        // As many blocks, or as many groups of eight, hold a logit of at least the least of their largest maxima.
        const auto wanted = static_cast<size_t>(choice_.top_k);
        find(wanted < count_ ? ranked(most_.data(), most_.size()) : ranked(maxima_.data(), maxima_.size()));
        return ranked(logits_.get(), padded(found_));
    }

    // Finds tokens that hold top-p of the `total` of all, and returns a logit that these have at least.
    float enough(double total) {
        const double wanted = (choice_.top_p + 1e-3) * total;  // by more than the sums of float32 lose
        // Where the largest of each block suffice, so do all tokens of as much weight as the least of them.
        kernel_.weights(most_.data(), most_.size(), top_, factor(), weights_.get());
        if (const float least = least_of_most(wanted); least > 0) return find(logit_of(least));
        // Of a share of the total there are few tokens.
        for (double share = 1e-3;; share = share > 1e-7 ? share / 8 : 0) {
            const float least = find(logit_of(share * total));
            if (share == 0 || weigh_found(least) >= wanted) return least;
        }
    }

    // A weight, of powers of the root of two the largest one, so that those of the `weights_` of blocks that are at least that sum up to `wanted`;
    // 0 where there is none.
    float least_of_most(double wanted) const {
        int low = 0, high = 64;
        const auto weight = [](int place) { return std::exp2(-0.5F * static_cast<float>(place)); };
        const auto suffices = [&](int place) { return kernel_.mass(weights_.get(), weights_.get(), most_.size(), weight(place)) >= wanted; };
        if (!suffices(high)) return 0;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (suffices(middle) ? high : low) = middle;
        }
        return weight(high);
    }

    // Weighs the tokens that were found, and returns the sum of their weights, which is that of all of at least a logit.
    double weigh_found(float least) {
        kernel_.weights(logits_.get(), padded(found_), top_, factor(), weights_.get());
        return kernel_.mass(logits_.get(), weights_.get(), padded(found_), least);
    }

    // The likeliest of the tokens that were found, of at least a logit, whose weights reach top-p of the `total`, or of all of them: of equal ones at
    // the border those of the lowest ids. Leaves `weights_` of the tokens.
    Cut nucleus(float least, double total) {
        const size_t count = padded(found_);
        const float* const logits = logits_.get();
        const float* const weights = weights_.get();
        const double limit = choice_.top_p * std::max(total, weigh_found(least));
        const auto mass = [&](float number) { return static_cast<double>(kernel_.mass(logits, weights, count, number)); };
        Cut cut{last(least, [&](float number) { return mass(number) >= limit; })};
        double before = mass(std::nextafter(cut.logit, kInfinity));
        for (size_t at = 0; at < found_; ++at) {
            if (logits[at] != cut.logit) continue;
            cut.last = ids_[at];
            if ((before += weights[at]) >= limit) break;
        }
        return cut;
    }

    // Draws one of the tokens that a cut leaves by `weights_`, of which it takes those of the others away.
    int64_t drawn_by_weights(const Cut& cut) {
        float* const logits = logits_.get();
        for (size_t at = 0; at < found_; ++at)
            if (logits[at] == cut.logit && ids_[at] > cut.last) logits[at] = -kInfinity;
        constexpr size_t kPart = 4 * kRows;
        const auto mass = [&](size_t first) {
            return static_cast<double>(kernel_.mass(logits + first, weights_.get() + first, std::min(kPart, padded(found_) - first), cut.logit));
        };
        parts_.clear();
        double sum = 0;
        size_t last = 0;  // rounding must not lead past it
        for (size_t first = 0; first < found_; first += kPart) {
            sum += parts_.emplace_back(mass(first));
            if (parts_.back() > 0) last = first / kPart;
        }
        const double target = choice_.point * sum;
        double end = 0;
        size_t part = 0, chosen = 0;
        for (; part < last && end + parts_[part] <= target; ++part) end += parts_[part];
        for (size_t at = part * kPart; at < std::min(found_, (part + 1) * kPart); ++at) {
            if (!(logits[at] >= cut.logit)) continue;
            chosen = at;
            if ((end += weights_[at]) > target) break;
        }
        return static_cast<int64_t>(ids_[chosen]);
    }

    // Draws one of the tokens that were found: by weights in double precision where `exact`, else by `weights_`.
    int64_t drawn(const Cut& cut, bool exact) {
        tokens_.resize(found_);
        size_t count = 0;
        for (size_t at = 0; at < found_; ++at) {
            tokens_[count] = {ids_[at], logits_[at], weights_[at]};
            count += logits_[at] > cut.logit || (logits_[at] == cut.logit && ids_[at] <= cut.last);
        }
        double sum = 0;
        size_t staying = 0;
        for (size_t at = 0; at < count; ++at) {
            Token token = tokens_[at];
            if (exact) token.weight = weight_of(token.logit);
            tokens_[staying] = token;
            const bool stays = token.weight >= choice_.min_p;
            staying += stays;
            sum += stays ? token.weight : 0;
        }
        const double target = choice_.point * sum;
        double end = 0;
        for (size_t at = 0; at < staying; ++at)
            if ((end += tokens_[at].weight) > target) return static_cast<int64_t>(tokens_[at].id);
        return static_cast<int64_t>(tokens_[staying - 1].id);  // rounding must not lead past it
    }

    // In two levels: by the sums of the blocks, then within one.
    int64_t drawn_from_all(double total) {
        const double target = choice_.point * total;
        double start = 0;
        size_t block = 0, last = 0;
        for (size_t at = 0; at < count_; ++at) {
            if (sums_[at] > 0) last = at;
        }
        for (; block < last && start + sums_[block] <= target; ++block) start += sums_[block];
        float* const weights = weights_.get();
        kernel_.weights(blocks_[block], kBlock, most_[block], factor(), weights);
        double within = 0, end = 0;
        for (size_t at = 0; at < kBlock; ++at) within += weights[at];
        const double left = (target - start) / sums_[block] * within;
        size_t found = 0;
        for (size_t at = 0; at < kBlock; ++at) {
            if (weights[at] <= kLeastWeight) continue;  // what must not come
            found = at;
            if ((end += weights[at]) > left) break;
        }
        return static_cast<int64_t>(block * kBlock + found);
    }

    struct Token {
        uint32_t id;
        float logit;
        double weight;  // the likeliest token's is 1
    };

    const Kernel& kernel_;
    const size_t vocab_, count_;  // of tokens and of blocks
    std::vector<const float*> blocks_;
    Choice choice_{};
    float top_ = 0;
    std::vector<float> maxima_, most_, bases_, sums_;
    std::unique_ptr<float[]> changed_;
    size_t found_ = 0;  // tokens, with `ids_`, `logits_` and `weights_`
    std::unique_ptr<uint32_t[]> ids_;
    std::unique_ptr<float[]> logits_, weights_;
    std::vector<Token> tokens_;
    std::vector<double> parts_;
};

// Whether every id is one of the vocabulary.
bool within(const int64_t* ids, int64_t count, size_t vocab) {
    return std::all_of(ids, ids + count, [&](int64_t id) { return id >= 0 && static_cast<size_t>(id) < vocab; });
}

}  // namespace

bool valid(const Choice& choice, size_t vocab) {
    return choice.biased >= 0 && choice.seen >= 0 && choice.generated >= 0 && within(choice.biased_ids, choice.biased, vocab) &&
           within(choice.seen_ids, choice.seen, vocab) && within(choice.generated_ids, choice.generated, vocab);
}

bool draw(const Kernel& kernel, const float* const* rows, size_t count, size_t vocab, const Choice* choices, int64_t* tokens, const Parallel& parallel) {
    struct All {
        const Kernel& kernel;
        const float* const* rows;
        const size_t count, vocab;
        const Choice* choices;
        int64_t* tokens;
        std::atomic<size_t> next{0};
        std::atomic<bool> failed{false};
    } all{kernel, rows, count, vocab, choices, tokens};
    // Each call draws rows until none is left, so that threads share them whatever each row takes.
    parallel.run(
        parallel.context,
        [](void* data, size_t) {
            auto& of = *static_cast<All*>(data);
            if (of.next.load(std::memory_order_relaxed) >= of.count) return;
            try {
                // Kept for the thread's next steps: new memory would come as zeroed pages each time.
                static thread_local std::unique_ptr<Row> kept;
                if (!kept || !kept->is_for(of.kernel, of.vocab)) {
                    kept.reset();
                    kept = std::make_unique<Row>(of.kernel, of.vocab);
                }
                for (size_t at; (at = of.next.fetch_add(1, std::memory_order_relaxed)) < of.count;)
                    of.tokens[at] = kept->draw(of.rows[at], of.choices[at]);
            } catch (const std::bad_alloc&) {
                of.failed.store(true, std::memory_order_relaxed);
            }
        },
        count, &all);
    return !all.failed.load(std::memory_order_relaxed);
}

}  // namespace llmasos
