"""Records, the folder that holds them, and their table."""
