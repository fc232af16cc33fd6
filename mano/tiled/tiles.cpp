// Multipole attention whose windows tile the grids: all steps for a tile of a few windows, in the cache of one thread.
//
// P = K * K cells of a window; a tile has WINDOWS windows, CELLS cells, and T places for them, the last of which may be
// empty. narrow.h and wide.h arrange the cells and attend, for windows of few and of many cells. Matrices are named with
// their axes, as in Python: y_TC has T rows of C numbers. Rows of what the attention reads and writes are ROW apart.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "sampling.h"

#if WINDOW <= 4
#include "narrow.h"
#else
#include "wide.h"
#endif

static_assert(S == K);

// Where the cells of WINDOWS windows are; windows are numbered over all levels.
struct Tile {
    int64_t offset[T];  // of a cell in its level; -1 where there is none
    const Level* level[WINDOWS];
    bool masked;       // whether a window reaches beyond its grid
    real attended[T];  // 1 where there is a cell to attend to, and in places without a window

    Tile(const Level* levels, int64_t count, int64_t batch, int64_t first) : masked(false) {
        for (int t = 0; t < T; t++) offset[t] = -1, attended[t] = 1;
        int64_t l = 0, before = 0;
        for (int m = 0; m < WINDOWS; m++) {
            int64_t index = first + m - before;
            while (l < count && index >= levels[l].windows(batch)) {
                index -= levels[l].windows(batch);
                before = first + m - index;
                l++;
            }
            level[m] = levels + l;
            if (l == count) continue;
            const int64_t h = levels[l].height, w = levels[l].width, right = levels[l].right();
            const int64_t row = index / right, b = row / levels[l].down();
            const int64_t i = (row - b * levels[l].down()) * K, j = (index - row * right) * K;
            for (int p = 0; p < P; p++)
                if (i + p / K < h && j + p % K < w)
                    offset[place(m, p)] = ((b * h + i + p / K) * w + j + p % K) * C;
                else
                    attended[place(m, p)] = 0, masked = true;
        }
    }
    const real* mask() const { return masked ? attended : nullptr; }
};

struct Scratch {
    real x_TC[T * C], x_CT[C * T], unit_CT[NORMS][C * T], qkv_3FT[3 * F * ROW], o_FT[F * ROW];
    vec rstd[NORMS][T / LANES];
};

struct ScratchBackward : Scratch {
    real y_TC[T * C], g_TC[T * C], g_CT[C * T], do_FT[F * ROW], dqkv_3FT[3 * F * ROW];
    vec d_norms[2 * NORMS * C];
};

// Copy the cells of a tile; zero where there is none.
static inline void gather(const Tile& tile, const stored* Level::* from, real* to_TC) {
    for (int t = 0; t < T; t++, to_TC += C) {
        if (tile.offset[t] < 0)
            std::memset(to_TC, 0, C * sizeof(real));
        else
            copy(tile.level[window_at(t)]->*from + tile.offset[t], to_TC, C);
    }
}

static inline void scatter(const Tile& tile, const real* from_TC) {
    for (int t = 0; t < T; t++, from_TC += C)
        if (tile.offset[t] >= 0) copy(from_TC, tile.level[window_at(t)]->out + tile.offset[t], C);
}

static inline Head head(Scratch& s, int64_t a) {
    const real* const q = s.qkv_3FT + a * E * ROW;
    return {q, q + F * ROW, q + 2 * F * ROW, s.o_FT + a * E * ROW};
}

// Normalize the cells of a tile, in place of x_CT, and compute qkv_3FT.
static inline void project(const Tile& tile, const Weights& weights, Scratch& s) {
    gather(tile, &Level::x, s.x_TC);
    transpose<T, C>(s.x_TC, s.x_CT);
    for (int n = 0; n < NORMS; n++) {
        const real *weight = weights.norms + 2 * n * C, *bias = weight + C;
        normalise(s.x_CT, weight, bias, weights.eps, s.unit_CT[n], s.rstd[n], s.x_CT);
    }
    multiply<C, 1, T, ROW, false>(3 * F, T, {C}, weights.qkv_3FC, s.x_CT, s.qkv_3FT);
}

