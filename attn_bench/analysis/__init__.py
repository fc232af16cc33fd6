"""What the results of runs say: how costs grow, and which of two models is cheaper where."""
