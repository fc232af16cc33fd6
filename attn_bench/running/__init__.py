"""From the cells of a sweep to their records."""
