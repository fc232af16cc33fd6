"""Tables and figures of a results folder."""

from attn_bench.report.summary import summarise
from attn_bench.report.tables import console_table
from attn_bench.report.tasks import by_task
from attn_bench.report.write import write_report

__all__ = ["by_task", "console_table", "summarise", "write_report"]
