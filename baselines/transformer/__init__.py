"""Exact, windowed and linear attention as mixers."""
