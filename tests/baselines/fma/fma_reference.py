"""Fast Multipole Attention read off its equations, token by token, without lists, chunks or layouts."""

import itertools
import math

import torch

from baselines.fma.tree import Tree


def projections(module, x):
    """Queries, keys and values, (B, heads, \\*grid, E)."""
    return module.qkv(x).unflatten(-1, (3, module.heads, -1)).movedim(-3, 0).movedim(-2, 2).unbind(0)


def exact(module, x):
    """Softmax attention between all tokens, with the weights of ``module``."""
    q, k, v = (t.flatten(2, -2) for t in projections(module, x))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if module.causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return module.project((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


def run(corner, side):
    """The tokens of a square in the order of its parts: those of each half of every axis together, and so on."""
    steps = range(side) if side % 2 else (0, side // 2)
    corners = [tuple(c + s for c, s in zip(corner, step)) for step in itertools.product(steps, repeat=len(corner))]
    return corners if side % 2 else [token for c in corners for token in run(c, side // 2)]


def summarise(x, grid, tokens, summaries, level, rank):
    """The summaries of one cell, (B, heads, rank, E), and how many tokens each has."""
    real = [all(0 <= t < size for t, size in zip(token, grid)) for token in tokens]
    nothing = torch.zeros_like(x.flatten(2, -2)[:, :, 0])
    rows = [x[(..., *token, slice(None))] if there else nothing for token, there in zip(tokens, real)]
    x_BHWE, part = torch.stack(rows, -2), len(tokens) // rank
    counts = [sum(real[r * part : (r + 1) * part]) for r in range(rank)]
    if summaries.kind == "grouped":
        found = torch.einsum("bhwe,erw->bhre", x_BHWE, summaries.kernel(level, len(tokens)))
    elif summaries.kind == "dense":
        found = torch.einsum("bhwe,werf->bhrf", x_BHWE, summaries.kernel(level, len(tokens)))
    else:
        found = x_BHWE.unflatten(-2, (rank, part)).mean(-2)
    return found * torch.tensor([part / max(c, 1) for c in counts], dtype=x.dtype)[:, None], counts


def slow(module, x):
    grid = tuple(x.shape[1:-1])
    q, k, v = projections(module, x)
    levels = module.levels(Tree(grid, module.cell_size).levels)
    cells, queries = {}, {}
    for l, (width, rank) in enumerate(levels, 1):
        side = module.cell_size * 2 ** (l - 1)
        for cell in itertools.product(*(range(-(-size // side)) for size in grid)):
            tokens = run(tuple(c * side for c in cell), side)
            keys, counts = summarise(k, grid, tokens, module.key_summaries, l, rank)
            values, _ = summarise(v, grid, tokens, module.value_summaries, l, rank)
            cells[l, cell] = keys, values, counts
            part = width // rank
            for r in range(rank):
                if module.query_downsampling:
                    mine = tokens[r * part : (r + 1) * part]
                    shared, _ = summarise(q, grid, mine, module.query_summaries, l, 1)
                    queries |= {(l, token): shared[..., 0, :] for token in mine}
    outputs = []
    for i in itertools.product(*(range(size) for size in grid)):
        scores, values = [], []

        def read(query, key, value, count=1, scores=scores, values=values):
            bias = math.log(count) if module.scale_coarse else 0
            scores.append((query * key).sum(-1) / math.sqrt(q.shape[-1]) + bias)
            values.append(value)

        for j in itertools.product(*(range(size) for size in grid)):
            near = all(abs(a // module.cell_size - b // module.cell_size) <= 1 for a, b in zip(i, j))
            if near and not (module.causal and j > i):
                read(*(t[(..., *at, slice(None))] for t, at in ((q, i), (k, j), (v, j))))
        for l, (width, rank) in enumerate(levels, 1):
            own = tuple(a // (module.cell_size * 2 ** (l - 1)) for a in i)
            query = q[(..., *i, slice(None))]
            if module.query_downsampling:
                before = i if not module.causal else (i[0] - width // rank,)
                query = queries.get((l, before))
            for (its_level, cell), (keys, vals, counts) in cells.items():
                touching = all(abs(a - b) <= 1 for a, b in zip(own, cell))
                parents_touch = all(abs(a // 2 - b // 2) <= 1 for a, b in zip(own, cell))
                if its_level == l and parents_touch and not touching and not (module.causal and cell > own):
                    for r in range(rank):
                        if counts[r]:
                            read(query, keys[..., r, :], vals[..., r, :], counts[r])
        p = torch.stack(scores, -1).softmax(-1)
        outputs.append((torch.stack(values, -2) * p[..., None]).sum(-2).flatten(1))
    return module.project(torch.stack(outputs, 1).reshape(x.shape))
