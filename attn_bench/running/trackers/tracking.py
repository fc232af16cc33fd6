"""Sends what is in a results folder to trackers, each thing once.

``tracked/folder.json`` in the results folder has the token that the ids of all runs begin with, and
``tracked/<tracker>-<destination>/<cell>.json`` says what of a cell was sent there. So a later run sends what is
missing, because it is new or because the tracker failed, and a cell whose record has changed continues its run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from os import urandom
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from attn_bench.errors import UserError
from attn_bench.files import read_json, write_json
from attn_bench.format import clean
from attn_bench.lease import hold
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.results.validation import as_json, plain, validated
from attn_bench.running.trackers.tracked_cell import TrackedCell, curves, tracked_cell
from attn_bench.running.work import Listener
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import TrackerName

_ADAPTERS: Mapping[TrackerName, str] = {"wandb": "WandB", "mlflow": "MLflow", "tensorboard": "TensorBoard"}
_LARGEST_BYTES = 1 << 16
_TRACKED = "tracked"
Warn = Callable[[str], object]


class Tracker(Protocol):
    """An adapter to a tracker; what it cannot do it raises.

    Attributes:
        where: where it sends to, in words: what was sent elsewhere is sent there again.
    """

    where: str

    def cell(self, cell: TrackedCell, *, curves: bool) -> None:
        """Create or continue the run of a cell.

        Args:
            curves: whether its curves are not in that run yet.
        """

    def results(self, key: str, folder: Path, files: Sequence[Path], page: Path | None) -> None:
        """Create or continue the run of a results folder.

        Args:
            files: of the table.
            page: of the report, if there is one.
        """


@dataclass(frozen=True)
class Sent:
    """What of a cell was sent.

    Attributes:
        stamp: of its record (:meth:`Store.stamp`).
        curves: digest of its curves; None if it has none.
        attempt: number of its run: other curves, of a training that was repeated, begin another one.
    """

    stamp: str | None
    curves: str | None
    attempt: Annotated[int, Field(ge=1)] = 1


class Tracking:
    """Sends a results folder to trackers; one that fails is given up with one warning, which loses nothing else."""

    def __init__(self, folder: Path, trackers: Mapping[TrackerName, Tracker], warn: Warn = warnings.warn) -> None:
        self.folder, self.trackers, self.warn = folder, dict(trackers), warn

    @classmethod
    def of(cls, names: Sequence[TrackerName], folder: Path, warn: Warn = warnings.warn) -> Tracking:
        """Return what sends to trackers of these names.

        Raises:
            UserError: one is not installed, or nobody is logged in to it.
        """
        found = cls(folder, {}, warn)
        for name in names:
            with found._surviving(name, without=(UserError,)):
                found.trackers[name] = _found(name, folder)
        return found

    def listening(self, listen: Listener) -> Listener:
        """Return a listener that sends a cell that is done, after ``listen`` has heard of it."""

        def heard(cell: Cell, event: dict[str, Any]) -> None:
            listen(cell, event)
            if event["event"] == "done" and not cell.is_trial:
                store = Store(self.folder)
                self._each(lambda tracker, name: self._cell(store, tracker, name, cell.id))

        return heard if self.trackers else listen

    def finish(self, page: Path | None = None) -> None:
        """Send every cell that was not sent yet, the table, and the ``page`` of the report."""

        def send(tracker: Tracker, name: TrackerName) -> None:
            store = Store.open(self.folder)
            for id in store.ids():
                self._cell(store, tracker, name, id)
            files = [path for kind in ("csv", "parquet") if (path := self.folder / f"table.{kind}").is_file()]
            tracker.results(self._token(), self.folder, files, page)

        self._each(send)

    def _each(self, send: Callable[[Tracker, TrackerName], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            with self._surviving(name), hold(self.folder / _TRACKED / "leases" / name, wait=True):
                send(tracker, name)

    @contextlib.contextmanager
    def _surviving(self, name: TrackerName, *, without: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Give a tracker up, with one warning, if the block fails; errors of ``without`` are raised."""
        try:
            yield
        except without:
            raise
        except Exception as error:
            self.trackers.pop(name, None)
            reason = clean(str(error), 300) or type(error).__name__
            self.warn(
                f"--track {name}: {reason}; nothing more is sent to it. The results are complete without it; "
                f"'attn-bench report {self.folder} --track {name}' sends what is missing"
            )

    def _cell(self, store: Store, tracker: Tracker, name: TrackerName, id: str) -> None:
        destination = sha256(tracker.where.encode()).hexdigest()[:8]
        path = self.folder / _TRACKED / f"{name}-{destination}" / f"{id}.json"
        before, stamp = _sent(path), store.stamp(id)
        if before is not None and before.stamp == stamp:
            return
        record = store.read(id)
        if record is None:
            return
        digest = _digest(record)
        again = before is not None and before.curves == digest
        attempt = 1 if before is None else before.attempt + (before.curves not in (None, digest))
        key = f"{self._token()}-{id}{f'-{attempt}' if attempt > 1 else ''}"
        tracker.cell(tracked_cell(record, store, key), curves=not again)
        write_json(path, as_json(Sent(stamp, digest, attempt)))

    def _token(self) -> str:
        """Return what tells the cells of this folder from those of any other; made when it is first needed."""
        path = self.folder / _TRACKED / "folder.json"
        with hold(path.parent / "leases" / "token", wait=True):
            try:
                token = read_json(path, _LARGEST_BYTES)["token"]
                if isinstance(token, str) and token.isalnum() and len(token) <= 32:
                    return token
            except (OSError, ValueError, LookupError, TypeError):
                pass
            token = urandom(5).hex()
            write_json(path, {"token": token})
            return token


def _found(name: TrackerName, folder: Path) -> Tracker:
    """Return the adapter to a tracker; raises UserError if its package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name} needs {name}; install it with: pip install 'attn-bench[{name}]'")
    module = importlib.import_module(f"attn_bench.running.trackers.to_{name}")
    tracker: Tracker = getattr(module, _ADAPTERS[name])(folder)
    return tracker


def _sent(path: Path) -> Sent | None:
    """Return what a file says was sent; None if it says nothing that can be used, and all is sent again."""
    try:
        return validated(Sent, plain(read_json(path, _LARGEST_BYTES)))
    except (OSError, ValueError, AttributeError):
        return None


def _digest(record: Record) -> str | None:
    found = {name: as_json(series) for name, series in curves(record).items()}
    return sha256(repr(sorted(found.items())).encode()).hexdigest()[:16] if found else None
