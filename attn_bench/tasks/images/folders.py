"""Images in class folders, or named by a list; files that programs and systems leave there are ignored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attn_bench.plugin import DataError
from attn_bench.tasks.images.reading import EXTENSIONS, read_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

CLUTTER = frozenset(
    {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)


class Labelled:
    """Images and their classes, numbers from 0.

    Attributes:
        classes: number of classes in the files.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], classes: int | None = None) -> None:
        self.paths, self.labels = paths, labels
        self.classes = len(set(labels)) if classes is None else classes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read_rgb(self.paths[index]), self.labels[index]


def is_clutter(name: str) -> bool:
    """Tell whether a file or folder is hidden, or was created by a system rather than a person."""
    return name.startswith(".") or name.lower() in CLUTTER


def find(folder: Path, relative: str) -> Path | None:
    """Return a file or folder below ``folder``, ignoring upper and lower case, or None.

    Raises:
        DataError: a folder cannot be read.
    """
    found = folder
    for name in relative.split("/"):
        if not os.path.exists(found / name):
            alike = [entry.name for entry in _entries(found) if entry.name.lower() == name.lower()]
            if len(alike) != 1:
                return None
            name = alike[0]
        found /= name
    return found


def part_of(folder: Path, relative: str) -> Path:
    """Return the cached result of :func:`find`."""
    return find(folder, relative) or folder / relative


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders of classes, in order; raises DataError if ``folder`` cannot be read."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry) and not is_clutter(entry.name))


def images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and those below it, in the order of torchvision's ``ImageFolder``.

    Links are followed, but not in circles.

    Raises:
        DataError: a folder cannot be read.
    """
    return [path for _, paths in sorted(_walked(str(folder), ())) for path in paths]


def classified(
    folder: Path, most: int, names: Sequence[str] | None = None, besides: str | None = None
) -> tuple[Labelled, list[str]]:
    """Return the images of a folder of class folders, and the classes' names.

    Args:
        most: maximum number of classes.
        names: all classes, in order; None means those found.
        besides: a folder that is not a class.

    Raises:
        ValueError: there is no class, one without images, one that is not in ``names``, or too many.
        DataError: a folder cannot be read.
    """
    there = [name for name in class_folders(folder) if name != besides]
    numbers = {name: number for number, name in enumerate(there if names is None else names)}
    if not there:
        raise ValueError(f"{folder} contains no class folders")
    if len(there) > most:
        raise ValueError(f"{folder} has folders of {len(there)} classes; there are {most}")
    if unknown := [name for name in there if name not in numbers]:
        raise ValueError(f"{folder} has folders that are not classes of the training images: {some(unknown)}")
    found = {name: images_below(folder / name) for name in there}
    if empty := [name for name, paths in found.items() if not paths]:
        raise ValueError(f"these class folders in {folder} have no images: {some(empty)}")
    paths = [path for paths in found.values() for path in paths]
    return Labelled(paths, [numbers[name] for name in there for _ in found[name]], len(there)), there


def listed(
    folder: Path, rows: Iterable[tuple[str, int]], source: str, classes: int, present: int | None = None
) -> Labelled:
    """Return the images of a list of file names below ``folder`` and their classes.

    Upper and lower case are ignored; missing files are left to the check of the files.

    Args:
        source: the list's name, for messages.
        classes: the labels are below this number.
        present: number of classes in the files of the set; None means those listed.

    Raises:
        ValueError: a label is out of range, an image is listed twice, or no image is listed.
    """
    rows, seen = list(rows), set()
    for name, label in rows:
        if not 0 <= label < classes:
            raise ValueError(f"{source} gives {name} class {label + 1}; there are {classes}")
        if name in seen:
            raise ValueError(f"{source} lists {name} twice")
        seen.add(name)
    if not rows:
        raise ValueError(f"{source} lists no images")
    alike: dict[Path, dict[str, str]] = {}

    def resolved(name: str) -> Path:
        path = folder / name
        if os.path.exists(path):
            return path
        if path.parent not in alike:
            alike[path.parent] = {entry.name.lower(): entry.name for entry in _entries(path.parent)}
        return path.with_name(alike[path.parent].get(path.name.lower(), path.name))

    return Labelled([resolved(name) for name, _ in rows], [label for _, label in rows], present)


def apart(train: Labelled, test: Labelled) -> tuple[Labelled, Labelled]:
    """Return both; raises ValueError if they have images in common."""
    seen = set(train.paths)
    if shared := [path.name for path in test.paths if path in seen]:
        raise ValueError(f"these images are listed for both training and testing: {some(shared)}")
    return train, test


@contextlib.contextmanager
def named(path: Path) -> Iterator[Path]:
    """Turn any exception of a reader into a ValueError that names ``path``."""
    try:
        yield path
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__}: {error})") from None


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _walked(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[Path]]]:
    found = os.stat(folder)
    here = found.st_dev, found.st_ino
    if here in above:
        return
    entries = [entry for entry in _entries(Path(folder)) if not is_clutter(entry.name)]
    folders = [entry.path for entry in entries if _is_folder(entry)]
    files = {entry.path for entry in entries}.difference(folders)
    yield folder, [Path(path) for path in sorted(files) if path.lower().endswith(EXTENSIONS)]
    for path in folders:
        yield from _walked(path, (*above, here))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"cannot read the folder {folder} ({error.strerror})") from None
