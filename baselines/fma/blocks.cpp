// Softmax attention of blocks of queries, each to its own list of rows: rows are read where they are, a panel of slots at
// a time, and the probabilities of a panel stay in cache.
//
// REAL, HEAD_DIM (E) and NOTHING, the log-sum-exp of a query that reads no row, are macros. Axes in names as in blocks.py;
// I queries of a block, at most QUERIES at a time, S the WIDE slots of a panel, and L parts of the blocks of a group.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "registers.h"

constexpr int E = HEAD_DIM, WIDE = COLUMNS * LANES, QUERIES = 64;
static_assert(E % LANES == 0);

// The lists have ``panels`` panels; a slot without a row has index -1 and bias -inf.
struct Inputs {
    const real *q_BNHE, *k_GTE, *v_GTE, *bias_MS;
    const int32_t* index_MS;
    int64_t groups, heads, blocks, size, rows, panels, diagonal;
};

// Some queries of a block, of one sample and head.
struct Queries {
    int64_t block, first, count;
    int64_t at, apart;  // number of the first in (B, N, H), and from one to the next
    int64_t rows;       // where the group's rows are

    Queries(const Inputs& in, int64_t group, int64_t block, int64_t first)
        : block(block), first(first), count(std::min<int64_t>(QUERIES, in.size - first)),
          at(((group / in.heads * in.blocks + block) * in.size + first) * in.heads + group % in.heads),
          apart(in.heads), rows(group * in.rows * E) {}

    void read(const real* from_BNHE, real factor, real* to_IE) const {
        const real* from = from_BNHE + at * E;
        for (int64_t i = 0; i < count; i++, from += apart * E)
            for (int e = 0; e < E; e += LANES) store(to_IE + i * E + e, load(from + e) * factor);
    }
    void write(const real* from_IE, real* to_BNHE) const {
        real* to = to_BNHE + at * E;
        for (int64_t i = 0; i < count; i++, to += apart * E) std::memcpy(to, from_IE + i * E, E * sizeof(real));
    }
};

static inline void read_rows(const real* x_TE, const int32_t* index, real* to_SE) {
    for (int s = 0; s < WIDE; s++)
        for (int e = 0; e < E; e += LANES)
            store(to_SE + s * E + e, index[s] < 0 ? vec{} : load(x_TE + int64_t(index[s]) * E + e));
}

static inline void add_rows(real* x_TE, const int32_t* index, const real* from_SE) {
    for (int s = 0; s < WIDE; s++)
        if (index[s] >= 0)
            for (int e = 0; e < E; e += LANES) {
                real* const to = x_TE + int64_t(index[s]) * E + e;
                store(to, load(to) + load(from_SE + s * E + e));
            }
}

struct alignas(64) Scratch {
    real q_IE[QUERIES * E], o_IE[QUERIES * E], k_SE[WIDE * E], v_SE[WIDE * E], x_ES[E * WIDE], p_IS[QUERIES * WIDE];
};

struct alignas(64) ScratchBackward : Scratch {
    real do_IE[QUERIES * E], d_SE[WIDE * E], ds_IS[QUERIES * WIDE];
};

// The scores of a panel, in p_IS. From slot ``diagonal`` on a list has the block itself, of which a query reads no row
// after its own.
static inline void score(const Inputs& in, const Queries& some, int64_t panel, Scratch& s) {
    transpose<WIDE, E>(s.k_SE, s.x_ES);
    multiply<E, 1, WIDE, WIDE, false>(some.count, WIDE, {E}, s.q_IE, s.x_ES, s.p_IS);
    const real* const bias = in.bias_MS + (some.block * in.panels + panel) * WIDE;
    for (int64_t i = 0; i < some.count; i++)
        for (int n = 0; n < WIDE; n += LANES) {
            real* const at = s.p_IS + i * WIDE + n;
            store(at, load(at) + load(bias + n));
        }
    if (in.diagonal < 0) return;
    const int64_t own = in.diagonal - panel * WIDE, end = std::min<int64_t>(WIDE, own + in.size);
    for (int64_t i = 0; i < some.count; i++)
        for (int64_t n = std::max<int64_t>(0, own + some.first + i + 1); n < end; n++) s.p_IS[i * WIDE + n] = -INFINITY;
}

static inline real highest(const real* x) {
    vec most = load(x);
    for (int n = LANES; n < WIDE; n += LANES) {
        const vec next = load(x + n);
        most = next > most ? next : most;
    }
    return reduced<true>(most);
}

