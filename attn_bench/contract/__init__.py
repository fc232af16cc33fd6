"""The definitions of the contract, all available from :mod:`attn_bench.plugin`."""
