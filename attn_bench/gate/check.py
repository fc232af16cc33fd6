"""Checks the promises of a plugin in a separate process, which the plugin may crash.

``python -P -m attn_bench.gate.check DESCRIPTOR`` reads a request from standard input and writes to the descriptor a
line of JSON for each promise, and an empty one at the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from json import dumps, loads
from typing import Any

from attn_bench.gate.outcome import Outcome
from attn_bench.running.processes import how_ended, kill_tree, last_words, surroundings


def check(plugin: str, options: Mapping[str, Any], *, device: str = "cpu", compiled: bool = False) -> Iterator[Outcome]:
    """Yield what comes of each promise (:func:`attn_bench.gate.promises.outcomes`), as soon as it is known.

    A process that ends too early is an outcome, too.

    Args:
        plugin: its registered name.
        options: of the model, by name, validated.
        device: ``"cpu"`` or ``"cuda"``.
        compiled: check causality under torch.compile, too.
    """
    request = {"plugin": plugin, "options": dict(options), "device": device, "compiled": compiled}
    read, write = os.pipe()
    with tempfile.TemporaryFile() as log, os.fdopen(read, encoding="utf-8") as answers:
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
            with process.stdin:
                process.stdin.write(dumps(request).encode())
            for line in answers:
                if line == "\n":
                    return
                yield Outcome(**loads(line))
            said = last_words(log)
            yield Outcome("process", False, f"{how_ended(process.wait())}{f': {said}' if said else ''}")
        finally:
            kill_tree(process)


def _serve(descriptor: int) -> None:
    import torch

    from attn_bench.gate.promises import outcomes
    from attn_bench.plugins.registry import MODELS
    from attn_bench.running.measure.torch_state import Keeper
    from attn_bench.running.processes import die_with_parent

    die_with_parent()
    request = loads(sys.stdin.buffer.read())
    name = request.pop("plugin")
    torch.set_num_threads(1)  # as in the checks, or the plugin would seem to have changed it
    keeper = Keeper(0)
    with keeper.stage("import"):
        model = MODELS.load(name, contained=False)
        for module in model.imports:
            with contextlib.suppress(Exception):  # ``build`` says what it needs
                import_module(module)
    with os.fdopen(descriptor, "w", encoding="utf-8") as answers:
        for outcome in outcomes(model, **request, keeper=keeper):
            print(dumps(asdict(outcome)), file=answers, flush=True)
        print(file=answers)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