static inline void attend(
    const Inputs& in, const Queries& some, Scratch& s, real* out_BNHE, real* lse_BNH
) {
    real top[QUERIES];
    vec sum[QUERIES];
    some.read(in.q_BNHE, 1 / std::sqrt(real(E)), s.q_IE);
    std::memset(s.o_IE, 0, some.count * E * sizeof(real));
    for (int64_t i = 0; i < some.count; i++) top[i] = NOTHING, sum[i] = vec{};
    for (int64_t panel = 0; panel < in.panels; panel++) {
        const int32_t* const index = in.index_MS + (some.block * in.panels + panel) * WIDE;
        read_rows(in.k_GTE + some.rows, index, s.k_SE);
        score(in, some, panel, s);
        for (int64_t i = 0; i < some.count; i++) {
            real* const p = s.p_IS + i * WIDE;
            const real higher = highest(p);
            if (higher > top[i]) {
                const real factor = std::exp(top[i] - higher);
                for (int e = 0; e < E; e += LANES) store(s.o_IE + i * E + e, load(s.o_IE + i * E + e) * factor);
                sum[i] *= factor;
                top[i] = higher;
            }
            for (int n = 0; n < WIDE; n += LANES) {
                const vec x = exponential(load(p + n) - top[i]);
                sum[i] += x;
                store(p + n, x);
            }
        }
        read_rows(in.v_GTE + some.rows, index, s.v_SE);
        multiply<WIDE, 1, E, E, true>(some.count, E, {WIDE}, s.p_IS, s.v_SE, s.o_IE);
    }
    for (int64_t i = 0; i < some.count; i++) {
        // The highest score contributes 1; less is a query that reads no row.
        const real weight = std::max<real>(reduced<false>(sum[i]), 1);
        for (int e = 0; e < E; e += LANES) store(s.o_IE + i * E + e, load(s.o_IE + i * E + e) / weight);
        lse_BNH[some.at + i * some.apart] = top[i] + std::log(weight);
    }
    some.write(s.o_IE, out_BNHE);
}

struct Gradients {
    const real *do_BNHE, *delta_BNH, *lse_BNH;
    real *dq_BNHE, *dk_LGTE, *dv_LGTE;
    int64_t parts;  // L
};

static inline void attend_backward(
    const Inputs& in, const Queries& some, const Gradients& g, int64_t part, ScratchBackward& s
) {
    const int64_t sums = part * in.groups * in.rows * E + some.rows;
    const real scale = 1 / std::sqrt(real(E));
    some.read(in.q_BNHE, scale, s.q_IE);
    some.read(g.do_BNHE, 1, s.do_IE);
    std::memset(s.o_IE, 0, some.count * E * sizeof(real));
    for (int64_t panel = 0; panel < in.panels; panel++) {
        const int32_t* const index = in.index_MS + (some.block * in.panels + panel) * WIDE;
        read_rows(in.k_GTE + some.rows, index, s.k_SE);
        score(in, some, panel, s);
        read_rows(in.v_GTE + some.rows, index, s.v_SE);
        transpose<WIDE, E>(s.v_SE, s.x_ES);
        multiply<E, 1, WIDE, WIDE, false>(some.count, WIDE, {E}, s.do_IE, s.x_ES, s.ds_IS);
        for (int64_t i = 0; i < some.count; i++) {
            const int64_t at = some.at + i * some.apart;
            for (int n = i * WIDE; n < (i + 1) * WIDE; n += LANES) {
                const vec p = exponential(load(s.p_IS + n) - g.lse_BNH[at]);
                store(s.p_IS + n, p);
                store(s.ds_IS + n, p * (load(s.ds_IS + n) - g.delta_BNH[at]));
            }
        }
        multiply<WIDE, 1, E, E, true>(some.count, E, {WIDE}, s.ds_IS, s.k_SE, s.o_IE);
        multiply<1, WIDE, E, E, false>(WIDE, E, {some.count}, s.p_IS, s.do_IE, s.d_SE);
        add_rows(g.dv_LGTE + sums, index, s.d_SE);
        multiply<1, WIDE, E, E, false>(WIDE, E, {some.count}, s.ds_IS, s.q_IE, s.d_SE);
        add_rows(g.dk_LGTE + sums, index, s.d_SE);
    }
    for (int64_t n = 0; n < some.count * E; n += LANES) store(s.o_IE + n, load(s.o_IE + n) * scale);
    some.write(s.o_IE, g.dq_BNHE);
}

extern "C" {

int panel_slots() { return WIDE; }

void forward(const Inputs* inputs, real* out_BNHE, real* lse_BNH, int threads) {
    const Inputs in = *inputs;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        const int64_t all = in.groups * in.blocks;
        const auto scratch = std::make_unique<Scratch>();
        for (int64_t i = all * n / threads; i < all * (n + 1) / threads; i++)
            for (int64_t first = 0; first < in.size; first += QUERIES)
                attend(in, {in, i / in.blocks, i % in.blocks, first}, *scratch, out_BNHE, lse_BNH);
    }
}

// Adds to the gradients by keys and values. A part of the blocks of a group is one thread's.
void backward(const Inputs* inputs, const Gradients* gradients, int threads) {
    const Inputs in = *inputs;
    const int64_t parts = gradients->parts, all = in.groups * parts;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        const auto scratch = std::make_unique<ScratchBackward>();
        for (int64_t i = all * n / threads; i < all * (n + 1) / threads; i++) {
            const int64_t group = i / parts, part = i % parts;
            for (int64_t block = in.blocks * part / parts; block < in.blocks * (part + 1) / parts; block++)
                for (int64_t first = 0; first < in.size; first += QUERIES)
                    attend_backward(in, {in, group, block, first}, *gradients, part, *scratch);
        }
    }
}
}
