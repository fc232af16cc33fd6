"""H-Transformer-1D (arXiv:2107.11906), from the package h-transformer-1d."""
