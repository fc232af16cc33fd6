// What all forms of the attention share: the sizes of the layer, levels, weights and LayerNorms.
//
// REAL, STORED, CHANNELS (C), HEADS (A), HEAD_DIM (E), WINDOW (K), STRIDE (S), RATE and NORMS are macros; F = A * E.

#pragma once

#include <cmath>
#include <cstdint>

#include "registers.h"

constexpr int C = CHANNELS, A = HEADS, E = HEAD_DIM, F = A * E, K = WINDOW, S = STRIDE;
static_assert(C % LANES == 0);

struct Level {
    const stored *x, *grad;
    stored* out;
    int64_t height, width;

    static int64_t along(int64_t cells) { return cells <= K ? 1 : (cells - K + S - 1) / S + 1; }
    int64_t down() const { return along(height); }  // windows
    int64_t right() const { return along(width); }
    int64_t windows(int64_t batch) const { return batch * down() * right(); }
};

struct Weights {
    const real *norms, *qkv_3FC, *out_CF, *out_FC, *bias;  // norms: weight and bias of each LayerNorm
    double eps;
};

// Queries, keys, values and outputs of a head for some cells: a row for each channel.
struct Head {
    const real *q, *k, *v;
    real* o;

    Head from(int cell) const { return {q + cell, k + cell, v + cell, o + cell}; }
};

// Gradients by them.
struct HeadGradients {
    const real* o;
    real *q, *k, *v;

    HeadGradients from(int cell) const { return {o + cell, q + cell, k + cell, v + cell}; }
};

// Gradients by the weights.
struct Gradients {
    real norms[2 * NORMS * C], qkv_3FC[3 * F * C], out_FC[F * C], bias[C];
};

// One LayerNorm of every cell: the normalized vectors before weight and bias, 1 / deviation, and the result, which may
// overwrite the input.
template <int V>
static inline void normalise(
    const real* x_CT, const real* weight, const real* bias, real eps, real* unit_CT, vec (&rstd)[V], real* y_CT
) {
    vec mean[V], squares[V];
    for (int v = 0; v < V; v++) mean[v] = squares[v] = vec{};
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) mean[v] += load(x_CT + (c * V + v) * LANES);
    for (int v = 0; v < V; v++) mean[v] *= real(1) / C;
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            const vec x = load(x_CT + (c * V + v) * LANES) - mean[v];
            squares[v] += x * x;
        }
    for (int v = 0; v < V; v++)
        for (int m = 0; m < LANES; m++) rstd[v][m] = 1 / std::sqrt(squares[v][m] / C + eps);
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            const int at = (c * V + v) * LANES;
            const vec unit = (load(x_CT + at) - mean[v]) * rstd[v];
            store(unit_CT + at, unit);
            store(y_CT + at, unit * weight[c] + bias[c]);
        }
}

// Replace the gradient by a LayerNorm's result with the gradient by its input; add the gradients by weight and bias.
template <int V>
static inline void normalise_backward(
    real* d_CT, const real* unit_CT, const vec (&rstd)[V], const real* weight, vec* d_weight, vec* d_bias
) {
    vec mean[V], along[V];
    for (int v = 0; v < V; v++) mean[v] = along[v] = vec{};
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            const int at = (c * V + v) * LANES;
            const vec d = load(d_CT + at), product = d * load(unit_CT + at);
            d_bias[c] += d, d_weight[c] += product;
            mean[v] += d * weight[c], along[v] += product * weight[c];
        }
    for (int v = 0; v < V; v++) mean[v] *= real(1) / C, along[v] *= real(1) / C;
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            const int at = (c * V + v) * LANES;
            store(d_CT + at, (load(d_CT + at) * weight[c] - mean[v] - load(unit_CT + at) * along[v]) * rstd[v]);
        }
}
