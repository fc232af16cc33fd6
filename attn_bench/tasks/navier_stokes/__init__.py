"""Turbulent flow in two dimensions, on a torus: the task ``navier-stokes``."""
