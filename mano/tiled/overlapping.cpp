// Multipole attention in windows that overlap: all steps for a block of cells, in the cache of one thread.
//
// A block owns some cells of a level. It projects them and those around them that share a window with them, and computes
// the outputs, or gradients, of its own; so no two blocks write to the same cell. Small grids make a block of several
// samples.
//
// The cells of a block are stored as S x S planes: plane (i mod S, j mod S) has cell (i, j) at place
// (i / S) * width + j / S. A window begins at the same place of plane 0 at which its first S x S cells are in all planes,
// and its other cells are at distances that are the same for all windows. So each step of the attention handles
// LANES places at once, which are contiguous, whatever the stride. The attention goes over cells, not over windows: the
// score of two cells is computed once for all windows that both are in.
//
// Matrices are named with their axes, as in Python. T cells of a tile are projected at a time.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sampling.h"

constexpr int SLOTS = (K + S - 1) / S;  // most windows along an axis that contain the same cell
constexpr int M = SLOTS - 1, PLANES = S * S;
constexpr int V = 4, T = V * LANES;
#ifndef CELLS
#define CELLS 1024
#endif
constexpr int PLACES = (CELLS / PLANES / T > 1 ? CELLS / PLANES / T : 1) * T;  // most of a plane
constexpr int N = PLANES * PLACES;
constexpr int WIDEST = 64;  // places in a row of a block
// Numbers before and after each row of a matrix that are zero, as windows that are not there are read, and ignored.
constexpr int GUARD = (M * (WIDEST + 1) / LANES + 2) * LANES;
// Rows at distances of an even number of registers would map to few sets of the L1 cache.
constexpr int ROW = ((N + 2 * GUARD) / LANES | 1) * LANES;
constexpr int UNION = M * S + K;  // side of all windows together that contain a cell, if S divides K
constexpr int PAIRS = UNION * UNION;

template <int R>
struct Rows {
    real numbers[R * ROW];

    real* at(int64_t row, int64_t n = 0) { return numbers + row * ROW + GUARD + n; }
    const real* at(int64_t row, int64_t n = 0) const { return numbers + row * ROW + GUARD + n; }
    // Set the numbers before the first of each row, and those after the last, to zero.
    void clear_before() {
        for (int r = 0; r < R; r++) std::memset(at(r) - GUARD, 0, GUARD * sizeof(real));
    }
    void clear_from(int64_t n) {
        for (int r = 0; r < R; r++) std::memset(at(r, n), 0, GUARD * sizeof(real));
    }
};

// ---- Blocks ---------------------------------------------------------------------------------------------------------

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The cells that a block owns along one axis, and the windows that they are in.
struct Span {
    int64_t begin, end, window, windows;

    Span(int64_t cells, int64_t all, int64_t parts, int64_t part)
        : begin(cells * part / parts), end(cells * (part + 1) / parts) {
        window = begin < K ? 0 : (begin - K) / S + 1;
        windows = std::min(all - 1, (end - 1) / S) - window + 1;
    }
    int64_t places() const { return windows + M; }
};

// How a level is cut into blocks.
struct Plan {
    Level level;
    int64_t batch, samples = 1, parts_down = 1, parts_right = 1, apart = 0;

