"""Gaussian random fields N(0, (-Laplace + tau^2 I)^-alpha) on the unit square, zero Neumann conditions, mean zero.

The Karhunen-Loeve expansion is a cosine series: the mode cos(pi k x) cos(pi l y) has standard deviation
(pi^2 (k^2 + l^2) + tau^2)^(-alpha/2). As in the generator published with FNO (arXiv:2010.08895, ``GRF.m``) the constant
mode is left out, which conditions the field on having mean zero; neuraloperator's files agree with that and not
with the unconditioned field. The overall scale does not matter, as the field is only compared with zero.

A sample is a function, not an array: its coefficients depend only on (seed, stream, index), and the same MODES x MODES
of them are used on every grid. The truncation at alpha = 2, tau = 3 removes 0.3 % of the field's standard deviation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from attn_bench.tasks.shared.streams import Stream, normals

MODES = 256


class GaussianField:
    """The field for one (alpha, tau) on the n x n nodes of a grid with both ends of the unit interval."""

    def __init__(self, alpha: float, tau: float, n: int, device: str = "cpu") -> None:
        k = torch.arange(MODES, dtype=torch.float64)
        deviation = (math.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
        # Relative to the largest, which keeps steep spectra away from underflow.
        deviation /= deviation[0, 1].clone()
        deviation[0, 0] = 0.0
        cosines = torch.cos(math.pi * torch.outer(torch.linspace(0, 1, n, dtype=torch.float64), k))
        cosines[:, 1:] *= math.sqrt(2)
        self.deviation, self.cosines = deviation.to(device), cosines.to(device)

    def sample(self, seed: int, stream: Stream, indices: range) -> Tensor:
        """Return samples at the nodes, shape (len(indices), n, n), double precision."""
        drawn = torch.from_numpy(np.stack([normals(seed, stream, index, (MODES, MODES)) for index in indices]))
        return self.cosines @ (drawn.to(self.deviation.device) * self.deviation) @ self.cosines.T
