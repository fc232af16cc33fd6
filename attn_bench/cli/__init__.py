"""The command line: parse, call, print."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from attn_bench.cli import claims, comparing, listing, reporting, running
from attn_bench.errors import USER_ERRORS

app = typer.Typer(
    help="Benchmark efficient attention: accuracy, latency and memory, in one command.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of ``attn-bench``: one line per error, exit status 2 for wrong input, 130 when interrupted."""
    logging.getLogger("attn_bench").addHandler(_LINES)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    command: Any = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="attn-bench", standalone_mode=False)
    except USER_ERRORS as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        # Typer's own errors about arguments; where it keeps their class differs between versions.
        if debug or not hasattr(error, "format_message"):
            raise
        _fail(_elsewhere(error, command.commands) or error.format_message())
    sys.exit(status if isinstance(status, int) else 0)


class _Lines(logging.Handler):
    """Prints what the harness has to say beside its results, such as files that it skips."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"attn-bench: {record.getMessage()}", file=sys.stderr)


_LINES = _Lines()


def _elsewhere(error: Any, commands: Mapping[str, Any]) -> str | None:
    """Say which other commands have an option that this one does not have."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if option is None or context is None:
        return None
    having = [name for name, command in commands.items() if any(option in given.opts for given in command.params)]
    return f"{context.info_name} has no option {option}; {' and '.join(having)} can take it" if having else None


def _fail(message: str) -> None:
    print(f"attn-bench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"attn-bench {version('attn-bench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


app.command()(running.run)
app.command()(running.measure)
app.command()(reporting.report)
app.command()(comparing.compare)
app.command()(comparing.ab)
app.command()(claims.claims)
app.command("list")(listing.list_)
app.command()(listing.data)
