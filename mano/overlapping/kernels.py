"""Triton kernels of windowed attention: all levels at once, any window size and stride, forward and backward.

A program takes a block of tokens and one head. It loops over the windows that contain its tokens and over the cells of
each, so that scores exist only in registers. Queries, keys and values are read from memory once, as the cells of a
window are adjacent and come from the cache after that; every output is written once, by one program, whatever the
overlap. For the backward pass, the logarithm of the sum of the exponentials of the scores is stored for each token,
head and window that holds the token.

At most S x S windows hold a token, S = ceil(window_size / stride). Slot a, b of a token in row r and column c is the
window in row r // stride - a and column c // stride - b of windows, if that window exists and holds the token.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mano.levels import ceil_div
from mano.overlapping.layout import Windows

# Elements of a tile of tokens by channels. A program holds up to eight tiles in its registers: with this many they are
# at most about 150 a thread, without spills, whatever the width of a head.
TILE = 2048


@triton.jit
def _locate(token, batch, height, width, n_levels, RATE: tl.constexpr, WINDOW: tl.constexpr, STRIDE: tl.constexpr):
    """Return of each token its image's first token, height and width, the windows along both, its row and column."""
    start = token * 0
    h, w = start + height, start + width
    image, its_h, its_w = start, h, w
    for _ in range(n_levels):
        inside = token >= start
        image, its_h, its_w = tl.where(inside, start, image), tl.where(inside, h, its_h), tl.where(inside, w, its_w)
        start += batch * h * w
        h, w = (h + RATE - 1) // RATE, (w + RATE - 1) // RATE
    cell = (token - image) % (its_h * its_w)
    rows = tl.maximum(its_h - WINDOW + STRIDE - 1, 0) // STRIDE + 1
    columns = tl.maximum(its_w - WINDOW + STRIDE - 1, 0) // STRIDE + 1
    return token - cell, its_h, its_w, rows, columns, cell // its_w, cell % its_w


