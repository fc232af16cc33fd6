"""Slow, obvious readings of the equations of mixers, one head and one point at a time, in terms of a module's weights.

Each takes the module and tokens (B, *grid, dim) and returns what its forward pass has to return.
"""

from __future__ import annotations

import math

import torch


def linear(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def heads_of(x, heads):
    """Return the channels of each head, a list of (N, D), of tokens (N, dim)."""
    return list(x.reshape(len(x), heads, -1).unbind(1))


def point_features(features, x):
    """Return (N, dim): a linear map, or the 3 x 3 convolution as a sum over neighbors, zero outside of the grid."""
    if isinstance(features.map, torch.nn.Linear):
        return linear(features.map, x.reshape(-1, x.shape[-1]))
    height, width, dim = x.shape
    around = x.new_zeros(height + 2, width + 2, dim)
    around[1:-1, 1:-1] = x
    neighbours = [(a, b) for a in range(3) for b in range(3)]
    parts = (around[a : a + height, b : b + width] @ features.map.weight[:, :, a, b].T for a, b in neighbours)
    return (sum(parts) + features.map.bias).reshape(-1, dim)


def physics_attention(module, x, among_slices=None):
    """Transolver; ``among_slices`` takes the place of attention among the slices of a head."""

    def attention(z):
        q, k, v = (linear(layer, z) for layer in module.qkv)
        return (q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v

    samples = []
    for sample in x:
        heads = module.temperature.shape[0]
        features, values = (heads_of(point_features(f, sample), heads) for f in (module.features, module.values))
        parts = []
        for head in range(heads):
            tau = module.temperature[head].clamp(0.1, 5)
            s = (linear(module.to_slices, features[head]) / tau).softmax(1)
            z = torch.stack([(s[:, g, None] * values[head]).sum(0) / (s[:, g].sum() + 1e-5) for g in range(s.shape[1])])
            parts.append(s @ (among_slices or attention)(z))
        samples.append(linear(module.project, torch.cat(parts, 1)).view_as(sample))
    return torch.stack(samples)


def softmax_features(module, x):
    """LinearNO."""
    samples = []
    for sample in x:
        heads = module.features.heads
        features, values = (heads_of(point_features(f, sample), heads) for f in (module.features, module.values))
        parts = []
        for head in range(heads):
            q = linear(module.queries, features[head]).softmax(1)
            k = linear(module.keys, features[head]).softmax(0)
            parts.append(q @ (k.T @ values[head]))
        samples.append(linear(module.project, torch.cat(parts, 1)).view_as(sample))
    return torch.stack(samples)


def residual_mlp(mlp, x):
    for layer in mlp.hidden:
        y = linear(layer, x)
        x = x + 0.5 * y * (1 + (math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)).tanh())
    return x + linear(mlp.last, x)


def routed(module, x):
    """FLARE."""
    samples = []
    for sample in x:
        tokens = sample.reshape(-1, sample.shape[-1])
        keys, values = (
            heads_of(residual_mlp(mlp, tokens), len(module.queries)) for mlp in (module.keys, module.values)
        )
        parts = []
        for q, k, v in zip(module.queries, keys, values, strict=True):
            z = (q @ k.T).softmax(1) @ v
            parts.append((k @ q.T).softmax(1) @ z)
        samples.append(linear(module.project, torch.cat(parts, 1)).view_as(sample))
    return torch.stack(samples)


def normal(x, weight, bias):
    """LayerNorm of the last axis."""
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-7).sqrt() * weight + bias


def without_softmax(module, x):
    """Galerkin and Fourier attention."""
    attend, samples = module.attend, []
    for sample in x:
        tokens = sample.reshape(-1, sample.shape[-1])
        q, k, v = (heads_of(part, module.heads) for part in linear(module.qkv, tokens).chunk(3, 1))
        parts, n = [], len(tokens)
        for head in range(module.heads):
            (w1, w2), (b1, b2) = attend.weight[:, head], attend.bias[:, head]
            if attend.galerkin:
                parts.append(q[head] @ normal(k[head], w1, b1).T @ normal(v[head], w2, b2) / n)
            else:
                scores = normal(q[head], w1, b1) @ normal(k[head], w2, b2).T
                parts.append(scores @ v[head] / (n * math.sqrt(v[head].shape[1])))
        samples.append(linear(module.project, torch.cat(parts, 1)).view_as(sample))
    return torch.stack(samples)
