"""Building blocks shared by the plugins of models."""
