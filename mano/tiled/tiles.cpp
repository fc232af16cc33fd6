// Multipole attention whose windows tile the grids: all steps for a tile of a few windows, in the cache of one thread.
//
// P = K * K cells of a window; a tile has LANES windows and T = P * LANES cells. The same cell of LANES windows is stored
// contiguously, so that each step of the attention handles as many windows as a vector register holds. Matrices are
// named with their axes, as in Python: y_TC has T rows of C numbers.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "sampling.h"

constexpr int P = K * K, T = P * LANES;
static_assert(S == K);

// Where the cells of LANES windows are; windows are numbered over all levels.
struct Tile {
    int64_t offset[T];  // of a cell in its level; -1 where there is none
    const Level* level[LANES];
    bool masked;        // whether a window reaches beyond its grid
    vec real_cells[P];  // 1 where there is a cell to attend to, and in lanes without a window

    Tile(const Level* levels, int64_t count, int64_t batch, int64_t first) : masked(false) {
        int64_t l = 0, before = 0;
        for (int m = 0; m < LANES; m++) {
            int64_t index = first + m - before;
            while (l < count && index >= levels[l].windows(batch)) {
                index -= levels[l].windows(batch);
                before = first + m - index;
                l++;
            }
            level[m] = levels + l;
            for (int p = 0; p < P; p++) {
                offset[p * LANES + m] = -1;
                real_cells[p][m] = 1;
            }
            if (l == count) continue;
            const int64_t h = levels[l].height, w = levels[l].width, right = levels[l].right();
            const int64_t row = index / right, b = row / levels[l].down();
            const int64_t i = (row - b * levels[l].down()) * K, j = (index - row * right) * K;
            for (int p = 0; p < P; p++)
                if (i + p / K < h && j + p % K < w)
                    offset[p * LANES + m] = ((b * h + i + p / K) * w + j + p % K) * C;
                else
                    real_cells[p][m] = 0, masked = true;
        }
    }
};

struct Scratch {
    real x_TC[T * C], x_CT[C * T], unit_CT[NORMS][C * T], qkv_3FT[3 * F * T], o_FT[F * T];
    vec rstd[NORMS][P];
};

struct ScratchBackward : Scratch {
    real y_TC[T * C], g_TC[T * C], g_CT[C * T], do_FT[F * T], dqkv_3FT[3 * F * T];
    vec d_norms[2 * NORMS * C];
};

// Copy the cells of a tile; zero where there is none.
static inline void gather(const Tile& tile, const real* Level::* from, real* to_TC) {
    for (int t = 0; t < T; t++, to_TC += C) {
        if (tile.offset[t] < 0)
            std::memset(to_TC, 0, C * sizeof(real));
        else
            std::memcpy(to_TC, tile.level[t % LANES]->*from + tile.offset[t], C * sizeof(real));
    }
}

static inline void scatter(const Tile& tile, const real* from_TC) {
    for (int t = 0; t < T; t++, from_TC += C)
        if (tile.offset[t] >= 0) std::memcpy(tile.level[t % LANES]->out + tile.offset[t], from_TC, C * sizeof(real));
}

// Normalize the cells of a tile, in place of x_CT, and compute qkv_3FT.
static inline void project(const Tile& tile, const Weights& weights, Scratch& s) {
    gather(tile, &Level::x, s.x_TC);
    transpose<T, C>(s.x_TC, s.x_CT);
    for (int n = 0; n < NORMS; n++) {
        const real *weight = weights.norms + 2 * n * C, *bias = weight + C;
        normalise(s.x_CT, weight, bias, weights.eps, s.unit_CT[n], s.rstd[n], s.x_CT);
    }
    multiply<C, 1, T, T, false>(3 * F, T, {C}, weights.qkv_3FC, s.x_CT, s.qkv_3FT);
}

// sums(i, j): the sum over the channels of a head of a at cell first + i times b at cell j.
template <int N>
static inline void over_channels(const real* a_EP, const real* b_EP, int first, vec (*sums)[P]) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < P; j++) sums[i][j] = vec{};
    for (int e = 0; e < E; e++, a_EP += T, b_EP += T) {
        vec b[P];
#pragma GCC unroll 16
        for (int j = 0; j < P; j++) b[j] = load(b_EP + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) {
            const vec a = load(a_EP + (first + i) * LANES);
#pragma GCC unroll 16
            for (int j = 0; j < P; j++) sums[i][j] += a * b[j];
        }
    }
}

