"""The instrument: latency, memory, floating-point operations, and the environment they were measured in."""
