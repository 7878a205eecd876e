// Draws a token of each row by inverse transform sampling, after top-k, top-p and min-p.
//
// Two passes over a row do all that must see every logit: the maxima of its blocks, and where a sum over the vocabulary is needed its weights.
// The cuts then look at few tokens, which they find by the maxima.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numbers>
#include <vector>

#include "kernels.h"

namespace llmasos {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Token {
    uint32_t id;
    float logit;
    double weight;  // the likeliest token's is 1
};

class Row {
public:
    Row(const Kernel& kernel, size_t vocab)
        : kernel_(kernel), vocab_(vocab), maxima_(blocks_of(vocab) * kRows), most_(blocks_of(vocab)), sums_(blocks_of(vocab)),
          weights_(blocks_of(vocab) * kBlock) {}

    // -1 where nothing may be chosen.
    int64_t draw(const float* logits, const Choice& choice) {
        logits_ = changed(logits, choice);
        choice_ = choice;
        weighed_ = false;
        top_ = kernel_.maxima(logits_, vocab_, maxima_.data(), most_.data());
        if (!std::isfinite(top_)) return -1;
        if (choice.temperature == 0) return likeliest();
        const bool limited = 0 < choice.top_k && static_cast<size_t>(choice.top_k) < vocab_;
        if (limited) {
            find_largest(static_cast<size_t>(choice.top_k));
            if (choice.top_p < 1) cut_nucleus(sum());
        } else if (choice.top_p < 1) {
            find_nucleus();
        } else if (choice.min_p > 0) {
            find(logit_of(choice.min_p * (1 - 1e-6)));
        } else {
            return drawn_from_all();
        }
        std::erase_if(tokens_, [&](const Token& token) { return token.weight < choice_.min_p; });
        return drawn();
    }

private:
    // Logits with bias and penalties: the same ones where nothing changes.
    const float* changed(const float* logits, const Choice& choice) {
        if (!(choice.biased || choice.seen || choice.generated)) return logits;
        changed_.assign(logits, logits + vocab_);
        for (int64_t at = 0; at < choice.biased; ++at) changed_[static_cast<size_t>(choice.biased_ids[at])] += choice.biases[at];
        for (int64_t at = 0; at < choice.seen; ++at) {
            float& logit = changed_[static_cast<size_t>(choice.seen_ids[at])];
            logit = logit < 0 ? logit * choice.repetition : logit / choice.repetition;
        }
        for (int64_t at = 0; at < choice.generated; ++at)
            changed_[static_cast<size_t>(choice.generated_ids[at])] -= choice.frequency * choice.counts[at] + choice.presence;
        return changed_.data();
    }

    // The logit at which the weight is so much, rounded down.
    float logit_of(double weight) const {
        if (weight <= 0) return -std::numeric_limits<float>::max();
        const double found = top_ + choice_.temperature * std::log(weight);
        return std::nextafter(static_cast<float>(std::max(found, -1e38)), -kInfinity);
    }

    double weight_of(float logit) const { return std::exp((static_cast<double>(logit) - top_) / choice_.temperature); }

    int64_t likeliest() const {
        const size_t block = static_cast<size_t>(std::find(most_.begin(), most_.end(), top_) - most_.begin());
        return std::find(logits_ + block * kBlock, logits_ + std::min(vocab_, (block + 1) * kBlock), top_) - logits_;
    }

    // Whether one of sixteen is at least that.
    static bool any(const float* values, float least) {
        using Four = float __attribute__((vector_size(16)));
        using Mask = int32_t __attribute__((vector_size(16)));
        Mask found{};
        for (size_t at = 0; at < kRows; at += 4) {
            Four four;
            std::memcpy(&four, values + at, sizeof four);
            found |= four >= Four{least, least, least, least};
        }
        return found[0] | found[1] | found[2] | found[3];
    }

    // Fills `tokens_` with all of at least this logit, in order.
    void find(float least) {
        tokens_.clear();
        for (size_t block = 0; block < most_.size(); ++block) {
            if (!(most_[block] >= least)) continue;
            const size_t end = std::min(vocab_, (block + 1) * kBlock);
            for (size_t first = block * kBlock; first < end; first += kRows) {
                const size_t count = std::min(kRows, end - first);
                if (count == kRows && !any(logits_ + first, least)) continue;
                for (size_t id = first; id < first + count; ++id)
                    if (logits_[id] >= least) tokens_.push_back({static_cast<uint32_t>(id), logits_[id], 0});
            }
        }
        for (Token& token : tokens_) token.weight = weighed_ ? weights_[token.id] : weight_of(token.logit);
    }

    // The `count` largest and all that equal the last of them.
    void find_largest(size_t count) {
        // As many blocks, or as many sixteenths of blocks, hold a logit of at least the least of their largest maxima.
        find(count < most_.size() ? ranked(most_, count) : count < maxima_.size() ? ranked(maxima_, count) : -std::numeric_limits<float>::max());
        if (tokens_.size() <= count) return;
        ranks_.resize(tokens_.size());
        std::transform(tokens_.begin(), tokens_.end(), ranks_.begin(), [](const Token& token) { return token.logit; });
        const float last = ranked(ranks_, count);
        std::erase_if(tokens_, [&](const Token& token) { return token.logit < last; });
    }

