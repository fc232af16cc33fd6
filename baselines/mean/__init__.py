"""The training mean: a constant predictor, which ignores its input."""
