"""``python -m attn_bench`` is ``attn-bench``."""

from attn_bench.cli import main

main()