@triton.jit
def _block(tokens, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Return the program's tokens, the channels of a head, and which of these tokens exist."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return token, tl.arange(0, CHANNELS), token < tokens


@triton.jit
def _holds(index, window_row, count, WINDOW: tl.constexpr, STRIDE: tl.constexpr):
    """Tell whether there is such a window, along one axis, that contains the cell."""
    return (window_row >= 0) & (window_row < count) & (index < window_row * STRIDE + WINDOW)


@triton.jit
def _window(
    slot, row, column, rows, columns, inside, WINDOW: tl.constexpr, STRIDE: tl.constexpr, SLOTS: tl.constexpr
):  # fmt: skip
    """Return row and column of the window in a slot of each token, and whether one exists that contains the token."""
    window_row, window_column = row // STRIDE - slot // SLOTS, column // STRIDE - slot % SLOTS
    held = inside & _holds(row, window_row, rows, WINDOW, STRIDE)
    return window_row, window_column, held & _holds(column, window_column, columns, WINDOW, STRIDE)


@triton.jit
def _covering(index, count, WINDOW: tl.constexpr, STRIDE: tl.constexpr):
    """Return how many windows contain a cell, along one axis."""
    last = tl.minimum(index // STRIDE, count - 1)
    first = (tl.maximum(index - WINDOW + 1, 0) + STRIDE - 1) // STRIDE
    return last - first + 1


@triton.jit
def _rows(pointer, token, row_stride, channel, head, HEAD_DIM: tl.constexpr, inside):
    """Load the head's channels of some tokens, (BLOCK, CHANNELS)."""
    offset = token.to(tl.int64)[:, None] * row_stride + head * HEAD_DIM + channel[None, :]
    return tl.load(pointer + offset, mask=inside[:, None] & (channel < HEAD_DIM)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _forward(
    qkv, out, lse, batch, height, width, n_levels, tokens, features, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, RATE: tl.constexpr, WINDOW: tl.constexpr, STRIDE: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, heads = tl.program_id(1), tl.num_programs(1)
    token, channel, inside = _block(tokens, BLOCK, CHANNELS)
    first, h, w, rows, columns, row, column = _locate(token, batch, height, width, n_levels, RATE, WINDOW, STRIDE)
    q = _rows(qkv, token, 3 * features, channel, head, HEAD_DIM, inside) * scale
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for slot in range(SLOTS * SLOTS):
        window_row, window_column, held = _window(
            slot, row, column, rows, columns, inside, WINDOW, STRIDE, SLOTS
        )  # fmt: skip
        # Finite, so that no difference of infinities arises if a token has no such window.
        top = tl.full((BLOCK,), -1e30, tl.float32)
        weight = tl.zeros((BLOCK,), tl.float32)
        o = tl.zeros((BLOCK, CHANNELS), tl.float32)
        for cell in range(WINDOW * WINDOW):
            key_row, key_column = window_row * STRIDE + cell // WINDOW, window_column * STRIDE + cell % WINDOW
            there = held & (key_row < h) & (key_column < w)
            key = first + key_row * w + key_column
            k = _rows(qkv + features, key, 3 * features, channel, head, HEAD_DIM, there)
            v = _rows(qkv + 2 * features, key, 3 * features, channel, head, HEAD_DIM, there)
            score = tl.where(there, tl.sum(q * k, 1), -1e30)
            higher = tl.maximum(top, score)
            shrink, p = tl.exp(top - higher), tl.where(there, tl.exp(score - higher), 0.0)
            weight = weight * shrink + p
            o = o * shrink[:, None] + p[:, None] * v
            top = higher
        weight = tl.where(held, weight, 1.0)
        total += o / weight[:, None]
        place = (token.to(tl.int64) * heads + head) * (SLOTS * SLOTS) + slot
        tl.store(lse + place, top + tl.log(weight), mask=held)
    windows = _covering(row, rows, WINDOW, STRIDE) * _covering(column, columns, WINDOW, STRIDE)
    offset = token.to(tl.int64)[:, None] * features + head * HEAD_DIM + channel[None, :]
    mask = inside[:, None] & (channel < HEAD_DIM)[None, :]
    tl.store(out + offset, (total / windows[:, None]).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _query_gradient(
    grad, qkv, lse, delta, dqkv, batch, height, width, n_levels, tokens, features, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, RATE: tl.constexpr, WINDOW: tl.constexpr, STRIDE: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """By queries; and ``delta``, for each slot the sum of p dp over the keys, which the keys' gradient needs."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    token, channel, inside = _block(tokens, BLOCK, CHANNELS)
    first, h, w, rows, columns, row, column = _locate(token, batch, height, width, n_levels, RATE, WINDOW, STRIDE)
    q = _rows(qkv, token, 3 * features, channel, head, HEAD_DIM, inside) * scale
    windows = _covering(row, rows, WINDOW, STRIDE) * _covering(column, columns, WINDOW, STRIDE)
    do = _rows(grad, token, features, channel, head, HEAD_DIM, inside) / windows[:, None]
    dq = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for slot in range(SLOTS * SLOTS):
        window_row, window_column, held = _window(
            slot, row, column, rows, columns, inside, WINDOW, STRIDE, SLOTS
        )  # fmt: skip
        place = (token.to(tl.int64) * heads + head) * (SLOTS * SLOTS) + slot
        log_sum = tl.load(lse + place, mask=held, other=0.0)
        p_dp = tl.zeros((BLOCK,), tl.float32)
        p_dp_k = tl.zeros((BLOCK, CHANNELS), tl.float32)
        p_k = tl.zeros((BLOCK, CHANNELS), tl.float32)
        for cell in range(WINDOW * WINDOW):
            key_row, key_column = window_row * STRIDE + cell // WINDOW, window_column * STRIDE + cell % WINDOW
            there = held & (key_row < h) & (key_column < w)
            key = first + key_row * w + key_column
            k = _rows(qkv + features, key, 3 * features, channel, head, HEAD_DIM, there)
            v = _rows(qkv + 2 * features, key, 3 * features, channel, head, HEAD_DIM, there)
            p = tl.where(there, tl.exp(tl.where(there, tl.sum(q * k, 1) - log_sum, 0.0)), 0.0)
            dp = p * tl.sum(do * v, 1)
            p_dp += dp
            p_dp_k += dp[:, None] * k
            p_k += p[:, None] * k
        dq += p_dp_k - p_dp[:, None] * p_k
        tl.store(delta + place, p_dp, mask=held)
    offset = token.to(tl.int64)[:, None] * (3 * features) + head * HEAD_DIM + channel[None, :]
    mask = inside[:, None] & (channel < HEAD_DIM)[None, :]
    tl.store(dqkv + offset, (dq * scale).to(dqkv.dtype.element_ty), mask=mask)


@triton.jit
def _key_gradient(
    grad, qkv, lse, delta, dqkv, batch, height, width, n_levels, tokens, features, scale,
    HEAD_DIM: tl.constexpr, CHANNELS: tl.constexpr, RATE: tl.constexpr, WINDOW: tl.constexpr, STRIDE: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """By keys and values: here the tokens are keys, and the cells of their windows the queries that read them."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    token, channel, inside = _block(tokens, BLOCK, CHANNELS)
    first, h, w, rows, columns, row, column = _locate(token, batch, height, width, n_levels, RATE, WINDOW, STRIDE)
    k = _rows(qkv + features, token, 3 * features, channel, head, HEAD_DIM, inside) * scale
    v = _rows(qkv + 2 * features, token, 3 * features, channel, head, HEAD_DIM, inside)
    dk = tl.zeros((BLOCK, CHANNELS), tl.float32)
    dv = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for slot in range(SLOTS * SLOTS):
        window_row, window_column, held = _window(
            slot, row, column, rows, columns, inside, WINDOW, STRIDE, SLOTS
        )  # fmt: skip
        for cell in range(WINDOW * WINDOW):
            query_row, query_column = window_row * STRIDE + cell // WINDOW, window_column * STRIDE + cell % WINDOW
            there = held & (query_row < h) & (query_column < w)
            query = first + query_row * w + query_column
            windows = _covering(query_row, rows, WINDOW, STRIDE) * _covering(query_column, columns, WINDOW, STRIDE)
            windows = tl.where(there, windows, 1)
            q = _rows(qkv, query, 3 * features, channel, head, HEAD_DIM, there)
            do = _rows(grad, query, features, channel, head, HEAD_DIM, there) / windows[:, None]
            their_slot = (query_row // STRIDE - window_row) * SLOTS + query_column // STRIDE - window_column
            place = (query.to(tl.int64) * heads + head) * (SLOTS * SLOTS) + their_slot
            log_sum = tl.load(lse + place, mask=there, other=0.0)
            p = tl.where(there, tl.exp(tl.where(there, tl.sum(q * k, 1) - log_sum, 0.0)), 0.0)
            ds = p * (tl.sum(do * v, 1) - tl.load(delta + place, mask=there, other=0.0))
            dv += p[:, None] * do
            dk += ds[:, None] * q
    offset = token.to(tl.int64)[:, None] * (3 * features) + head * HEAD_DIM + channel[None, :]
    mask = inside[:, None] & (channel < HEAD_DIM)[None, :]
    tl.store(dqkv + features + offset, (dk * scale).to(dqkv.dtype.element_ty), mask=mask)
    tl.store(dqkv + 2 * features + offset, dv.to(dqkv.dtype.element_ty), mask=mask)


def forward(qkv_TF: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """Return the output, (T, F), and the logarithms of the sums of exponentials, (T, A, S * S), float32.

    Args:
        qkv_TF: queries, keys and values, (T, 3F), on CUDA.
        windows: of all levels.
    """
    qkv_TF = qkv_TF.contiguous()
    out = qkv_TF.new_empty(len(qkv_TF), qkv_TF.shape[1] // 3)
    lse = qkv_TF.new_empty(len(qkv_TF), windows.heads, windows.slots**2, dtype=torch.float32)
    _launch(_forward, (qkv_TF, out, lse), qkv_TF, windows)
    return out, lse


def backward(grad_TF: Tensor, qkv_TF: Tensor, lse: Tensor, windows: Windows) -> Tensor:
    """Return the gradient by ``qkv_TF``, (T, 3F); ``lse`` is the second result of :func:`forward`."""
    qkv_TF, grad_TF = qkv_TF.contiguous(), grad_TF.contiguous()
    dqkv, delta = torch.empty_like(qkv_TF), torch.empty_like(lse)
    for kernel in (_query_gradient, _key_gradient):
        _launch(kernel, (grad_TF, qkv_TF, lse, delta, dqkv), qkv_TF, windows)
    return dqkv


def _launch(kernel: Any, tensors: tuple[Tensor, ...], qkv_TF: Tensor, windows: Windows) -> None:
    tokens, features = len(qkv_TF), qkv_TF.shape[1] // 3
    head_dim = features // windows.heads
    channels = triton.next_power_of_2(head_dim)
    block = max(16, TILE // channels)
    kernel[(ceil_div(tokens, block), windows.heads)](
        *tensors,
        windows.batch,
        windows.height,
        windows.width,
        windows.levels,
        tokens,
        features,
        head_dim**-0.5,
        HEAD_DIM=head_dim,
        CHANNELS=channels,
        RATE=windows.rate,
        WINDOW=windows.window_size,
        STRIDE=windows.stride,
        SLOTS=windows.slots,
        BLOCK=block,
    )
