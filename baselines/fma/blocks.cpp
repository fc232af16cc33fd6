// Softmax attention of blocks of queries, each to its own list of rows: rows are read where they are, a panel of slots at
// a time, and the probabilities of a panel stay in cache.
//
// REAL and HEAD_DIM (E) are macros. Axes in names as in blocks.py; I queries of a block, at most QUERIES at a time, and
// S the WIDE slots of a panel.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "registers.h"

constexpr int E = HEAD_DIM, WIDE = COLUMNS * LANES, QUERIES = 64;
static_assert(E % LANES == 0);
constexpr real NOTHING = -1e30;  // log-sum-exp of a query that reads no row

struct Inputs {
    const real *q_BNHE, *k_GTE, *v_GTE, *bias_T;
    const int32_t* index_MS;
    int64_t groups, heads, blocks, size, rows, slots, diagonal;

    int64_t panels() const { return (slots + WIDE - 1) / WIDE; }
};

// The list of a block, panel after panel: where each row is in a sample, -1 where there is none, and what is added to the
// scores.
class List {
    std::vector<int64_t> places;
    std::vector<real> biases;
    int64_t block;

public:
    explicit List(const Inputs& in) : places(in.panels() * WIDE, -1), biases(in.panels() * WIDE, -INFINITY), block(-1) {}
    void read(const Inputs& in, int64_t next) {
        if (next == block) return;
        block = next;
        const int32_t* const index = in.index_MS + block * in.slots;
        for (int64_t s = 0; s < in.slots; s++) {
            places[s] = index[s] < 0 ? -1 : int64_t(index[s]) * E;
            biases[s] = index[s] < 0 ? -INFINITY : in.bias_T[index[s]];
        }
    }
    const int64_t* place(int64_t panel) const { return places.data() + panel * WIDE; }
    const real* bias(int64_t panel) const { return biases.data() + panel * WIDE; }
};

// Some queries of a block, of one sample and head.
struct Queries {
    int64_t first, count, at;  // in the block; number of the first in (B, N, H)
    int64_t apart, rows;       // heads; where the group's rows are

