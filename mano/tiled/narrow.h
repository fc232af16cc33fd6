// Windows of up to 4 x 4 cells: the same cell of LANES windows is stored contiguously, so that each step of the attention
// handles as many windows as a vector register holds.

#pragma once

#include "layer.h"

constexpr int P = K * K, WINDOWS = LANES, CELLS = P * WINDOWS, T = CELLS, ROW = T;

constexpr int place(int window, int cell) { return cell * LANES + window; }
constexpr int window_at(int place) { return place % LANES; }

// sums(i, j): the sum over the channels of a head of a at cell first + i times b at cell j.
template <int N>
static inline void over_channels(const real* a_EP, const real* b_EP, int first, vec (*sums)[P]) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < P; j++) sums[i][j] = vec{};
    for (int e = 0; e < E; e++, a_EP += ROW, b_EP += ROW) {
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
    for (int e = 0; e < E; e++, x_EP += ROW, out_EP += ROW) {
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

static inline void softmax(const real* attended, vec (&p)[P][P]) {
    const real scale = 1 / std::sqrt(real(E));
    for (int i = 0; i < P; i++) {
        if (attended)
            for (int j = 0; j < P; j++) p[i][j] = load(attended + j * LANES) > 0 ? p[i][j] : all(-INFINITY);
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

static inline void attend(const real* attended, const Head& h, vec (&p)[P][P]) {
    products(h.q, h.k, p);
    softmax(attended, p);
    over_cells<false>(p, h.v, h.o);
}

static inline void attend(const real* attended, const Head& h) {
    vec p[P][P];
    attend(attended, h, p);
}

static inline void attend_backward(const real* attended, const Head& h, const HeadGradients& g) {
    vec p[P][P], d[P][P];
    attend(attended, h, p);
    products(g.o, h.v, d);
    over_cells<true>(p, g.o, g.v);
    const real scale = 1 / std::sqrt(real(E));
    for (int i = 0; i < P; i++) {
        vec sum = vec{};
        for (int j = 0; j < P; j++) sum += p[i][j] * d[i][j];
        for (int j = 0; j < P; j++) d[i][j] = p[i][j] * (d[i][j] - sum) * scale;
    }
    over_cells<false>(d, h.k, g.q);
    over_cells<true>(d, h.q, g.k);
}
