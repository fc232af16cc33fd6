"""Two revisions of the code, interleaved on one machine."""