    // The value of a rank, from 1 for the largest.
    float ranked(const std::vector<float>& values, size_t rank) {
        if (&values != &ranks_) ranks_ = values;
        const auto at = ranks_.begin() + static_cast<ptrdiff_t>(rank - 1);
        std::nth_element(ranks_.begin(), at, ranks_.end(), std::greater<>());
        return std::max(*at, -std::numeric_limits<float>::max());
    }

    // Weighs the vocabulary, and leaves the tokens that together reach top-p.
    void find_nucleus() {
        const double total = weigh();
        for (double share = 1e-3;; share = share > 1e-7 ? share / 8 : 0) {
            find(logit_of(share * total));
            if (share == 0 || sum() >= (choice_.top_p + 1e-3) * total) break;  // more than the sums of float32 lose
        }
        cut_nucleus(std::max(total, sum()));
    }

    // Leaves the likeliest of `tokens_` whose weights reach top-p of `total`: of equal ones at the border those of the lowest ids.
    void cut_nucleus(double total) {
        const double limit = choice_.top_p * total;
        constexpr int kBuckets = 2048;  // eight for each factor of two
        const auto bucket_of = [](const Token& token) {
            const uint32_t steps = (std::bit_cast<uint32_t>(1.0F) - std::bit_cast<uint32_t>(std::min(static_cast<float>(token.weight), 1.0F))) >> 20;
            return std::min<int>(static_cast<int>(steps), kBuckets - 1);
        };
        buckets_.assign(kBuckets, 0);
        for (const Token& token : tokens_) buckets_[static_cast<size_t>(bucket_of(token))] += token.weight;
        double before = 0, sum_at_border = 0;
        int border = 0;
        for (int at = 0; at < kBuckets && before + sum_at_border < limit; ++at) {
            if (buckets_[static_cast<size_t>(at)] == 0) continue;
            before += sum_at_border;
            sum_at_border = buckets_[static_cast<size_t>(at)];
            border = at;
        }
        border_.clear();
        for (const Token& token : tokens_)
            if (bucket_of(token) == border) border_.push_back(token);
        std::stable_sort(border_.begin(), border_.end(), [](const Token& a, const Token& b) { return a.logit > b.logit; });
        size_t staying = 0;
        for (; staying < border_.size() && (before < limit || staying == 0); ++staying) before += border_[staying].weight;
        const Token last = border_[staying - 1];
        std::erase_if(tokens_, [&](const Token& token) { return token.logit < last.logit || (token.logit == last.logit && token.id > last.id); });
    }

    double weigh() {
        const double factor = std::min(1 / (choice_.temperature * std::numbers::ln2), 1e30);
        kernel_.weights(logits_, vocab_, top_, static_cast<float>(factor), weights_.data(), sums_.data());
        double total = 0;
        for (const float sum : sums_) total += sum;
        weighed_ = true;
        return total;
    }

    double sum() const {
        double total = 0;
        for (const Token& token : tokens_) total += token.weight;
        return total;
    }

    int64_t drawn() const {
        const double target = choice_.point * sum();
        double end = 0;
        for (const Token& token : tokens_)
            if ((end += token.weight) > target) return static_cast<int64_t>(token.id);
        return static_cast<int64_t>(tokens_.back().id);  // rounding must not lead past it
    }

    // In two levels: by the sums of the blocks, then within one.
    int64_t drawn_from_all() {
        const double target = choice_.point * weigh();
        double start = 0;
        size_t block = 0, last = 0;
        for (size_t at = 0; at < sums_.size(); ++at) {
            if (sums_[at] > 0) last = at;
        }
        for (; block < last && start + sums_[block] <= target; ++block) start += sums_[block];
        const float* const weights = weights_.data() + block * kBlock;
        double within = 0, end = 0;
        size_t found = 0;
        for (size_t at = 0; at < kBlock; ++at) within += weights[at];
        const double left = (target - start) / sums_[block] * within;
        for (size_t at = 0; at < kBlock; ++at) {
            if (weights[at] > 0) found = at;
            if ((end += weights[at]) > left) break;
        }
        return static_cast<int64_t>(block * kBlock + found);
    }

    const Kernel& kernel_;
    const size_t vocab_;
    const float* logits_ = nullptr;
    Choice choice_{};
    float top_ = 0;
    bool weighed_ = false;  // `weights_` are those of this row
    std::vector<float> maxima_, most_, sums_, weights_, ranks_, changed_;
    std::vector<double> buckets_;
    std::vector<Token> tokens_, border_;
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

bool draw(const Kernel& kernel, const float* const* rows, size_t count, size_t vocab, const Choice* choices, int64_t* tokens) {
    try {
        Row row(kernel, vocab);
        for (size_t at = 0; at < count; ++at) tokens[at] = row.draw(rows[at], choices[at]);
    } catch (const std::bad_alloc&) {
        return false;
    }
    return true;
}

}  // namespace llmasos
