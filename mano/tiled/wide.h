// Windows of more than 4 x 4 cells: those of a window are stored contiguously, and the attention is matrix products.
//
// Axes: P cells of a window as keys, Q as queries, rounded up to registers. What a product writes beyond the cells of a
// window is overwritten by the next window, or ignored.

#pragma once

#include <algorithm>
#include <cstring>

#include "layer.h"

constexpr int whole(int cells) { return (cells + LANES - 1) / LANES * LANES; }

constexpr int P = K * K, Q = whole(P);

// Few enough for a tile to stay in the L2 cache, that fill its registers best.
constexpr int windows_of_tile() {
    int best = 1;
    for (int n = 2; whole(n * P) <= 160; n++)
        if (whole(n * P) * best < whole(best * P) * n) best = n;
    return best;
}

constexpr int WINDOWS = windows_of_tile(), CELLS = WINDOWS * P, T = whole(CELLS);
constexpr int ROW = std::max(T, whole(CELLS - P + Q));

constexpr int place(int window, int cell) { return window * P + cell; }
constexpr int window_at(int place) { return place / P; }

// sums(p, q): the sum over the channels of a head of a at cell p times b at cell q.
static inline void over_channels(const real* a_EP, const real* b_EQ, real* sums_PQ) {
    multiply<1, ROW, ROW, Q, false>(P, Q, {E}, a_EP, b_EQ, sums_PQ);
}

// out(q) = sum over p of x(p) p(p, q), for every channel of a head.
static inline void over_cells(const real* x_EP, const real* p_PQ, real* out_EQ) {
    multiply<ROW, 1, Q, ROW, false>(E, Q, {P}, x_EP, p_PQ, out_EQ);
}

// out(p) = sum over q of x(q) p(p, q), for every channel of a head.
static inline void over_queries(const real* x_EQ, real* p_PQ, real* out_EP) {
    alignas(BYTES) real p_QP[Q * Q];
    std::memset(p_PQ + P * Q, 0, (Q - P) * Q * sizeof(real));
    transpose<Q, Q>(p_PQ, p_QP);
    over_cells(x_EQ, p_QP, out_EP);
}

static inline void softmax(const real* attended, real* p_PQ) {
    constexpr int V = Q / LANES;
    const real scale = 1 / std::sqrt(real(E));
    vec most[V], sum[V];
    for (int v = 0; v < V; v++) most[v] = all(-INFINITY), sum[v] = vec{};
    for (int p = 0; p < P; p++)
        for (int v = 0; v < V; v++) {
            real* const at = p_PQ + p * Q + v * LANES;
            if (attended && !attended[p]) store(at, all(-INFINITY));
            const vec score = load(at);
            most[v] = score > most[v] ? score : most[v];
        }
    for (int p = 0; p < P; p++)
        for (int v = 0; v < V; v++) {
            real* const at = p_PQ + p * Q + v * LANES;
            const vec e = exponential((load(at) - most[v]) * scale);
            store(at, e);
            sum[v] += e;
        }
    for (int v = 0; v < V; v++) sum[v] = 1 / sum[v];
    for (int p = 0; p < P; p++)
        for (int v = 0; v < V; v++) {
            real* const at = p_PQ + p * Q + v * LANES;
            store(at, load(at) * sum[v]);
        }
}

static inline void attend(const real* attended, const Head& h, real* p_PQ) {
    over_channels(h.k, h.q, p_PQ);
    softmax(attended, p_PQ);
    over_cells(h.v, p_PQ, h.o);
}

static inline void attend(const real* attended, const Head& head) {
    alignas(BYTES) real p_PQ[Q * Q];
    for (int n = 0; n < WINDOWS; n++) attend(attended ? attended + n * P : nullptr, head.from(n * P), p_PQ);
}

static inline void attend_backward(const real* attended, const Head& head, const HeadGradients& gradients) {
    alignas(BYTES) real p_PQ[Q * Q], d_PQ[Q * Q];
    const real scale = 1 / std::sqrt(real(E));
    for (int n = 0; n < WINDOWS; n++) {
        const Head h = head.from(n * P);
        const HeadGradients g = gradients.from(n * P);
        attend(attended ? attended + n * P : nullptr, h, p_PQ);
        over_channels(h.v, g.o, d_PQ);
        for (int q = 0; q < Q; q += LANES) {
            vec mean = vec{};
            for (int e = 0; e < E; e++) mean += load(h.o + e * ROW + q) * load(g.o + e * ROW + q);
            for (int p = 0; p < P; p++) {
                real* const at = d_PQ + p * Q + q;
                store(at, load(p_PQ + p * Q + q) * (load(at) - mean) * scale);
            }
        }
        over_cells(h.k, d_PQ, g.q);
        over_queries(g.o, p_PQ, g.v);
        over_queries(h.q, d_PQ, g.k);
    }
}
