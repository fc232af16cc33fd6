"""Attention in windows that may overlap: torch and Triton."""
