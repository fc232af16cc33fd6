"""What several tasks use: downloads, the cache, files of arrays, normalisation, metrics of fields."""
