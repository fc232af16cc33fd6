"""The command line: parse, call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``attn-bench``: one line per error.

    The exit status is 2 for wrong input, 130 when interrupted (143 by SIGTERM), 70 for an error that nobody foresaw,
    whose traceback is in a log, and 74 where all went well but standard output could not be written.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    told: list[int] = []
    try:
        # Here, so that an interruption is one while libraries are imported, too.
        from attn_bench.running.processes import interrupt_when_told

        told = interrupt_when_told()
        from attn_bench.cli import failures
        from attn_bench.cli.surroundings import standard_streams, warnings_are_no_errors

        with warnings_are_no_errors(), standard_streams() as (output, _):
            status = _run(arguments, debug)
            output.flush()
            if output.failure:
                failures.complain(f"cannot write to standard output ({output.failure}); what went to files is whole")
                status = status or failures.NOT_WRITTEN
    except KeyboardInterrupt:
        status = 130
    sys.exit(128 + told[0] if told else status)


def _run(arguments: list[str], debug: bool) -> int:
    from attn_bench.cli import failures

    try:
        from attn_bench.cli.app import call

        return call(arguments)
    except SystemExit:
        raise
    except BaseException as error:
        if failures.interrupted(error):
            return failures.INTERRUPTED
        if debug:
            raise failures.original(error)  # noqa: B904
        if (text := failures.message(error)) is None:
            failures.report_fault(error)
            return failures.FAULT
        failures.complain(text)
        return failures.WRONG_INPUT