    Plan(const Level& level, int64_t batch) : level(level), batch(batch) {
        const int64_t h = level.height, w = level.width;
        int64_t least = INT64_MAX;
        for (int64_t right = 1; right <= w; right++) {
            const int64_t wide = most(w, level.right(), right), tall = PLACES / wide - M;
            if (wide > WIDEST || tall < 1) continue;
            const int64_t own = tall * S - K + 1;
            if (tall < level.down() && own < 1) continue;
            const int64_t down = tall >= level.down() ? 1 : ceil_div(h, own);
            const int64_t cost = down * right * wide * most(h, level.down(), down);
            if (cost < least) least = cost, parts_down = down, parts_right = right;
        }
        if (parts_down > 1 || parts_right > 1) return;
        const int64_t rows = level.down() + M, width = level.right() + M;
        const int64_t each = rows * width, between = (rows + M) * width + M;
        double best = 0;
        for (int64_t g = 1; g <= batch && (g - 1) * between + each <= std::min(PLACES, 4 * T); g++) {
            const double used = double(g * each) / (PLANES * ceil_div((g - 1) * between + each, LANES) * LANES);
            if (used > best * 1.05) best = used, samples = g, apart = between;
        }
    }
    // Most places along an axis.
    static int64_t most(int64_t cells, int64_t windows, int64_t parts) {
        return std::min(windows, (ceil_div(cells, parts) + K - 2) / S + 1) + M;
    }
    int64_t blocks() const { return ceil_div(batch, samples) * parts_down * parts_right; }
};

struct Block {
    const Level* level;
    int64_t width, places, used;  // of a row; of a plane; of all, rounded up to tiles
    bool masked;                  // whether a window reaches beyond the grid
    int64_t offset[N], own[N];    // of a cell in its level; -1 where there is none, or it is another block's
    bool owned[N / LANES];        // whether any cell of a register is this block's own
    real share[N];                // 1 / the number of windows that contain the cell
    Rows<1> begins, inside;       // of a plane: 1 where a window begins; 1 where places belong to the block
    Rows<1> real_cells;           // 1 where there is a cell to attend to

    // Whether any cell of some registers is this block's own: the first one, and others at a distance in cells.
    bool owns(int64_t first, int count, int64_t apart) const {
        for (int i = 0; i < count; i++)
            if (owned[(first + i * apart) / LANES]) return true;
        return false;
    }

    static int64_t covering(int64_t cell, int64_t windows) {
        return std::min(windows - 1, cell / S) - (cell < K ? 0 : (cell - K) / S + 1) + 1;
    }

    void set(const Plan& plan, int64_t index) {
        level = &plan.level;
        const int64_t h = level->height, w = level->width, parts = plan.parts_down * plan.parts_right;
        const int64_t first = index / parts * plan.samples, samples = std::min(plan.samples, plan.batch - first);
        const Span down(h, level->down(), plan.parts_down, index % parts / plan.parts_right);
        const Span right(w, level->right(), plan.parts_right, index % plan.parts_right);
        width = right.places();
        const int64_t count = (samples - 1) * plan.apart + down.places() * width;
        places = ceil_div(count, LANES) * LANES;
        used = ceil_div(PLANES * places, T) * T;
        masked = false;
        std::memset(&begins, 0, sizeof begins);
        std::memset(&inside, 0, sizeof inside);
        std::memset(&real_cells, 0, sizeof real_cells);
        std::memset(owned, 0, sizeof owned);
        for (int64_t n = 0; n < used; n++) offset[n] = own[n] = -1, share[n] = 0;
        for (int64_t g = 0; g < samples; g++)
            for (int64_t i = 0; i < down.places(); i++)
                for (int64_t j = 0; j < width; j++) {
                    const int64_t place = g * plan.apart + i * width + j;
                    *begins.at(0, place) = i < down.windows && j < right.windows;
                    *inside.at(0, place) = 1;
                }
        for (int64_t g = 0; g < samples; g++)
            for (int64_t i = 0; i < down.places() * S; i++)
                for (int64_t j = 0; j < width * S; j++) {
                    const int64_t row = down.window * S + i, column = right.window * S + j;
                    // A row or column of cells beyond the last windows is not of any.
                    const bool read = i < (down.windows - 1) * S + K && j < (right.windows - 1) * S + K;
                    if (row >= h || column >= w) {
                        masked |= read;
                        continue;
                    }
                    const int64_t n = ((i % S) * S + j % S) * places + g * plan.apart + i / S * width + j / S;
                    offset[n] = (((first + g) * h + row) * w + column) * C;
                    *real_cells.at(0, n) = 1;
                    if (row >= down.begin && row < down.end && column >= right.begin && column < right.end)
                        own[n] = offset[n], owned[n / LANES] = true;
                    const int64_t windows = covering(row, level->down()) * covering(column, level->right());
                    share[n] = real(1) / windows;
                }
    }
};

