"""Measurement of latency, memory and floating-point operations, and of the environment."""
