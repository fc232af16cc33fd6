"""The training mean: what a model that ignores its input achieves."""
