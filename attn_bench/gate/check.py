"""Checks the promises of a plugin in a separate process, which the plugin may crash or block.

``python -P -m attn_bench.gate.check DESCRIPTOR`` reads a request from standard input and writes messages
(:mod:`attn_bench.running.messages`) to the descriptor: the names of the promises, and what comes of each.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from json import dumps, loads
from typing import IO, Any

from attn_bench.gate.outcome import Outcome
from attn_bench.running.messages import READY, RESULT, UNSENT, Receiver, Sender, decode
from attn_bench.running.processes import how_ended, kill_tree, last_words, surroundings

# What one promise may take by default: compiling a large model on a busy machine takes minutes.
TIMEOUT_S = 600.0


def check(
    plugin: str,
    options: Mapping[str, Any],
    *,
    device: str = "cpu",
    compiled: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Outcome]:
    """Yield what comes of each promise (:func:`attn_bench.gate.promises.outcomes`), as soon as it is known.

    A process that ends too early, takes too long or sends something else is an outcome, too, and the last.

    Args:
        plugin: its registered name.
        options: of the model, by name, validated.
        device: ``"cpu"`` or ``"cuda"``.
        compiled: check causality under torch.compile, too.
        timeout_s: what the import and each promise may take.
    """
    request = {"plugin": plugin, "options": dict(options), "device": device, "compiled": compiled}
    read, write = os.pipe()
    with tempfile.TemporaryFile() as log, os.fdopen(read, "rb") as pipe:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "attn_bench.gate.check", str(write)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(write,),
            env=surroundings(),
            start_new_session=True,
        )
        os.close(write)
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(dumps(request).encode())
            yield from _followed(process, Receiver(pipe.fileno(), READY + RESULT), timeout_s, log)
        finally:
            kill_tree(process)


def _followed(
    process: subprocess.Popen[bytes], answers: Receiver, timeout_s: float, log: IO[bytes]
) -> Iterator[Outcome]:
    """Yield the outcomes that a process sends; where they end too early, why is the last."""
    awaited, deadline, why = ["import"], time.monotonic() + timeout_s, ""
    while awaited and not why:
        ended = process.poll() is not None  # asked first: what it sent before can be read
        messages = answers.available(0 if ended else min(max(deadline - time.monotonic(), 0), 1))
        for kind, content in messages:
            values = decode(content)
            if kind == READY and values is not None and awaited == ["import"]:
                awaited = list(map(str, values.get("promises", ())))
            elif (outcome := _outcome(values)) is not None and [outcome.promise] == awaited[:1]:
                del awaited[0]
                yield outcome
            else:
                answers.broken = True
            deadline = time.monotonic() + timeout_s
        if answers.broken:
            why = "the model wrote to the pipe of the answers"
        elif ended and not messages and not answers.ready():
            said = last_words(log)
            how = "the model closed the pipe of the answers" if process.returncode == UNSENT else ""
            why = f"{how or how_ended(process.returncode)}{f': {said}' if said else ''}"
        elif time.monotonic() > deadline:
            why = f"not finished within {timeout_s:g} s (--timeout)"
    if why:
        yield Outcome(awaited[0], False, why)


def _outcome(values: Any) -> Outcome | None:
    """Return the outcome that a message holds, or None if it is none."""
    match values:
        case {"promise": str(promise), "holds": bool() | None as holds, "note": str(note)}:
            return Outcome(promise, holds, note)
    return None


def _serve(descriptor: int) -> None:
    import torch

    from attn_bench.gate.promises import names, outcomes
    from attn_bench.plugins.registry import MODELS
    from attn_bench.running.measure.torch_state import Keeper
    from attn_bench.running.processes import die_with_parent

    die_with_parent()
    sender = Sender(descriptor)
    request = loads(sys.stdin.buffer.read())
    name = request.pop("plugin")
    torch.set_num_threads(1)  # as in the checks, or the plugin would appear to have changed it
    keeper = Keeper(0)
    with keeper.stage("import"):
        model = MODELS.load(name, contained=False)
        for module in model.imports:
            with contextlib.suppress(Exception):  # ``build`` reports what is missing
                import_module(module)
    sender.send(READY, {"promises": names(compiled=request["compiled"])})
    for outcome in outcomes(model, **request, keeper=keeper):
        if not sender.send(RESULT, asdict(outcome)):
            sys.exit(UNSENT)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
