"""Starts torch's threads."""

import torch

TABLE = torch.rand(1000, 1000).exp()
TOTAL = float((TABLE @ TABLE).sum())
