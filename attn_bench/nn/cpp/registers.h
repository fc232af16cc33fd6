// Vector registers of the processor, and products of matrices whose sums stay in them.
//
// REAL, float or double, is what is computed in; STORED, the same (if unset) or bf16, is what grids are stored in.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__)
constexpr int BYTES = 64, COLUMNS = 4;  // bytes of a vector register; registers in a row of a product's block
#elif defined(__AVX__)
constexpr int BYTES = 32, COLUMNS = 2;
#else
constexpr int BYTES = 16, COLUMNS = 2;
#endif

// The upper half of a float32.
struct bf16 {
    uint16_t bits;
};

#ifndef STORED
#define STORED REAL
#endif

using real = REAL;
using stored = STORED;
constexpr int ROWS = 6;  // rows of a product's block: ROWS x COLUMNS sums stay in registers
constexpr int TALL = BYTES == 64 ? 16 : 12;  // the same of a single register in a row
constexpr int LANES = BYTES / sizeof(real);

typedef real vec __attribute__((vector_size(BYTES)));
typedef real unaligned __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

static inline vec load(const real* from) { return *reinterpret_cast<const unaligned*>(from); }
static inline void store(real* to, vec x) { *reinterpret_cast<unaligned*>(to) = x; }
static inline vec all(real x) { return x - vec{}; }

typedef uint16_t halves __attribute__((vector_size(LANES * 2)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef float floats __attribute__((vector_size(LANES * 4)));

static inline vec load(const bf16* from) {
    halves upper;
    std::memcpy(&upper, from, sizeof upper);
    const words bits = __builtin_convertvector(upper, words) << 16;
    floats x;
    std::memcpy(&x, &bits, sizeof x);
    return __builtin_convertvector(x, vec);
}

// Rounded to nearest, ties to even; NaN stays NaN.
static inline void store(bf16* to, vec numbers) {
    const floats x = __builtin_convertvector(numbers, floats);
    words bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000;
    const halves upper = __builtin_convertvector(bits >> 16, halves);
    std::memcpy(to, &upper, sizeof upper);
}

// Copy numbers, whose count is a multiple of LANES, from one type to the other.
template <typename From, typename To>
static inline void copy(const From* from, To* to, int64_t count) {
    if constexpr (std::is_same_v<From, To>)
        std::memcpy(to, from, count * sizeof(To));
    else
        for (int64_t n = 0; n < count; n += LANES) store(to + n, load(from + n));
}

template <int S, size_t... J>
static inline vec rotated(vec x, std::index_sequence<J...>) {
    return __builtin_shufflevector(x, x, ((J + S) % LANES)...);
}

// The sum, or with MOST the largest, of the numbers of a register.
template <bool MOST, int S = LANES / 2>
static inline real reduced(vec x) {
    const vec y = rotated<S>(x, std::make_index_sequence<LANES>{});
    const vec both = MOST ? (x > y ? x : y) : x + y;
    if constexpr (S > 1)
        return reduced<MOST, S / 2>(both);
    else
        return both[0];
}

using integer = std::conditional_t<sizeof(real) == 4, int32_t, int64_t>;
typedef integer integers __attribute__((vector_size(BYTES)));

// e^x for x <= 0, in float32 within two units in the last place, and 0 below e^-87, as arithmetic on subnormal numbers is
// slow.
static inline vec exponential(vec x) {
    if constexpr (sizeof(real) == 4) {
        const auto tiny = x < -87.0f;
        x = tiny ? all(-87.0f) : x;
        const vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounded
        const vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
        vec y = all(1.0f / 5040);
        for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = y * r + factor;
        const integers power = (__builtin_convertvector(n, integers) + 127) << 23;
        vec scale;
        std::memcpy(&scale, &power, BYTES);
        return tiny ? vec{} : y * scale;
    } else {
        for (int i = 0; i < LANES; i++) x[i] = std::exp(x[i]);
        return x;
    }
}

// ---- Transposed copies ----------------------------------------------------------------------------------------------

template <int S, size_t... J>
static inline vec lower(vec a, vec b, std::index_sequence<J...>) {
    return __builtin_shufflevector(a, b, (J & S ? LANES + J - S : J)...);
}

template <int S, size_t... J>
static inline vec upper(vec a, vec b, std::index_sequence<J...>) {
    return __builtin_shufflevector(a, b, (J & S ? LANES + J : J + S)...);
}

template <int S>
static inline void exchange(vec (&rows)[LANES]) {
    if constexpr (S < LANES) {
        constexpr auto lanes = std::make_index_sequence<LANES>{};
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & S) continue;
            const vec a = rows[i], b = rows[i + S];
            rows[i] = lower<S>(a, b, lanes), rows[i + S] = upper<S>(a, b, lanes);
        }
        exchange<2 * S>(rows);
    }
}