// ---- Tiles ----------------------------------------------------------------------------------------------------------

// A tile of the block, normalized.
struct Tile {
    real x_TC[T * C], x_CT[C * T], unit_CT[NORMS][C * T];
    vec rstd[NORMS][V];
};

struct Scratch {
    Block block;
    Tile tile;
    Rows<3 * F> qkv_3FN;
    Rows<F> o_FN;
};

struct ScratchBackward : Scratch {
    real y_TC[T * C], g_TC[T * C], g_CT[C * T];
    Rows<F> do_FN;
    Rows<3 * F> dqkv_3FN;
    Rows<PAIRS> p, d;  // of a head: probabilities and gradients by scores, of each cell and those around it
    vec d_norms[2 * NORMS * C];
};

static inline void gather(const stored* from, const int64_t* offset, real* to_TC) {
    for (int t = 0; t < T; t++, to_TC += C) {
        if (offset[t] < 0)
            std::memset(to_TC, 0, C * sizeof(real));
        else
            copy(from + offset[t], to_TC, C);
    }
}

static inline void scatter(const real* from_TC, const int64_t* offset, stored* to) {
    for (int t = 0; t < T; t++, from_TC += C)
        if (offset[t] >= 0) copy(from_TC, to + offset[t], C);
}

static inline void normalise_tile(const Block& block, int64_t first, const Weights& weights, Tile& tile) {
    gather(block.level->x, block.offset + first, tile.x_TC);
    transpose<T, C>(tile.x_TC, tile.x_CT);
    for (int n = 0; n < NORMS; n++) {
        const real *weight = weights.norms + 2 * n * C, *bias = weight + C;
        normalise(tile.x_CT, weight, bias, weights.eps, tile.unit_CT[n], tile.rstd[n], tile.x_CT);
    }
}

static inline void project(const Block& block, const Weights& weights, Scratch& s) {
    for (int64_t n = 0; n < block.used; n += T) {
        normalise_tile(block, n, weights, s.tile);
        multiply<C, 1, T, ROW, false>(3 * F, T, {C}, weights.qkv_3FC, s.tile.x_CT, s.qkv_3FN.at(0, n));
    }
    s.qkv_3FN.clear_from(block.used);
}

// ---- Attention of a head --------------------------------------------------------------------------------------------

// The cells around a cell: those of all windows that contain it, DOWN + 1 windows one above the other and RIGHT + 1
// side by side.
template <int DOWN, int RIGHT>
struct Around {
    static constexpr int ROWS = DOWN * S + K, COLUMNS = RIGHT * S + K, COUNT = ROWS * COLUMNS;
    int64_t at[COUNT];  // from the place of the cell in its plane to each, from plane 0

    explicit Around(const Block& block) {
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLUMNS; j++) {
                const int row = i - DOWN * S, column = j - RIGHT * S;
                at[i * COLUMNS + j] =
                    (modulo(row) * S + modulo(column)) * block.places + over(row) * block.width + over(column);
            }
    }
    static int modulo(int a) { return ((a % S) + S) % S; }
    static int over(int a) { return (a - modulo(a)) / S; }
};

constexpr int factor(int n, int most) {
    for (int f = most; f > 1; f--)
        if (n % f == 0) return f;
    return 1;
}

// Two planes whose cells have the same cells around them are attended from together, as what is loaded serves both; or
// one, where no other is left. G is their number.

