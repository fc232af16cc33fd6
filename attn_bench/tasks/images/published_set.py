"""The base class of public sets of images: finds, downloads and checks their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from attn_bench.plugin import (
    DataError,
    Normalisation,
    OptionError,
    PrepareContext,
    PreparedData,
    PreparedFile,
    Problem,
    Task,
)
from attn_bench.tasks.images.file_checks import Item, check_files
from attn_bench.tasks.images.folders import find, part_of
from attn_bench.tasks.images.reading import fault
from attn_bench.tasks.shared.cache import cache_folder, exclusive, users_folder
from attn_bench.tasks.shared.fetch import check_root, fetch, md5_of, unpack

SMALLEST = 16
# The share kept by the center crop, as is usual for ImageNet.
CROP = 0.875
NORMALISED = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class PublishedSet(Task):
    """A public set of color images in its published layout below one folder.

    Attributes:
        classes: number of classes.
        folder: the folder of its files below ``root``.
        layout: the required files, for messages.
        parts: required files and folders below ``folder``.
        marks: further files that must exist for a user's folder to count as ``folder`` itself.
        address: address of its archives.
        archives: name and checksum of each; empty if nothing can be downloaded.
        archives_in: the folder to unpack them in.
        sizes: published sizes of the training and test split.
    """

    classes: ClassVar[int]
    folder: ClassVar[str]
    layout: ClassVar[str]
    parts: ClassVar[Sequence[str]]
    marks: ClassVar[Sequence[str]] = ()
    address: ClassVar[str] = ""
    archives: ClassVar[Sequence[tuple[str, str]]] = ()
    archives_in: ClassVar[str] = "."
    sizes: ClassVar[tuple[int, int]]

    @dataclass(frozen=True)
    class Options:
        """Options of every public set."""

        root: Annotated[
            str | None,
            Field(
                description="folder with the data set in its published layout (read only). If unset, a "
                "folder in the cache that the set is downloaded to"
            ),
        ] = None

    def problem(self, resolution: int, options: Any) -> Problem:
        """Return the problem from three channels to the classes of the set."""
        if resolution < SMALLEST:
            raise OptionError(f"{self.name} needs a resolution >= {SMALLEST} (given: {resolution})")
        return Problem(self.kind, 3, self.classes, (resolution, resolution), NORMALISED)

    def prepare(self, resolutions: tuple[int, ...], options: Any, context: PrepareContext) -> PreparedData:
        """Download and unpack the archives into the cache if files are missing and no root is given.

        Progress counts bytes of one archive. Warns if the set is incomplete.
        """
        given, refresh = options.root, context.refresh
        root = self._root(given)
        check_root(self.name, given, refresh=refresh)
        if given is None and (refresh or not self._is_there(root)):
            if not self.archives:
                raise DataError(f"{self.name} cannot be downloaded automatically. {self._instead()}")
            with exclusive(root):
                if refresh or not self._is_there(root):
                    self._download(root, context.on_progress)
        train, test, identity = self.opened(given, context.on_progress)
        folder = self._located(root, given)
        state: Literal["cached", "given"] = "cached" if given is None else "given"
        files = tuple(PreparedFile(folder, split, state, samples=identity[f"n_{split}"]) for split in ("train", "test"))
        read = (
            f"{len(train) + len(test)} images of {getattr(train, 'classes', self.classes)} classes from {folder}: "
            f"{len(train)} train, {len(test)} test"
        )
        partial = (
            f"{folder} contains only a part of {self.name}: {identity['n_train']} of {self.sizes[0]} training and "
            f"{identity['n_test']} of {self.sizes[1]} test images; its scores cannot be compared with published ones"
        )
        return PreparedData((read,), () if identity["complete"] else (partial,), files)

    def opened(
        self, root: str | None, on_progress: Callable[[int, int], object] = lambda done, total: None
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Return training and test set from :meth:`_open`, and their identity.

        A set with the published number of training images counts as complete. For any other the identity says that it
        is incomplete.

        Raises:
            DataError: the set is missing or not in its layout, some of its files cannot be read, or a complete set has
                the wrong number of test images or classes.
        """
        folder = self._located(self._root(root), root)
        try:
            self._check_sums(folder)
            train, test = self._open(folder)
            complete = len(train) == self.sizes[0]
            if complete:
                self._check(folder, train, test)
        except DataError:
            raise
        except Exception as error:
            # Broken files raise undocumented errors, from KeyError to RuntimeError.
            what = " ".join(f"{type(error).__name__}: {error}".removeprefix("ValueError: ").split())[:300]
            raise DataError(f"{folder} is not {self.name} as published ({what})") from None
        check_files(self.name, folder, [*self._files(train), *self._files(test)], self._fault, on_progress)
        identity = {"source": self.name, "n_train": len(train), "n_test": len(test), "complete": complete}
        return train, test, identity

    def _located(self, root: Path, given: str | None) -> Path:
        """Return the folder of the set: below ``root``, in a nested folder of its name as archives unpack, or ``root``.

        Raises:
            DataError: there is none, or it is incomplete.
        """
        lacking = {
            folder: [part for part in self.parts if find(folder, part) is None]
            for folder in (root / self.folder, root / self.folder / self.folder, root)
        }
        if [mark for mark in self.marks if find(root, mark) is None]:
            del lacking[root]
        folder, missing = min(lacking.items(), key=lambda pair: len(pair[1]))
        if len(missing) == len(self.parts):
            raise DataError(f"{root} does not contain {self.name}. {self._instead()}")
        if missing:
            there = [part for part in self.parts if part not in missing]
            remedy = f"fetch it again with 'attn-bench data {self.name} --refresh'" if given is None else "add it"
            raise DataError(
                f"{folder} contains only a part of {self.name}: {' and '.join(missing)} is missing "
                f"({', '.join(there)} exists); {remedy}"
            )
        return folder

    def _check_sums(self, folder: Path) -> None:
        """Check the checksums of files that are published without an archive."""
        for name, md5 in self.archives:
            path = part_of(folder, name)
            if path.suffix == ".mat" and (found := md5_of(path)) != md5:
                raise ValueError(f"{name} has md5 {found}, but {md5} is published")

    def _check(self, folder: Path, train: Any, test: Any) -> None:
        if len(test) != self.sizes[1]:
            raise ValueError(f"{len(test)} test images instead of {self.sizes[1]}")
        for split, dataset in (("training", train), ("test", test)):
            if (found := self._count_classes(folder, dataset)) != self.classes:
                raise ValueError(f"{found} classes of {split} images instead of {self.classes}")

    def _open(self, folder: Path) -> tuple[Any, Any]:
        """Return training and test set; for classification, of (PIL image, class)."""
        raise NotImplementedError

    def _files(self, split: Any) -> Sequence[Item]:
        """Return the files that each sample of a split reads."""
        return [(path,) for path in split.paths]

    def _fault(self, *files: Path, whole: bool) -> str | None:
        """Return what is wrong with the files of a sample, or None; with ``whole`` they are decoded completely."""
        return fault(*files, whole=whole)

    def _count_classes(self, folder: Path, split: Any) -> int:
        """Return the number of classes in the files of a complete set."""
        return int(split.classes)

    def _download(self, root: Path, on_progress: Callable[[int, int], object]) -> None:
        """Fetch all archives, unpack them elsewhere, and move the complete set into place."""
        import shutil

        aside = root / ".incoming"
        shutil.rmtree(aside, ignore_errors=True)
        archives = []
        for name, md5 in self.archives:
            archives.append(root / name)
            fetch(f"{self.address}/{name}", archives[-1], md5, on_progress, self._instead())
        (aside / self.archives_in).mkdir(parents=True)
        for archive in archives:
            if archive.suffix == ".mat":
                shutil.copy(archive, aside / self.archives_in)
            else:
                unpack(archive, aside / self.archives_in)
        shutil.rmtree(root / self.folder, ignore_errors=True)
        (aside / self.folder).replace(root / self.folder)
        # Other files in the archive are not needed.
        shutil.rmtree(aside)

    def _is_there(self, root: Path) -> bool:
        return (root / self.folder).is_dir()

    def _root(self, root: str | None) -> Path:
        return users_folder(root) if root is not None else cache_folder(self.name)

    def _instead(self) -> str:
        return f"Put {self.layout} below a folder and name it with --set {self.name}.root=FOLDER"
