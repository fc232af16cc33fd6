"""Tables and figures of a results folder."""

from attn_bench.report.page import write_report
from attn_bench.report.tables import console_table

__all__ = ["console_table", "write_report"]
