"""The command line in this process, which saves starting Python and lets runs share their servers."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from attn_bench import cli


@dataclass(frozen=True)
class Done:
    """How a command ended; as subprocess.CompletedProcess has it."""

    returncode: int
    stdout: str
    stderr: str


def attn_bench(*arguments: object) -> Done:
    """Run ``attn-bench`` with these arguments."""
    output, errors = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        mock.patch.object(sys, "argv", ["attn-bench", *map(str, arguments)]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
    return Done(status if isinstance(status, int) else 1, output.getvalue(), errors.getvalue())
