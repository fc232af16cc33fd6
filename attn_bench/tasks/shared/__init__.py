"""Code shared by several tasks: downloads, the cache, array files, normalization, metrics of fields."""
