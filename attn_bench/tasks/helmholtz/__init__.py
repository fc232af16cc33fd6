"""Waves of one frequency in a square cavity: the task ``helmholtz``."""
