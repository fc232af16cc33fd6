"""Published numbers, and how results compare with them."""