// sums(u): the sum over the channels of a head of a at a cell times b at the cells around it.
template <int COUNT, int G>
static inline void over_channels(
    const real* const (&a_EN)[G], const real* b_EN, const int64_t* at, vec (&sums)[G][COUNT]
) {
    constexpr int STEP = factor(COUNT, G == 1 ? 16 : BYTES == 64 ? 12 : 6);
    for (int u = 0; u < COUNT; u += STEP) {
        vec sum[G][STEP];
#pragma GCC unroll 2
        for (int g = 0; g < G; g++)
#pragma GCC unroll 16
            for (int i = 0; i < STEP; i++) sum[g][i] = vec{};
        for (int e = 0; e < E; e++) {
            vec a[G];
#pragma GCC unroll 2
            for (int g = 0; g < G; g++) a[g] = load(a_EN[g] + e * ROW);
#pragma GCC unroll 16
            for (int i = 0; i < STEP; i++) {
                const vec b = load(b_EN + e * ROW + at[u + i]);
#pragma GCC unroll 2
                for (int g = 0; g < G; g++) sum[g][i] += a[g] * b;
            }
        }
#pragma GCC unroll 2
        for (int g = 0; g < G; g++)
#pragma GCC unroll 16
            for (int i = 0; i < STEP; i++) sums[g][u + i] = sum[g][i];
    }
}

// out = scale times the sum over the cells around a cell of p(u) x(u), for every channel of a head.
template <int COUNT, int G>
static inline void over_cells(
    const vec (&p)[G][COUNT], const real* x_EN, const int64_t* at, const vec (&scale)[G], real* const (&out_EN)[G]
) {
    constexpr int STEP = factor(E, G == 1 || BYTES == 64 ? 8 : 6);
    for (int e = 0; e < E; e += STEP) {
        vec sum[G][STEP];
#pragma GCC unroll 2
        for (int g = 0; g < G; g++)
#pragma GCC unroll 8
            for (int i = 0; i < STEP; i++) sum[g][i] = vec{};
        for (int u = 0; u < COUNT; u++)
#pragma GCC unroll 8
            for (int i = 0; i < STEP; i++) {
                const vec x = load(x_EN + (e + i) * ROW + at[u]);
#pragma GCC unroll 2
                for (int g = 0; g < G; g++) sum[g][i] += p[g][u] * x;
            }
#pragma GCC unroll 2
        for (int g = 0; g < G; g++)
#pragma GCC unroll 8
            for (int i = 0; i < STEP; i++) store(out_EN[g] + (e + i) * ROW, sum[g][i] * scale[g]);
    }
}

// Call f with the place, among the cells around a cell, of each cell of the window that begins at first.
template <int COLUMNS, typename Function>
static inline void over_window(int first, Function f) {
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) f(first + i * COLUMNS + j);
}

// Call f with the place of the first cell of each window around a cell, and where there is such a window.
template <int DOWN, int RIGHT, typename Function>
static inline void over_windows(const Block& block, int64_t place, Function f) {
#pragma GCC unroll 4
    for (int m = 0; m <= DOWN; m++)
#pragma GCC unroll 4
        for (int l = 0; l <= RIGHT; l++)
            f((DOWN - m) * S * Around<DOWN, RIGHT>::COLUMNS + (RIGHT - l) * S,
              load(block.begins.at(0, place - m * block.width - l)) > 0);
}

