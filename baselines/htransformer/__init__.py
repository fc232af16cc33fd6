"""H-Transformer-1D (arXiv:2107.11906), of the package h-transformer-1d."""
