"""Published numbers and the results held against them."""
