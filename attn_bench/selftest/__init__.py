"""Whether this machine measures what it should: one line for each thing that a device is used for."""
