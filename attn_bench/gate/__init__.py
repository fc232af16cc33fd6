"""Regression checks: comparisons of two results folders or two revisions, and checks of plugins."""
