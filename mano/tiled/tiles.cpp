// Multipole attention whose windows tile the grids: all steps for a tile of a few windows, in the cache of one thread.
//
// Compiled for the sizes of a layer: REAL, CHANNELS (C), HEADS (A), HEAD_DIM (E), WINDOW (K), RATE and NORMS are
// macros. F = A * E; P = K * K cells of a window; a tile has LANES windows and T = P * LANES cells. The same cell of
// LANES windows is stored contiguously, so that each step of the attention handles as many windows as a vector register
// holds. Matrices are named with their axes, as in Python: y_TC has T rows of C numbers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "registers.h"

constexpr int C = CHANNELS, A = HEADS, E = HEAD_DIM, F = A * E, K = WINDOW, P = K * K, T = P * LANES;
static_assert(C % LANES == 0);

// ---- Steps inside a tile --------------------------------------------------------------------------------------------

// One LayerNorm of every cell: the normalized vectors before weight and bias, 1 / deviation, and the result, which may
// overwrite the input.
static inline void normalise(
    const real* x_CT, const real* weight, const real* bias, real eps, real* unit_CT, vec (&rstd)[P], real* y_CT
) {
    vec mean[P], squares[P];
    for (int p = 0; p < P; p++) mean[p] = squares[p] = vec{};
    for (int c = 0; c < C; c++)
        for (int p = 0; p < P; p++) mean[p] += load(x_CT + c * T + p * LANES);
    for (int p = 0; p < P; p++) mean[p] *= real(1) / C;
    for (int c = 0; c < C; c++)
        for (int p = 0; p < P; p++) {
            const vec x = load(x_CT + c * T + p * LANES) - mean[p];
            squares[p] += x * x;
        }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < LANES; m++) rstd[p][m] = 1 / std::sqrt(squares[p][m] / C + eps);
    for (int c = 0; c < C; c++)
        for (int p = 0; p < P; p++) {
            const int at = c * T + p * LANES;
            const vec unit = (load(x_CT + at) - mean[p]) * rstd[p];
            store(unit_CT + at, unit);
            store(y_CT + at, unit * weight[c] + bias[c]);
        }
}

// Replace the gradient by a LayerNorm's result with the gradient by its input; add the gradients by weight and bias.
static inline void normalise_backward(
    real* d_CT, const real* unit_CT, const vec (&rstd)[P], const real* weight, vec* d_weight, vec* d_bias
) {
    vec mean[P], along[P];
    for (int p = 0; p < P; p++) mean[p] = along[p] = vec{};
    for (int c = 0; c < C; c++)
        for (int p = 0; p < P; p++) {
            const vec d = load(d_CT + c * T + p * LANES), product = d * load(unit_CT + c * T + p * LANES);
            d_bias[c] += d, d_weight[c] += product;
            mean[p] += d * weight[c], along[p] += product * weight[c];
        }
    for (int p = 0; p < P; p++) mean[p] *= real(1) / C, along[p] *= real(1) / C;
    for (int c = 0; c < C; c++)
        for (int p = 0; p < P; p++) {
            const int at = c * T + p * LANES;
            store(d_CT + at, (load(d_CT + at) * weight[c] - mean[p] - load(unit_CT + at) * along[p]) * rstd[p]);
        }
}

// ---- Levels and tiles -----------------------------------------------------------------------------------------------

struct Level {
    const real *x, *grad;
    real* out;
    int64_t height, width;

    int64_t down() const { return (height + K - 1) / K; }
    int64_t right() const { return (width + K - 1) / K; }
    int64_t windows(int64_t batch) const { return batch * down() * right(); }
};

struct Weights {
    const real *norms, *qkv_3FC, *out_CF, *out_FC, *bias;  // norms: weight and bias of each LayerNorm
    double eps;
};

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

// Gradients by the weights.
struct Gradients {
    real norms[2 * NORMS * C], qkv_3FC[3 * F * C], out_FC[F * C], bias[C];
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

// ---- D and U --------------------------------------------------------------------------------------------------------

struct Scales {
    real *coarse, *fine;
    int64_t batch, height, width;  // of the fine grid

    int64_t down() const { return (height + RATE - 1) / RATE; }
    int64_t right() const { return (width + RATE - 1) / RATE; }
    // Rows of the fine grid in a row of the coarse one.
    int64_t rows(int64_t row) const {
        const int64_t left = height - row % down() * RATE;
        return left < RATE ? left : RATE;
    }
    int64_t fine_row(int64_t row) const { return (row / down() * height + row % down() * RATE) * width * C; }
};

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

// coarse = D fine; weight is (RATE, RATE, C of the fine grid, C).
void down_sample(const Scales* grids, const real* weight, int threads) {
    const Scales g = *grids;
    const int64_t rows = g.batch * g.down(), whole = g.width / RATE, rest = g.width % RATE;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        real* to = g.coarse + row * g.right() * C;
        std::memset(to, 0, g.right() * C * sizeof(real));
        for (int64_t r = 0; r < g.rows(row); r++) {
            const real *from = g.fine + g.fine_row(row) + r * g.width * C, *w = weight + r * RATE * C * C;
            multiply<RATE * C, 1, C, C, true>(whole, C, {RATE * C}, from, w, to);
            if (rest) multiply<RATE * C, 1, C, C, true>(1, C, {rest * C}, from + whole * RATE * C, w, to + whole * C);
        }
    }
}

// fine += U coarse; weight is (C, RATE, RATE, C of the fine grid).
void add_up_sampled(const Scales* grids, const real* weight, int threads) {
    const Scales g = *grids;
    const int64_t rows = g.batch * g.down(), whole = g.width / RATE, rest = g.width % RATE;
    constexpr int S = RATE * C;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const real* from = g.coarse + row * g.right() * C;
        for (int64_t r = 0; r < g.rows(row); r++) {
            real* to = g.fine + g.fine_row(row) + r * g.width * C;
            multiply<C, 1, RATE * S, S, true>(whole, S, {C}, from, weight + r * S, to);
            if (rest)
                multiply<C, 1, RATE * S, S, true>(1, rest * C, {C}, from + whole * C, weight + r * S, to + whole * S);
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
        const int64_t end = rows * (n + 1) / threads;
        for (int64_t row = rows * n / threads, next; row < end; row = next) {
            next = std::min(row + together, end);
            const Depth depth{whole, next - row, RATE * g.width * C, g.right() * C};
            const real* b = g.coarse + row * g.right() * C;
            for (int64_t r = 0; r < g.rows(row); r++) {
                const real* a = g.fine + g.fine_row(row) + r * g.width * C;
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