// From the scores of a cell and those around it: p, the sum over its windows of the softmax in each. From the gradients
// by p in d: the gradients by the scores, in place.
template <int DOWN, int RIGHT, bool BACKWARD>
[[gnu::noinline]] static void softmax_by_windows(
    const Block& block, int64_t place, const vec* scores, vec* p, vec* d
) {
    using Cells = Around<DOWN, RIGHT>;
    const real scale = 1 / std::sqrt(real(E));
    vec by_scores[Cells::COUNT];
    for (int u = 0; u < Cells::COUNT; u++) p[u] = by_scores[u] = vec{};
    over_windows<DOWN, RIGHT>(block, place, [&](int first, auto there) {
        vec e[Cells::COUNT], most = all(-INFINITY), sum = vec{}, mean = vec{};
        over_window<Cells::COLUMNS>(first, [&](int u) { most = scores[u] > most ? scores[u] : most; });
        over_window<Cells::COLUMNS>(first, [&](int u) { sum += e[u] = exponential((scores[u] - most) * scale); });
        over_window<Cells::COLUMNS>(first, [&](int u) {
            e[u] = there ? e[u] / sum : vec{};
            p[u] += e[u];
            if constexpr (BACKWARD) mean += e[u] * d[u];
        });
        if constexpr (BACKWARD)
            over_window<Cells::COLUMNS>(first, [&](int u) { by_scores[u] += e[u] * (d[u] - mean); });
    });
    if constexpr (BACKWARD)
        for (int u = 0; u < Cells::COUNT; u++) d[u] = by_scores[u] * scale;
}

// The same, with one exponential for each cell, relative to the largest score of all cells around. Where the scores of a
// window are so much lower that its exponentials vanish, each window has its own.
template <int DOWN, int RIGHT, bool BACKWARD>
static inline void softmax(
    const Block& block, int64_t place, const int64_t* at, vec* scores, vec* p, vec* d = nullptr
) {
    using Cells = Around<DOWN, RIGHT>;
    const real scale = 1 / std::sqrt(real(E));
    if (block.masked)
        for (int u = 0; u < Cells::COUNT; u++)
            scores[u] = load(block.real_cells.at(0, place + at[u])) > 0 ? scores[u] : all(-INFINITY);
    vec most = all(-INFINITY), e[Cells::COUNT], factors[Cells::COUNT], means[Cells::COUNT];
    for (int u = 0; u < Cells::COUNT; u++) most = scores[u] > most ? scores[u] : most;
    for (int u = 0; u < Cells::COUNT; u++) {
        e[u] = exponential((scores[u] - most) * scale);
        factors[u] = means[u] = vec{};
    }
    integers vanished = integers{};
    over_windows<DOWN, RIGHT>(block, place, [&](int first, auto there) {
        vec sum = vec{}, along = vec{};
        over_window<Cells::COLUMNS>(first, [&](int u) {
            sum += e[u];
            if constexpr (BACKWARD) along += e[u] * d[u];
        });
        vanished |= there & ~(sum > real(1e-20));
        const vec factor = there ? 1 / sum : vec{}, mean = there ? along * factor * factor : vec{};
        over_window<Cells::COLUMNS>(first, [&](int u) {
            factors[u] += factor;
            if constexpr (BACKWARD) means[u] += mean;
        });
    });
    integer any = 0;
    for (int m = 0; m < LANES; m++) any |= vanished[m];
    if (any) return softmax_by_windows<DOWN, RIGHT, BACKWARD>(block, place, scores, p, d);
    for (int u = 0; u < Cells::COUNT; u++) {  // a cell of no window may hold anything
        p[u] = factors[u] > 0 ? e[u] * factors[u] : vec{};
        if constexpr (BACKWARD) d[u] = factors[u] > 0 ? e[u] * (factors[u] * d[u] - means[u]) * scale : vec{};
    }
}

// The rows of a head at the same place of G planes.
template <int G, int R>
static inline void at_planes(Rows<R>& rows, int64_t row, int64_t n, const Block& block, real* (&each)[G]) {
    for (int g = 0; g < G; g++) each[g] = rows.at(row, n + g * block.places);
}

