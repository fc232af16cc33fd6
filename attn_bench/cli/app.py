"""The commands of ``attn-bench``."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from attn_bench.cli import (
    checking,
    claims,
    comparing,
    data,
    history,
    jobs,
    listing,
    profiling,
    publishing,
    reporting,
    running,
    selftesting,
)
from attn_bench.cli.error_messages import Lines
from attn_bench.errors import UserError
from attn_bench.sweep.execution import Running
from attn_bench.sweep.fields import settings_of
from attn_bench.sweep.settings import Sweep

app = typer.Typer(
    help="Benchmark efficient attention: accuracy, latency and memory, in one command.",
    epilog="Exit status: 0 on success, 1 if a command found a problem (see its help), 2 for invalid input, 70 for an "
    "unexpected error (the message names the log), 74 if standard output cannot be written, 130 if interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_LINES = Lines()


def call(arguments: list[str]) -> int:
    """Run a command and return its exit status.

    Raises:
        UserError: the arguments are wrong.
    """
    logging.getLogger("attn_bench").addHandler(_LINES)
    command: Any = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="attn-bench", standalone_mode=False)
    except Exception as error:
        # Typer's own errors about arguments; the module of their class differs between versions.
        if not hasattr(error, "format_message"):
            raise
        raise UserError(_elsewhere(error, command.commands) or error.format_message()) from error
    return status if isinstance(status, int) else 0


def _elsewhere(error: Any, commands: Mapping[str, Any]) -> str | None:
    """Suggest the option that was probably meant, or the other commands that have it."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if option is None or context is None:
        return None
    known = [*settings_of(Sweep).values(), *settings_of(Running).values()]
    meant = next((each.flag for each in known if option.lstrip("-").replace("-", "_") in each.also), None)
    if meant is not None and any(meant in given.opts for given in context.command.params):
        return f"{context.info_name} has no option {option}; did you mean {meant}?"
    without = f"{context.info_name} has no option {option}"
    having = [name for name, command in commands.items() if any(option in given.opts for given in command.params)]
    if having:
        return f"{without}; {' and '.join(having)} can take it"
    own = [name for given in context.command.params for name in given.opts if name.startswith("--")]
    close = difflib.get_close_matches(option, own, n=1, cutoff=0.75)
    return f"{without}; did you mean {close[0]}?" if close else f"{without}; --help lists its options"


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
app.command()(profiling.profile)
app.command()(jobs.status)
app.command()(jobs.cancel)
app.command()(reporting.report)
app.command()(reporting.merge)
app.command()(publishing.publish)
app.command()(comparing.compare)
app.command()(comparing.ab)
app.command()(checking.check)
app.command()(selftesting.selftest)
app.command()(claims.claims)
app.command("list")(listing.list_)
app.command()(data.data)
app.add_typer(history.app, name="history")
