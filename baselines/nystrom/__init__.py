"""Nyström attention (arXiv:2102.03902), from the package nystrom-attention."""
