"""The equations of the Darcy task as one sparse matrix, assembled node by node."""

from __future__ import annotations

import numpy as np
import scipy.sparse


def assemble(a, forcing=1.0):
    """Return matrix, right-hand side and which nodes they are about; a face has the mean of its two nodes."""
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
