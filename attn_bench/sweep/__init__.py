"""What a user may say about a run (settings), and what is run (cells)."""