    Queries(const Inputs& in, int64_t group, int64_t block, int64_t first)
        : first(first), count(std::min<int64_t>(QUERIES, in.size - first)),
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

static inline void read_rows(const real* x, const int64_t* place, real* to_SE) {
    for (int s = 0; s < WIDE; s++)
        for (int e = 0; e < E; e += LANES) store(to_SE + s * E + e, place[s] < 0 ? vec{} : load(x + place[s] + e));
}

static inline void add_rows(real* x, const int64_t* place, const real* from_SE) {
    for (int s = 0; s < WIDE; s++)
        if (place[s] >= 0)
            for (int e = 0; e < E; e += LANES) {
                real* const to = x + place[s] + e;
                store(to, load(to) + load(from_SE + s * E + e));
            }
}

struct alignas(64) Scratch {
    real q_IE[QUERIES * E], o_IE[QUERIES * E], k_SE[WIDE * E], v_SE[WIDE * E], x_ES[E * WIDE], p_IS[QUERIES * WIDE];
};

struct alignas(64) ScratchBackward : Scratch {
    real do_IE[QUERIES * E], d_SE[WIDE * E], ds_IS[QUERIES * WIDE];
};

// The scores of a panel, in p_IS.
static inline void score(const Inputs& in, const List& list, const Queries& some, int64_t panel, Scratch& s) {
    transpose<WIDE, E>(s.k_SE, s.x_ES);
    multiply<E, 1, WIDE, WIDE, false>(some.count, WIDE, {E}, s.q_IE, s.x_ES, s.p_IS);
    const real* const bias = list.bias(panel);
    for (int64_t i = 0; i < some.count; i++)
        for (int n = 0; n < WIDE; n += LANES) {
            real* const at = s.p_IS + i * WIDE + n;
            store(at, load(at) + load(bias + n));
        }
    if (in.diagonal < 0 || (panel + 1) * WIDE <= in.diagonal) return;
    for (int64_t i = 0; i < some.count; i++) {
        const int64_t later = std::max<int64_t>(0, in.diagonal + some.first + i + 1 - panel * WIDE);
        for (int64_t n = later; n < WIDE; n++) s.p_IS[i * WIDE + n] = -INFINITY;
    }
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
    const Inputs& in, const List& list, const Queries& some, Scratch& s, real* out_BNHE, real* lse_BNH
) {
    real top[QUERIES];
    vec sum[QUERIES];
    some.read(in.q_BNHE, 1 / std::sqrt(real(E)), s.q_IE);
    std::memset(s.o_IE, 0, some.count * E * sizeof(real));
    for (int64_t i = 0; i < some.count; i++) top[i] = NOTHING, sum[i] = vec{};
    for (int64_t panel = 0; panel < in.panels(); panel++) {
        read_rows(in.k_GTE + some.rows, list.place(panel), s.k_SE);
        score(in, list, some, panel, s);
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
        read_rows(in.v_GTE + some.rows, list.place(panel), s.v_SE);
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
    int64_t parts;  // L, more than 1 only where there are more threads than groups
};

static inline void attend_backward(
    const Inputs& in, const List& list, const Queries& some, const Gradients& g, int64_t part, ScratchBackward& s
) {
    const int64_t sums = part * in.groups * in.rows * E + some.rows;
    const real scale = 1 / std::sqrt(real(E));
    some.read(in.q_BNHE, scale, s.q_IE);
    some.read(g.do_BNHE, 1, s.do_IE);
    std::memset(s.o_IE, 0, some.count * E * sizeof(real));
    for (int64_t panel = 0; panel < in.panels(); panel++) {
        const int64_t* const place = list.place(panel);
        read_rows(in.k_GTE + some.rows, place, s.k_SE);
        score(in, list, some, panel, s);
        read_rows(in.v_GTE + some.rows, place, s.v_SE);
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
        add_rows(g.dv_LGTE + sums, place, s.d_SE);
        multiply<1, WIDE, E, E, false>(WIDE, E, {some.count}, s.ds_IS, s.q_IE, s.d_SE);
        add_rows(g.dk_LGTE + sums, place, s.d_SE);
    }
    for (int64_t n = 0; n < some.count * E; n += LANES) store(s.o_IE + n, load(s.o_IE + n) * scale);
    some.write(s.o_IE, g.dq_BNHE);
}

extern "C" {

void forward(const Inputs* inputs, real* out_BNHE, real* lse_BNH, int threads) {
    const Inputs in = *inputs;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        const int64_t all = in.groups * in.blocks;
        List list(in);
        Scratch scratch;
        for (int64_t i = all * n / threads; i < all * (n + 1) / threads; i++) {
            const int64_t block = i / in.groups, group = i % in.groups;
            list.read(in, block);
            for (int64_t first = 0; first < in.size; first += QUERIES)
                attend(in, list, {in, group, block, first}, scratch, out_BNHE, lse_BNH);
        }
    }
}

// Adds to the gradients by keys and values. All blocks of a group, or of each part of them, are one thread's.
void backward(const Inputs* inputs, const Gradients* gradients, int threads) {
    const Inputs in = *inputs;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int n = 0; n < threads; n++) {
        List list(in);
        ScratchBackward scratch;
        const int64_t parts = gradients->parts;
        // A thread has some groups, or one part of the blocks of a group.
        const int64_t part = n % parts, some = n / parts, all = threads / parts;
        const int64_t begin = in.groups * some / all, end = some < all ? in.groups * (some + 1) / all : begin;
        for (int64_t block = in.blocks * part / parts; block < in.blocks * (part + 1) / parts && begin < end; block++) {
            list.read(in, block);
            for (int64_t group = begin; group < end; group++)
                for (int64_t first = 0; first < in.size; first += QUERIES)
                    attend_backward(in, list, {in, group, block, first}, *gradients, part, scratch);
        }
    }
}
}
