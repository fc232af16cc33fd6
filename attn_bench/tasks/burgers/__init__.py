"""Waves that steepen and decay on a circle: the task ``burgers``."""