// Cells of G planes: outputs, and in the backward pass the gradients by queries, and p and d for those by keys.
template <int DOWN, int RIGHT, int G>
static inline void attend(Scratch& s, int64_t plane, int64_t head) {
    using Cells = Around<DOWN, RIGHT>;
    const Block& block = s.block;
    const Cells cells(block);
    for (int64_t place = 0; place < block.places; place += LANES) {
        const int64_t n = plane * block.places + place;
        if (!block.owns(n, G, block.places)) continue;
        real *q[G], *o[G];
        at_planes(s.qkv_3FN, head, n, block, q), at_planes(s.o_FN, head, n, block, o);
        vec scores[G][Cells::COUNT], p[G][Cells::COUNT], share[G];
        over_channels(q, s.qkv_3FN.at(F + head, place), cells.at, scores);
        for (int g = 0; g < G; g++) {
            softmax<DOWN, RIGHT, false>(block, place, cells.at, scores[g], p[g]);
            share[g] = load(block.share + n + g * block.places);
        }
        over_cells(p, s.qkv_3FN.at(2 * F + head, place), cells.at, share, o);
    }
}

template <int DOWN, int RIGHT, int G>
static inline void attend_backward(ScratchBackward& s, int64_t plane, int64_t head) {
    using Cells = Around<DOWN, RIGHT>;
    const Block& block = s.block;
    const Cells cells(block);
    for (int64_t place = 0; place < block.places; place += LANES) {
        const int64_t n = plane * block.places + place;
        const real *const k = s.qkv_3FN.at(F + head, place), *const v = s.qkv_3FN.at(2 * F + head, place);
        real *q[G], *o[G], *d_o[G], *d_q[G];
        at_planes(s.qkv_3FN, head, n, block, q), at_planes(s.o_FN, head, n, block, o);
        at_planes(s.do_FN, head, n, block, d_o), at_planes(s.dqkv_3FN, head, n, block, d_q);
        vec scores[G][Cells::COUNT], p[G][Cells::COUNT], d[G][Cells::COUNT], share[G], one[G];
        over_channels(q, k, cells.at, scores);
        over_channels(d_o, v, cells.at, d);
        for (int g = 0; g < G; g++) {
            softmax<DOWN, RIGHT, true>(block, place, cells.at, scores[g], p[g], d[g]);
            share[g] = load(block.share + n + g * block.places), one[g] = all(1);
            for (int i = 0; i < Cells::ROWS; i++)
                for (int j = 0; j < Cells::COLUMNS; j++) {
                    store(s.p.at(i * UNION + j, n + g * block.places), p[g][i * Cells::COLUMNS + j]);
                    store(s.d.at(i * UNION + j, n + g * block.places), d[g][i * Cells::COLUMNS + j]);
                }
        }
        if (!block.owns(n, G, block.places)) continue;
        over_cells(p, v, cells.at, share, o);
        over_cells(d, k, cells.at, one, d_q);
    }
}

// The gradients by keys and values of the cells of G planes, from the cells around them as queries.
template <int DOWN, int RIGHT, int G>
static inline void gather_backward(ScratchBackward& s, int64_t plane, int64_t head) {
    using Cells = Around<DOWN, RIGHT>;
    const Block& block = s.block;
    const Cells cells(block);
    // Where p and d of each query are, for these keys; and its place.
    int64_t pair[G][Cells::COUNT], from[Cells::COUNT];
    for (int i = 0; i < Cells::ROWS; i++)
        for (int j = 0; j < Cells::COLUMNS; j++) {
            const auto index = [](int from_first, int phase) {  // of the key, around the query
                const int query = Cells::modulo(from_first), windows = (K - 1 - query) / S;
                return phase - (from_first - query) + windows * S;
            };
            const int u = i * Cells::COLUMNS + j;
            for (int g = 0; g < G; g++) {
                const int row = index(i - DOWN * S, (plane + g) / S), column = index(j - RIGHT * S, (plane + g) % S);
                pair[g][u] = (row * UNION + column) * ROW + cells.at[u];
            }
            from[u] = Cells::over(i - DOWN * S) * block.width + Cells::over(j - RIGHT * S);
        }
    for (int64_t place = 0; place < block.places; place += LANES) {
        const int64_t n = plane * block.places + place;
        if (!block.owns(n, G, block.places)) continue;
        vec p[G][Cells::COUNT], d[G][Cells::COUNT], one[G];
        for (int g = 0; g < G; g++) {
            one[g] = all(1);
            for (int u = 0; u < Cells::COUNT; u++) {
                p[g][u] = load(s.p.at(0, place + pair[g][u])), d[g][u] = load(s.d.at(0, place + pair[g][u]));
                if constexpr (S > 1) {  // other planes follow, not zeros
                    const auto there = load(block.inside.at(0, place + from[u])) > 0;
                    p[g][u] = there ? p[g][u] : vec{}, d[g][u] = there ? d[g][u] : vec{};
                }
            }
        }
        real *d_k[G], *d_v[G];
        at_planes(s.dqkv_3FN, F + head, n, block, d_k), at_planes(s.dqkv_3FN, 2 * F + head, n, block, d_v);
        over_cells(d, s.qkv_3FN.at(head, place), cells.at, one, d_k);
        over_cells(p, s.do_FN.at(head, place), cells.at, one, d_v);
    }
}