// out(i) = sum over j of p(i, j) x(j), for every channel of a head; p(j, i) where ACROSS.
template <bool ACROSS>
static inline void over_cells(const vec (&p)[P][P], const real* x_EP, real* out_EP) {
    for (int e = 0; e < E; e++, x_EP += T, out_EP += T) {
        vec x[P];
#pragma GCC unroll 16
        for (int j = 0; j < P; j++) x[j] = load(x_EP + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < P; i++) {
            vec sum = vec{};
#pragma GCC unroll 16
            for (int j = 0; j < P; j++) sum += (ACROSS ? p[j][i] : p[i][j]) * x[j];
            store(out_EP + i * LANES, sum);
        }
    }
}

constexpr int STEP = P <= 4 ? P : 1;  // rows of scores at a time, so that their sums stay in registers

static inline void products(const real* a_EP, const real* b_EP, vec (&p)[P][P]) {
    for (int i = 0; i < P; i += STEP) over_channels<STEP>(a_EP, b_EP, i, p + i);
}

static inline void softmax(const Tile& tile, vec (&p)[P][P]) {
    const real scale = 1 / std::sqrt(real(E));
    for (int i = 0; i < P; i++) {
        if (tile.masked)
            for (int j = 0; j < P; j++) p[i][j] = tile.real_cells[j] > 0 ? p[i][j] : all(-INFINITY);
        vec most = p[i][0], sum = vec{};
        for (int j = 1; j < P; j++) most = p[i][j] > most ? p[i][j] : most;
        for (int j = 0; j < P; j++) {
            p[i][j] = exponential((p[i][j] - most) * scale);
            sum += p[i][j];
        }
        const vec factor = 1 / sum;
        for (int j = 0; j < P; j++) p[i][j] *= factor;
    }
}

// Softmax and o_FT of the head whose numbers begin at ``at``.
static inline void attend(const Tile& tile, Scratch& s, int64_t at, vec (&p)[P][P]) {
    const real *q = s.qkv_3FT + at, *k = q + F * T, *v = k + F * T;
    products(q, k, p);
    softmax(tile, p);
    over_cells<false>(p, v, s.o_FT + at);
}

static inline void forward_tile(const Tile& tile, const Weights& weights, Scratch& s) {
    project(tile, weights, s);
    for (int a = 0; a < A; a++) {
        vec p[P][P];
        attend(tile, s, a * E * T, p);
    }
    for (int t = 0; t < T; t++) std::memcpy(s.x_TC + t * C, weights.bias, C * sizeof(real));
    multiply<1, T, C, C, true>(T, C, {F}, s.o_FT, weights.out_FC, s.x_TC);
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
    multiply<1, F, T, T, false>(F, T, {C}, weights.out_CF, s.g_CT, s.do_FT);
    for (int a = 0; a < A; a++) {
        const int64_t at = a * E * T;
        const real *q = s.qkv_3FT + at, *k = q + F * T, *v = k + F * T;
        vec p[P][P], d[P][P];
        attend(tile, s, at, p);
        products(s.do_FT + at, v, d);
        over_cells<true>(p, s.do_FT + at, s.dqkv_3FT + 2 * F * T + at);
        const real scale = 1 / std::sqrt(real(E));
        for (int i = 0; i < P; i++) {
            vec sum = vec{};
            for (int j = 0; j < P; j++) sum += p[i][j] * d[i][j];
            for (int j = 0; j < P; j++) d[i][j] = p[i][j] * (d[i][j] - sum) * scale;
        }
        over_cells<false>(d, k, s.dqkv_3FT + at);
        over_cells<true>(d, q, s.dqkv_3FT + F * T + at);
    }
    multiply<T, 1, C, C, true>(F, C, {T}, s.o_FT, s.g_TC, sums.out_FC);
    multiply<T, 1, C, C, true>(3 * F, C, {T}, s.dqkv_3FT, s.y_TC, sums.qkv_3FC);
    multiply<1, C, T, T, false>(C, T, {3 * F}, weights.qkv_3FC, s.dqkv_3FT, s.g_CT);
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
    const int64_t tiles = (windows + LANES - 1) / LANES;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        const int64_t begin = tiles * n / threads, end = tiles * (n + 1) / threads;
        if (!sums) {
            for (int64_t i = begin; i < end; i++)
                forward_tile(Tile(levels, count, batch, i * LANES), *weights, static_cast<Scratch*>(scratch)[n]);
            continue;
        }
        auto& s = static_cast<ScratchBackward*>(scratch)[n];
        std::memset(s.d_norms, 0, sizeof s.d_norms);
        for (int64_t i = begin; i < end; i++)
            backward_tile(Tile(levels, count, batch, i * LANES), *weights, s, sums[n]);
        for (int c = 0; c < 2 * NORMS * C; c++)
            for (int m = 0; m < LANES; m++) sums[n].norms[c] += s.d_norms[c][m];
    }
}
}
