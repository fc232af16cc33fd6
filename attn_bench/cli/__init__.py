"""The command line: parse, call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``attn-bench``: one line per error.

    The exit status is 2 for wrong input, 130 when interrupted (143 by SIGTERM), 70 for an unexpected error, whose
    traceback is in a log, and 74 if only standard output could not be written.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    told: list[int] = []
    try:
        # Here, so that interruptions are handled while libraries are imported, too.
        from attn_bench.running.processes import interrupt_when_told

        told = interrupt_when_told()
        from attn_bench.cli import error_messages
        from attn_bench.cli.surroundings import standard_streams, warnings_are_no_errors

        with warnings_are_no_errors(), standard_streams() as (output, _):
            status = _run(arguments, debug)
            output.flush()
            if output.failure:
                error_messages.complain(
                    f"cannot write to standard output ({output.failure}); files were written completely"
                )
                status = status or error_messages.NOT_WRITTEN
    except KeyboardInterrupt:
        status = 130
    sys.exit(128 + told[0] if told else status)


def _run(arguments: list[str], debug: bool) -> int:
    from attn_bench.cli import error_messages

    try:
        from attn_bench.cli.app import call

        return call(arguments)
    except SystemExit:
        raise
    except BaseException as error:
        if error_messages.interrupted(error):
            return error_messages.INTERRUPTED
        if debug:
            raise error_messages.original(error)  # noqa: B904
        if (text := error_messages.message(error)) is None:
            error_messages.report_fault(error)
            return error_messages.FAULT
        error_messages.complain(text)
        return error_messages.WRONG_INPUT
