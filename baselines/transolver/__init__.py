"""Transolver: attention between slices of the points."""
