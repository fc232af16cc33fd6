"""A static site over many results folders."""
