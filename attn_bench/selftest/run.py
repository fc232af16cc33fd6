"""Runs the lines of the self-test one after the other; each that is finished is kept in a folder."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from attn_bench.errors import UserError
from attn_bench.files import atomic_write
from attn_bench.format import clean
from attn_bench.running.cell_failures import one_line
from attn_bench.running.measure.machine import environment
from attn_bench.selftest.line_outcome import SIZES, Failed, Outcome, Skip
from attn_bench.selftest.selftest_lines import LINES, Bench


def selftest(
    device: str, folder: Path, size: str | None = None, started: Callable[[str], object] = lambda line: None
) -> Iterator[Outcome]:
    """Yield what every line finds, and keep it in ``folder``; a line that is kept there and did not fail is not rerun.

    Args:
        device: ``cpu`` or ``cuda``.
        size: a key of :data:`attn_bench.selftest.line_outcome.SIZES`; default: that of the device.
        started: called with the name of a line before it runs.
    """
    bench = Bench(device, SIZES[size or device])
    # What is kept counts for the same machine, versions and sizes.
    where = sha256(f"{environment(device).id} {device} {bench.sizes}".encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for place, (line, find) in enumerate(LINES.items()):
        path = folder / f"{place:02}-{where}.json"
        outcome = _kept(path, line)
        if outcome is None or outcome.status == "fail":
            started(line)
            outcome = _found(bench, line, find)
            with atomic_write(path) as file:
                file.write(json.dumps(dataclasses.asdict(outcome), indent=1).encode())
        yield outcome


def _found(bench: Bench, line: str, find: Callable[[Bench], str]) -> Outcome:
    begun = time.perf_counter()

    def outcome(**values: str) -> Outcome:
        return Outcome(line, seconds=round(time.perf_counter() - begun, 1), **values)  # type: ignore[arg-type]

    try:
        return outcome(status="pass", number=find(bench))
    except Skip as error:
        return outcome(status="skipped", reason=clean(str(error)))
    except (Failed, UserError) as error:
        return outcome(status="fail", reason=clean(str(error)))
    except Exception as error:
        return outcome(status="fail", reason=one_line(error))
    finally:
        bench.device.empty_cache()


def _kept(path: Path, line: str) -> Outcome | None:
    """Return what a file keeps of a line; None if there is nothing usable."""
    try:
        outcome = Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return outcome if outcome.line == line else None
