"""Transformers that differ only in the mixer of tokens."""