template <int N>
using Constant = std::integral_constant<int, N>;

// Call f for COUNT planes from first on, two at a time.
template <int DOWN, int RIGHT, int COUNT, typename Function>
static inline void over_pairs(int64_t first, Function f) {
    if constexpr (COUNT > 1)
        for (int n = 0; n + 2 <= COUNT; n += 2) f(Constant<DOWN>{}, Constant<RIGHT>{}, Constant<2>{}, first + n);
    if constexpr (COUNT % 2) f(Constant<DOWN>{}, Constant<RIGHT>{}, Constant<1>{}, first + COUNT - 1);
}

// Call f with the numbers of windows, less one, that contain a cell of some planes, down and to the right, with the
// number of these planes, and the first of them. A cell of the later planes is in fewer windows.
template <typename Function>
static inline void over_planes(Function f) {
    constexpr int EARLY = (K - 1) % S + 1, LATER = S - EARLY;
    for (int64_t i = 0; i < EARLY; i++) over_pairs<M, M, EARLY>(i * S, f), over_pairs<M, M - 1, LATER>(i * S + EARLY, f);
    if constexpr (LATER)
        for (int64_t i = EARLY; i < S; i++)
            over_pairs<M - 1, M, EARLY>(i * S, f), over_pairs<M - 1, M - 1, LATER>(i * S + EARLY, f);
}

static inline void forward_block(const Weights& weights, Scratch& s) {
    project(s.block, weights, s);
    for (int a = 0; a < A; a++)
        over_planes([&](auto down, auto right, auto planes, int64_t first) {
            attend<down(), right(), planes()>(s, first, a * E);
        });
    for (int64_t n = 0; n < s.block.used; n += T) {
        if (!s.block.owns(n, V, LANES)) continue;
        for (int t = 0; t < T; t++) std::memcpy(s.tile.x_TC + t * C, weights.bias, C * sizeof(real));
        multiply<1, ROW, C, C, true>(T, C, {F}, s.o_FN.at(0, n), weights.out_FC, s.tile.x_TC);
        scatter(s.tile.x_TC, s.block.own + n, s.block.level->out);
    }
}