template <int R, int N>
static inline void transpose(const real* from_RN, real* to_NR) {
    for (int r = 0; r < R; r += LANES)
        for (int n = 0; n < N; n += LANES) {
            vec rows[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) rows[i] = load(from_RN + (r + i) * N + n);
            exchange<1>(rows);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) store(to_NR + (n + i) * R + r, rows[i]);
        }
}

// ---- Products -------------------------------------------------------------------------------------------------------

// What a product sums over: ``inner`` numbers, ``outer`` times, with these distances in a and b between the times.
struct Depth {
    int64_t inner, outer = 1, a_apart = 0, b_apart = 0;
};

// c (+)= a b for I rows and V registers of columns; a(i, k) is a[i * AI + k * AK].
template <int I, int V, int AI, int AK, int LDB, int LDC, bool ADD>
static inline void block(Depth depth, const real* a, const real* b, real* c) {
    vec sums[I][V];
#pragma GCC unroll 16
    for (int i = 0; i < I; i++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sums[i][v] = vec{};
    for (int64_t n = 0; n < depth.outer; n++, a += depth.a_apart, b += depth.b_apart)
        for (int64_t k = 0; k < depth.inner; k++) {
            vec row[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) row[v] = load(b + k * LDB + v * LANES);
#pragma GCC unroll 16
            for (int i = 0; i < I; i++) {
                const vec x = all(a[i * AI + k * AK]);
#pragma GCC unroll 8
                for (int v = 0; v < V; v++) sums[i][v] += x * row[v];
            }
        }
#pragma GCC unroll 16
    for (int i = 0; i < I; i++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            real* const to = c + i * LDC + v * LANES;
            store(to, ADD ? load(to) + sums[i][v] : sums[i][v]);  // sums of few numbers lose less to rounding
        }
}

template <int V, int AI, int AK, int LDB, int LDC, bool ADD>
static inline void strip(int64_t rows, Depth depth, const real* a, const real* b, real* c) {
    if constexpr (V == 1)
        for (; rows >= TALL; rows -= TALL, a += TALL * AI, c += TALL * LDC)
            block<TALL, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c);
    for (; rows >= ROWS; rows -= ROWS, a += ROWS * AI, c += ROWS * LDC)
        block<ROWS, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c);
    switch (rows) {
        case 5: block<5, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c); break;
        case 4: block<4, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c); break;
        case 3: block<3, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c); break;
        case 2: block<2, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c); break;
        case 1: block<1, V, AI, AK, LDB, LDC, ADD>(depth, a, b, c); break;
    }
}

// c (+)= a b: rows x columns, the columns a multiple of LANES.
template <int AI, int AK, int LDB, int LDC, bool ADD>
static inline void multiply(int64_t rows, int64_t columns, Depth depth, const real* a, const real* b, real* c) {
    int64_t left = columns / LANES;
    for (; left >= COLUMNS; left -= COLUMNS, b += COLUMNS * LANES, c += COLUMNS * LANES)
        strip<COLUMNS, AI, AK, LDB, LDC, ADD>(rows, depth, a, b, c);
    switch (left) {
        case 3: strip<3, AI, AK, LDB, LDC, ADD>(rows, depth, a, b, c); break;
        case 2: strip<2, AI, AK, LDB, LDC, ADD>(rows, depth, a, b, c); break;
        case 1: strip<1, AI, AK, LDB, LDC, ADD>(rows, depth, a, b, c); break;
    }
}
