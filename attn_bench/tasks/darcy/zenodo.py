"""neuraloperator's files on Zenodo: one archive per resolution, one file per split."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from attn_bench.files import write_json
from attn_bench.plugin import DataError, OptionError, PrepareContext, PreparedData, PreparedFile
from attn_bench.tasks.darcy.pairs import PairFile
from attn_bench.tasks.darcy.source import Fields, Loaded, Source
from attn_bench.tasks.darcy.task_options import N_TEST, N_TRAIN
from attn_bench.tasks.shared.cache import cache_folder, exclusive, sha256_of, temporary
from attn_bench.tasks.shared.fetch import TIMEOUT_S, fetch

RECORD = "12784353"
RESOLUTIONS = (16, 32, 64, 128, 421)
SPLITS = ("train", "test")
INSTEAD = (
    f"Without a network: give a copy of a file of https://zenodo.org/records/{RECORD} with --data, "
    "or use darcy.source=generate for samples of the same distribution"
)


class Zenodo(Source):
    """Downloads files that are not in the cache."""

    def resolved(self, resolutions: Sequence[int]) -> dict[str, Any]:
        """Check that the resolutions are published."""
        for resolution in resolutions:
            if resolution not in RESOLUTIONS:
                raise OptionError(
                    f"darcy.source=zenodo has resolutions {', '.join(map(str, RESOLUTIONS))} (given: {resolution})"
                )
        return {}

    def grid(self, resolution: int) -> tuple[int, int]:
        """Return the square grid."""
        self.resolved((resolution,))
        return resolution, resolution

    def prepare(self, resolutions: Sequence[int], context: PrepareContext) -> PreparedData:
        """Download missing archives one by one; progress counts bytes of one archive."""
        files, read = list[PreparedFile](), list[str]()
        for resolution in resolutions:
            manifest = None if context.refresh else self._manifest(resolution)
            state: Literal["made", "cached"] = "made" if manifest is None else "cached"
            if manifest is None:
                manifest = self._download(resolution, context)
            for split in SPLITS:
                path, digest = self._folder() / _name(split, resolution), manifest["sha256"][split]
                files.append(PreparedFile(path, split, state, resolution=resolution, sha256=digest))
            read.append(self.load(resolution).identity["read"])
        return PreparedData(tuple(read), files=tuple(files))

    def load(self, resolution: int) -> Loaded:
        """Return the data, from the cache if they are there."""
        self.resolved((resolution,))
        manifest = self._manifest(resolution)
        if manifest is None:
            manifest = self._download(resolution, PrepareContext())
        splits = {}
        counts = {"train": (self.options.n_train, N_TRAIN), "test": (self.options.n_test, N_TEST)}
        for split in SPLITS:
            fields = PairFile(self._folder() / _name(split, resolution), "x", "y", "nhw").read()
            asked, usual = counts[split]
            there = len(fields.inputs)
            if asked is not None and asked > there:
                raise OptionError(f"darcy.n_{split}={asked}: the published set has only {there}")
            count = min(asked or usual, there)
            splits[split] = Fields(fields.inputs[:count], fields.targets[:count])
        identity: dict[str, Any] = {
            "source": "zenodo",
            "record": RECORD,
            "recipe": self.options.recipe,
            "resolution": resolution,
            "n_train": len(splits["train"].inputs),
            "n_test": len(splits["test"].inputs),
            "sha256": manifest["sha256"],
        }
        train, test = identity["n_train"], identity["n_test"]
        identity["read"] = (
            f"{train + test} samples of {resolution} x {resolution} from Zenodo record {RECORD}: "
            f"{train} train, {test} test"
        )
        return Loaded(splits["train"], splits["test"], identity)

    def _folder(self) -> Path:
        return cache_folder("darcy") / f"zenodo-{RECORD}"

    def _manifest(self, resolution: int) -> dict[str, Any] | None:
        """Return the manifest if there is one; raises DataError if files do not match it."""
        path = self._folder() / f"darcy_{resolution}.json"
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            intact = all(sha256_of(self._folder() / _name(s, resolution)) == manifest["sha256"][s] for s in SPLITS)
        except (OSError, ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            raise DataError(
                f"the downloaded data are damaged: {self._folder()} does not match {path.name}; download them "
                f"again with 'attn-bench data darcy --refresh' and the same options, or delete {path}"
            )
        return dict(manifest)

    def _download(self, resolution: int, context: PrepareContext) -> dict[str, Any]:
        folder = self._folder()
        archive = folder / f"darcy_{resolution}.tgz"
        with exclusive(folder):
            # Another process may have downloaded them meanwhile.
            if not context.refresh and (there := self._manifest(resolution)) is not None:
                return there
            origin = _published(archive.name)
            fetch(origin["url"], archive, origin["checksum"].removeprefix("md5:"), context.on_progress, INSTEAD)
            checksums = {}
            try:
                for split in SPLITS:
                    with temporary(folder, _name(split, resolution)) as extracted:
                        _extract(archive, _name(split, resolution), extracted)
                        checksums[split] = sha256_of(extracted)
                        os.replace(extracted, folder / _name(split, resolution))
            finally:
                archive.unlink(missing_ok=True)
            manifest = {"archive": origin, "sha256": checksums}
            write_json(folder / f"darcy_{resolution}.json", manifest)
        return manifest


def _published(name: str) -> dict[str, Any]:
    """Return address, size and checksum of a file as Zenodo, or a mirror ($ATTN_BENCH_ZENODO), publishes them.

    Raises:
        DataError: no network, or no such file.
    """
    api = os.environ.get("ATTN_BENCH_ZENODO", "https://zenodo.org/api").rstrip("/")
    address = f"{api}/records/{RECORD}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:
            files = {entry["key"]: entry for entry in json.load(response)["files"]}
        if name not in files:
            raise DataError(f"{address} has no file {name}; it has {', '.join(sorted(files))}. {INSTEAD}")
        entry = files[name]
        return {"url": entry["links"]["self"], "bytes": int(entry["size"]), "checksum": str(entry["checksum"])}
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot reach {address} ({error}). {INSTEAD}") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"unexpected response from {address}. {INSTEAD}") from None


def _name(split: str, resolution: int) -> str:
    return f"darcy_{split}_{resolution}.pt"


def _extract(archive: Path, name: str, target: Path) -> None:
    """Write the member whose last path component is ``name``, whatever its path, to ``target``."""
    try:
        with tarfile.open(archive) as opened:
            member = next((m for m in opened.getmembers() if m.isfile() and Path(m.name).name == name), None)
            source = opened.extractfile(member) if member else None
            if source is None:
                raise DataError(f"the archive of record {RECORD} does not contain {name}. {INSTEAD}")
            with source, target.open("xb") as file:
                shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the archive of record {RECORD} cannot be unpacked ({reason}). {INSTEAD}") from None
