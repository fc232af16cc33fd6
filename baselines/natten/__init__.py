"""Neighborhood attention (arXiv:2204.07143, arXiv:2209.15001), from the package natten."""
