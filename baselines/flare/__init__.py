"""FLARE: attention routed through latent tokens."""
