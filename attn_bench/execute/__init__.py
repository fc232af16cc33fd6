"""Ways to run cells."""
