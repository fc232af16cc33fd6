"""The equations of the Darcy task as one sparse matrix: a slow, direct form that the solver is tested against."""

from __future__ import annotations

import numpy as np
import scipy.sparse


def assemble(a: np.ndarray, forcing: float = 1.0) -> tuple[scipy.sparse.csc_matrix, np.ndarray, np.ndarray]:
    """Return the matrix (M, M), the right-hand side (M,), and which of the (n, n) nodes are the M unknowns.

    Second-order finite differences of -div(a grad u) = forcing on the unit square, u = 0 on the boundary; the
    coefficient of a face is the mean of its two nodes.

    Args:
        a: coefficient at the nodes, (n, n).
        forcing: right-hand side of the equation.
    """
    n = len(a)
    index = np.arange(n * n).reshape(n, n)
    inner = np.zeros((n, n), bool)
    inner[1:-1, 1:-1] = True
    rows, columns, values = [], [], []
    for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        neighbour = np.roll(index, (-di, -dj), (0, 1))[inner]
        face = (a[inner] + a.ravel()[neighbour]) / 2
        here = index[inner]
        rows += [here, here]
        columns += [here, neighbour]
        values += [face, -face]
    matrix = scipy.sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))))
    keep = index[inner]
    return matrix[keep][:, keep].tocsc(), np.full(len(keep), forcing / (n - 1) ** 2), inner