static inline void backward_block(const Weights& weights, ScratchBackward& s, Gradients& sums) {
    const Block& block = s.block;
    project(block, weights, s);
    for (int64_t n = 0; n < block.used; n += T) {
        gather(block.level->grad, block.offset + n, s.g_TC);
        transpose<T, C>(s.g_TC, s.g_CT);
        multiply<1, F, T, ROW, false>(F, T, {C}, weights.out_CF, s.g_CT, s.do_FN.at(0, n));
        for (int f = 0; f < F; f++)
            for (int t = 0; t < T; t += LANES) {
                real* const to = s.do_FN.at(f, n + t);
                store(to, load(to) * load(block.share + n + t));
            }
    }
    s.do_FN.clear_from(block.used);
    s.p.clear_from(PLANES * block.places);
    s.d.clear_from(PLANES * block.places);
    for (int a = 0; a < A; a++) {
        over_planes([&](auto down, auto right, auto planes, int64_t first) {
            attend_backward<down(), right(), planes()>(s, first, a * E);
        });
        over_planes([&](auto down, auto right, auto planes, int64_t first) {
            gather_backward<down(), right(), planes()>(s, first, a * E);
        });
    }
    for (int64_t n = 0; n < block.used; n += T) {
        if (!block.owns(n, V, LANES)) continue;
        // Cells of other blocks add nothing to the gradients by the weights, nor does memory that was never written.
        for (int t = 0; t < T; t++) {
            if (block.own[n + t] >= 0) continue;
            for (int f = 0; f < 3 * F; f++) *s.dqkv_3FN.at(f, n + t) = 0;
            for (int f = 0; f < F; f++) *s.o_FN.at(f, n + t) = 0;
        }
        normalise_tile(block, n, weights, s.tile);
        transpose<C, T>(s.tile.x_CT, s.y_TC);
        gather(block.level->grad, block.own + n, s.g_TC);
        for (int c = 0; c < C; c += LANES) {
            vec sum = vec{};
            for (int t = 0; t < T; t++) sum += load(s.g_TC + t * C + c);
            store(sums.bias + c, load(sums.bias + c) + sum);
        }
        multiply<ROW, 1, C, C, true>(F, C, {T}, s.o_FN.at(0, n), s.g_TC, sums.out_FC);
        multiply<ROW, 1, C, C, true>(3 * F, C, {T}, s.dqkv_3FN.at(0, n), s.y_TC, sums.qkv_3FC);
        multiply<1, C, ROW, T, false>(C, T, {3 * F}, weights.qkv_3FC, s.dqkv_3FN.at(0, n), s.g_CT);
        for (int i = NORMS - 1; i >= 0; i--) {
            vec* const sums = s.d_norms + 2 * i * C;
            normalise_backward(s.g_CT, s.tile.unit_CT[i], s.tile.rstd[i], weights.norms + 2 * i * C, sums, sums + C);
        }
        transpose<C, T>(s.g_CT, s.g_TC);
        scatter(s.g_TC, block.own + n, block.level->out);
    }
}

extern "C" {

int64_t scratch_bytes(int backward) { return backward ? sizeof(ScratchBackward) : sizeof(Scratch); }

// Without sums, compute the results of all levels. With sums, one for each thread, compute the gradients by the levels.
void attention(
    const Level* levels, int64_t count, int64_t batch, const Weights* weights, void* scratch, Gradients* sums,
    int threads
) {
    std::vector<Plan> plans;
    int64_t cells = 0;
    for (int64_t l = 0; l < count; l++) {
        plans.emplace_back(levels[l], batch);
        cells += batch * levels[l].height * levels[l].width;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        auto* const backward = sums ? static_cast<ScratchBackward*>(scratch) + n : nullptr;
        Scratch& s = sums ? *backward : static_cast<Scratch*>(scratch)[n];
        s.qkv_3FN.clear_before();
        if (backward) {
            backward->do_FN.clear_before(), backward->p.clear_before(), backward->d.clear_before();
            std::memset(backward->d_norms, 0, sizeof backward->d_norms);
        }
        // A thread takes the blocks that begin in its share of the cells.
        int64_t before = 0;
        for (const Plan& plan : plans) {
            const int64_t own = batch * plan.level.height * plan.level.width, blocks = plan.blocks();
            for (int64_t i = 0; i < blocks; i++) {
                if ((before + own * i / blocks) * threads / cells != n) continue;
                s.block.set(plan, i);
                if (backward)
                    backward_block(*weights, *backward, sums[n]);
                else
                    forward_block(*weights, s);
            }
            before += own;
        }
        if (backward)
            for (int c = 0; c < 2 * NORMS * C; c++)
                for (int m = 0; m < LANES; m++) sums[n].norms[c] += backward->d_norms[c][m];
    }
}
}
