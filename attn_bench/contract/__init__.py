"""The parts of the contract; :mod:`attn_bench.plugin` has all of them."""
