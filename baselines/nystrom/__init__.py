"""Nyström attention (arXiv:2102.03902), of the package nystrom-attention."""
