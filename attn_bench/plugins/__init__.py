"""Plugins: where they are found, their options, and the fingerprint of their code."""
