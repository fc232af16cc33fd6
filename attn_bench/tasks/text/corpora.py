"""Corpora as bytes, with a training and a test part: Python's standard library, enwik8 and WikiText-103."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.plugin import DataError
from attn_bench.tasks.shared.cache import cache_folder, exclusive, users_folder
from attn_bench.tasks.shared.fetch import check_root, fetch, unzip

if TYPE_CHECKING:
    import numpy as np

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

CorpusName = Literal["stdlib", "enwik8", "wikitext-103"]

# Not sources of the library: installed packages, tests, character tables, help texts.
SKIPPED = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "idlelib", "lib2to3", "encodings"}
    | {"pydoc_data"}
)
# Files whose name has a hash with a first byte below this, a tenth, are for testing.
TEST_SHARE = 26
# The first bytes of zip and gzip files.
ARCHIVED = (b"PK\3\4", b"\x1f\x8b\x08")
ENWIK8_BYTES = 100_000_000
ENWIK8_TRAIN, ENWIK8_TEST = 90_000_000, 5_000_000


@dataclass(frozen=True)
class Corpus:
    """Training and test bytes, and their identity."""

    train: Bytes
    test: Bytes
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Archive:
    """Address of a published corpus, its SHA-256, and its required files, training part first."""

    url: str
    sha256: str
    files: tuple[str, ...]


ARCHIVES = {
    "enwik8": Archive(
        "http://mattmahoney.net/dc/enwik8.zip",
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        ("enwik8",),
    ),
    "wikitext-103": Archive(
        "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
        "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
        ("wikitext-103-raw/wiki.train.raw", "wikitext-103-raw/wiki.test.raw"),
    ),
}


def read_corpus(task: str, name: CorpusName, root: str | None) -> Corpus:
    """Return a corpus; files of published corpora are memory-mapped.

    Args:
        task: the task's name, for messages.
        name: which corpus.
        root: the user's folder with the published files; if unset, a folder in the cache.

    Raises:
        DataError: files are missing or differ from the published ones.
    """
    if name == "stdlib":
        return standard_library(folder_of(name, root))
    folder, archive = folder_of(name, root), ARCHIVES[name]
    if folder.is_file():
        raise DataError(f"{folder} is a file; set {task}.root to its folder")
    paths = {file: _found(folder, file) for file in archive.files}
    if missing := [file for file, path in paths.items() if not path.is_file()]:
        what = "a folder in its place" if paths[missing[0]].is_dir() else "missing"
        raise DataError(f"{folder} does not contain {missing[0]} ({what}). {instead(task, name)}")
    parts = [_mapped(path) for path in paths.values()]
    if name == "enwik8":
        if len(parts[0]) != ENWIK8_BYTES:
            raise DataError(f"{paths['enwik8']} has {len(parts[0])} bytes; enwik8 has {ENWIK8_BYTES}")
        parts = [parts[0][:ENWIK8_TRAIN], parts[0][-ENWIK8_TEST:]]
    return Corpus(parts[0], parts[1], {"corpus": name})


def download_corpus(
    task: str, name: CorpusName, root: str | None, on_bytes: Callable[[int, int], object], refresh: bool
) -> None:
    """Fetch and unpack a published corpus into the cache unless its files exist or ``root`` is given.

    Raises:
        OptionError: ``refresh`` with a folder of the user.
        DataError: no network, or the content differs from the published one.
    """
    check_root(task, root, refresh=refresh)
    if name == "stdlib" or root is not None:
        return
    folder, archive = folder_of(name, root), ARCHIVES[name]

    def is_there() -> bool:
        return all((folder / file).is_file() for file in archive.files)

    if refresh or not is_there():
        with exclusive(folder):
            if refresh or not is_there():
                path = folder / archive.url.rpartition("/")[2]
                fetch(archive.url, path, archive.sha256, on_bytes, instead(task, name))
                unzip(path, archive.files, folder)


def folder_of(name: CorpusName, root: str | None) -> Path:
    """Return the folder for the files of a corpus."""
    if name == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    return users_folder(root) if root is not None else cache_folder("text") / name


def instead(task: str, name: CorpusName) -> str:
    """Return what a user without a network can do."""
    files = " and ".join(ARCHIVES[name].files)
    return (
        f"Run 'attn-bench data {task} --set {task}.corpus={name}', or put {files} below a folder and name it with "
        f"--set {task}.root=FOLDER"
    )


def standard_library(folder: Path) -> Corpus:
    """Return the ``.py`` files of a Python installation, split and ordered by the hash of their relative paths.

    Every machine with the same Python thus has the same corpus, and a file is in the same part in every version.

    Raises:
        DataError: there are no sources.
    """
    import numpy as np

    parts: dict[str, list[bytes]] = {"train": [], "test": []}
    for digest, path in sorted((_digest(path.relative_to(folder)), path) for path in _sources(folder)):
        try:
            parts["test" if digest[0] < TEST_SHARE else "train"].append(path.read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror})") from None
    if not all(parts.values()):
        raise DataError(
            f"{folder} does not contain the source code of Python's standard library; choose another corpus"
        )
    train, test = (np.frombuffer(b"".join(files), np.uint8) for files in parts.values())
    identity = {
        "corpus": "stdlib",
        "python": platform.python_version(),
        "files": {part: len(files) for part, files in parts.items()},
        "sha256": sha256(train.tobytes() + test.tobytes()).hexdigest(),
    }
    return Corpus(train, test, identity)


def _sources(folder: Path) -> list[Path]:
    """Return the sources below ``folder`` except those in :data:`SKIPPED` and those that differ between machines."""
    return [
        path
        for path in folder.rglob("*.py")
        if not SKIPPED.intersection(path.relative_to(folder).parts[:-1])
        and not path.name.startswith(("_sysconfigdata", "sitecustomize", "usercustomize"))
        and path.is_file()
        and not any(part.startswith("config-") for part in path.relative_to(folder).parts)
    ]


def _digest(path: Path) -> bytes:
    return sha256(path.as_posix().encode()).digest()


def _found(folder: Path, file: str) -> Path:
    """Return the path of a corpus's file in ``folder``, which may itself be the unpacked folder of the archive."""
    inside = folder / Path(file).name
    return inside if not (folder / file).exists() and inside.exists() else folder / file


def _mapped(path: Path) -> Bytes:
    import numpy as np

    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
        content = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({getattr(error, 'strerror', None) or error})") from None
    if content[:4].tobytes().startswith(ARCHIVED):
        raise DataError(f"{path} is an archive; unpack it")
    return content
