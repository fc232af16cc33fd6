// D and U: convolutions whose kernel is their stride.

#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "layer.h"

// A stretch of a grid to compute with: the grid itself, or a copy where it is stored in another type.
template <typename Number>
class Stretch {
    static constexpr bool COPIED = !std::is_same_v<Number, real>;
    std::vector<real> numbers;

public:
    real* begin(Number* at, int64_t count) {
        if constexpr (COPIED) {
            if (numbers.size() < size_t(count)) numbers.resize(count);
            return numbers.data();
        } else {
            return at;
        }
    }
    real* read(Number* at, int64_t count) {
        real* const to = begin(at, count);
        if constexpr (COPIED) copy(at, to, count);
        return to;
    }
    void write(Number* at, int64_t count) const {
        if constexpr (COPIED) copy(numbers.data(), at, count);
    }
};

struct Scales {
    stored *coarse, *fine;
    int64_t batch, height, width;  // of the fine grid

    int64_t down() const { return (height + RATE - 1) / RATE; }
    int64_t right() const { return (width + RATE - 1) / RATE; }
    // Rows of the fine grid in a row of the coarse one.
    int64_t rows(int64_t row) const {
        const int64_t left = height - row % down() * RATE;
        return left < RATE ? left : RATE;
    }
    stored* coarse_row(int64_t row) const { return coarse + row * right() * C; }
    stored* fine_row(int64_t row) const { return fine + (row / down() * height + row % down() * RATE) * width * C; }
};

extern "C" {

// coarse = D fine; weight is (RATE, RATE, C of the fine grid, C).
void down_sample(const Scales* grids, const real* weight, int threads) {
    const Scales g = *grids;
    const int64_t rows = g.batch * g.down(), whole = g.width / RATE, rest = g.width % RATE;
#pragma omp parallel num_threads(threads)
    {
        Stretch<stored> coarse, fine;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const real* from = fine.read(g.fine_row(row), g.rows(row) * g.width * C);
            real* const to = coarse.begin(g.coarse_row(row), g.right() * C);
            std::memset(to, 0, g.right() * C * sizeof(real));
            for (int64_t r = 0; r < g.rows(row); r++, from += g.width * C) {
                const real* const w = weight + r * RATE * C * C;
                multiply<RATE * C, 1, C, C, true>(whole, C, {RATE * C}, from, w, to);
                if (rest)
                    multiply<RATE * C, 1, C, C, true>(1, C, {rest * C}, from + whole * RATE * C, w, to + whole * C);
            }
            coarse.write(g.coarse_row(row), g.right() * C);
        }
    }
}

// fine += U coarse; weight is (C, RATE, RATE, C of the fine grid).
void add_up_sampled(const Scales* grids, const real* weight, int threads) {
    const Scales g = *grids;
    const int64_t rows = g.batch * g.down(), whole = g.width / RATE, rest = g.width % RATE;
    constexpr int S = RATE * C;
#pragma omp parallel num_threads(threads)
    {
        Stretch<stored> coarse, fine;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const real* const from = coarse.read(g.coarse_row(row), g.right() * C);
            const int64_t count = g.rows(row) * g.width * C;
            real* to = fine.read(g.fine_row(row), count);
            for (int64_t r = 0; r < g.rows(row); r++, to += g.width * C) {
                const real* const w = weight + r * S;
                multiply<C, 1, RATE * S, S, true>(whole, S, {C}, from, w, to);
                if (rest) multiply<C, 1, RATE * S, S, true>(1, rest * C, {C}, from + whole * C, w, to + whole * S);
            }
            fine.write(g.fine_row(row), count);
        }
    }
}

// Gradient by the weight of sum(coarse * D fine), one for each thread: (threads, RATE, RATE, C of the fine grid, C).
void weight_gradient(const Scales* grids, real* out, int threads) {
    const Scales g = *grids;
    const int64_t rows = g.batch * g.down(), whole = g.width / RATE, rest = g.width % RATE;
    constexpr int S = RATE * C;
    // Short rows at equal distances are handled together, so that sums are loaded and stored less often.
    const int64_t together = g.height % RATE ? 1 : std::max<int64_t>(1, 64 / g.right());
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        Stretch<stored> coarse, fine;
        const int64_t end = rows * (n + 1) / threads;
        for (int64_t row = rows * n / threads, next; row < end; row = next) {
            next = std::min(row + together, end);
            const Depth depth{whole, next - row, RATE * g.width * C, g.right() * C};
            const real* const b = coarse.read(g.coarse_row(row), depth.outer * g.right() * C);
            const real* a = fine.read(g.fine_row(row), depth.outer * g.rows(row) * g.width * C);
            for (int64_t r = 0; r < g.rows(row); r++, a += g.width * C) {
                real* to = out + (n * RATE + r) * S * C;
                multiply<1, S, C, C, true>(S, C, depth, a, b, to);
                if (rest) {
                    const Depth edge{1, depth.outer, depth.a_apart, depth.b_apart};
                    multiply<1, S, C, C, true>(rest * C, C, edge, a + whole * S, b + whole * C, to);
                }
            }
        }
    }
}
}
