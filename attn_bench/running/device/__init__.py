"""What the harness asks of a device: one interface, a side for the CPU and a side for CUDA."""