static inline void forward_tile(const Tile& tile, const Weights& weights, Scratch& s) {
    project(tile, weights, s);
    for (int a = 0; a < A; a++) attend(tile.mask(), head(s, a));
    for (int t = 0; t < T; t++) std::memcpy(s.x_TC + t * C, weights.bias, C * sizeof(real));
    multiply<1, ROW, C, C, true>(T, C, {F}, s.o_FT, weights.out_FC, s.x_TC);
    scatter(tile, s.x_TC);
}

static inline void backward_tile(const Tile& tile, const Weights& weights, ScratchBackward& s, Gradients& sums) {
    project(tile, weights, s);
    transpose<C, T>(s.x_CT, s.y_TC);
    gather(tile, &Level::grad, s.g_TC);
    for (int c = 0; c < C; c += LANES) {
        vec sum = vec{};
        for (int t = 0; t < T; t++) sum += load(s.g_TC + t * C + c);
        store(sums.bias + c, load(sums.bias + c) + sum);
    }
    transpose<T, C>(s.g_TC, s.g_CT);
    multiply<1, F, T, ROW, false>(F, T, {C}, weights.out_CF, s.g_CT, s.do_FT);
    for (int a = 0; a < A; a++) {
        real* const dq = s.dqkv_3FT + a * E * ROW;
        attend_backward(tile.mask(), head(s, a), {s.do_FT + a * E * ROW, dq, dq + F * ROW, dq + 2 * F * ROW});
    }
    if constexpr (CELLS < T)
        for (int f = 0; f < 3 * F; f++) std::memset(s.dqkv_3FT + f * ROW + CELLS, 0, (T - CELLS) * sizeof(real));
    multiply<ROW, 1, C, C, true>(F, C, {CELLS}, s.o_FT, s.g_TC, sums.out_FC);
    multiply<ROW, 1, C, C, true>(3 * F, C, {CELLS}, s.dqkv_3FT, s.y_TC, sums.qkv_3FC);
    multiply<1, C, ROW, T, false>(C, T, {3 * F}, weights.qkv_3FC, s.dqkv_3FT, s.g_CT);
    for (int n = NORMS - 1; n >= 0; n--) {
        vec* const sums = s.d_norms + 2 * n * C;
        normalise_backward(s.g_CT, s.unit_CT[n], s.rstd[n], weights.norms + 2 * n * C, sums, sums + C);
    }
    transpose<C, T>(s.g_CT, s.g_TC);
    scatter(tile, s.g_TC);
}

extern "C" {

int64_t scratch_bytes(int backward) { return backward ? sizeof(ScratchBackward) : sizeof(Scratch); }

// Without sums, compute the results of all levels. With sums, one for each thread, compute the gradients by the levels.
void attention(
    const Level* levels, int64_t count, int64_t batch, const Weights* weights, void* scratch, Gradients* sums,
    int threads
) {
    int64_t windows = 0;
    for (int64_t l = 0; l < count; l++) windows += levels[l].windows(batch);
    const int64_t tiles = (windows + WINDOWS - 1) / WINDOWS;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        const int64_t begin = tiles * n / threads, end = tiles * (n + 1) / threads;
        if (!sums) {
            for (int64_t i = begin; i < end; i++)
                forward_tile(Tile(levels, count, batch, i * WINDOWS), *weights, static_cast<Scratch*>(scratch)[n]);
            continue;
        }
        auto& s = static_cast<ScratchBackward*>(scratch)[n];
        std::memset(s.d_norms, 0, sizeof s.d_norms);
        for (int64_t i = begin; i < end; i++)
            backward_tile(Tile(levels, count, batch, i * WINDOWS), *weights, s, sums[n]);
        for (int c = 0; c < 2 * NORMS * C; c++)
            for (int m = 0; m < LANES; m++) sums[n].norms[c] += s.d_norms[c][m];
    }
}
}
