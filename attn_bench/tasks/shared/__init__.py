"""What several tasks use: downloads, the cache, files of arrays, normalization, metrics of fields."""
