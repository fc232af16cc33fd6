"""Whether a change made something worse: two results folders, or two revisions, compared."""
