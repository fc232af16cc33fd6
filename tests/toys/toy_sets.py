"""What a model imports, and sets torch's default type on the way."""

import torch

torch.set_default_dtype(torch.float64)
