"""Galerkin and Fourier attention: attention without a softmax."""
