"""Analysis of results: how costs scale, where one model becomes cheaper than another, and published claims."""
