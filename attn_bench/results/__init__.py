"""Records, the results folder, and its table."""
