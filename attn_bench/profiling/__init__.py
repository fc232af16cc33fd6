"""Why a step takes as long as it does: its time and its allocations by operator and by module."""
