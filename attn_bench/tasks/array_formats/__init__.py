"""The formats that arrays are read from, a module each; :mod:`attn_bench.tasks.array_files` is the door to them."""
