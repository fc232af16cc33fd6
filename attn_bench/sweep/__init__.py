"""The settings of a run, and the cells that they expand into."""
