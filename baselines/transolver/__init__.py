"""Transolver: attention among slices of the points."""
