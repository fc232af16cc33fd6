"""What revisions measured, kept over time, and the revisions at which a cost stepped."""
