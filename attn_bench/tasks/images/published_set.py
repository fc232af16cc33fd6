"""What public sets of images have in common: where their files come from, and whether all of them are there."""

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
from attn_bench.tasks.shared.cache import alone, cache_folder, users_folder
from attn_bench.tasks.shared.fetch import check_root, fetch, md5_of, unpack

SMALLEST = 16
# Before an image is cut to its center it is larger by this factor, as is usual for ImageNet.
CROP = 0.875
NORMALISED = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class PublishedSet(Task):
    """A public set of color images in its published layout below one folder.

    Attributes:
        classes: number of classes.
        folder: the folder below ``root`` that its files are in.
        layout: what has to be there, for messages.
        parts: files and folders of it that are always needed, below ``folder``.
        marks: others, without which a folder that the user names is not taken for ``folder`` itself.
        address: where its archives are.
        archives: name and checksum of each; empty where nothing can be downloaded.
        archives_in: the folder that they are to be unpacked in.
        sizes: published sizes of training and test split.
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
        """Return three channels to the classes of the set."""
        if resolution < SMALLEST:
            raise OptionError(f"{self.name} needs a resolution >= {SMALLEST} (given: {resolution})")
        return Problem(self.kind, 3, self.classes, (resolution, resolution), NORMALISED)

    def prepare(self, resolutions: tuple[int, ...], options: Any, context: PrepareContext) -> PreparedData:
        """Download and unpack the archives into the cache, if the files are not there, unless a root is named.

        Progress counts bytes of one archive. Warns of a set that is there in part.
        """
        given, refresh = options.root, context.refresh
        root = self._root(given)
        check_root(self.name, given, refresh=refresh)
        if given is None and (refresh or not self._is_there(root)):
            if not self.archives:
                raise DataError(f"{self.name} cannot be downloaded automatically. {self._instead()}")
            with alone(root):
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
            f"{folder} holds a part of {self.name}: {identity['n_train']} training and {identity['n_test']} test "
            f"images, where {self.sizes[0]} and {self.sizes[1]} are published; its scores cannot be compared with "
            "published ones"
        )
        return PreparedData((read,), () if identity["complete"] else (partial,), files)

    def opened(
        self, root: str | None, on_progress: Callable[[int, int], object] = lambda done, total: None
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Return training and test set as :meth:`_open` has them, and what they are.

        A set with the published number of training images is taken to be the whole one. Of any other the identity
        says that it is not complete.

        Raises:
            DataError: the set is not there or not in its layout, some of its files cannot be read, or it is the whole
                one but for its test images or classes.
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
            # What the readers of broken files raise is not documented: from KeyError to RuntimeError.
            what = " ".join(f"{type(error).__name__}: {error}".removeprefix("ValueError: ").split())[:300]
            raise DataError(f"{folder} is not {self.name} as published ({what})") from None
        check_files(self.name, folder, [*self._files(train), *self._files(test)], self._fault, on_progress)
        identity = {"source": self.name, "n_train": len(train), "n_test": len(test), "complete": complete}
        return train, test, identity

    def _located(self, root: Path, given: str | None) -> Path:
        """Return the folder of the set: below ``root``, in another of its name as archives unpack, or ``root`` itself.

        Raises:
            DataError: none of them is, or not all of it is there.
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
            remedy = f"fetch it again with 'attn-bench data {self.name} --refresh'" if given is None else "put it there"
            raise DataError(
                f"{folder} holds a part of {self.name}: {' and '.join(missing)} is missing ({', '.join(there)} is "
                f"there); {remedy}"
            )
        return folder

    def _check_sums(self, folder: Path) -> None:
        """Compare files that are published as they are, not in an archive, with their checksums."""
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
        """Return training and test set; for classification those of (PIL image, class)."""
        raise NotImplementedError

    def _files(self, split: Any) -> Sequence[Item]:
        """Return the files that are read when a sample of a split is, for each."""
        return [(path,) for path in split.paths]

    def _fault(self, *files: Path, whole: bool) -> str | None:
        """Return what is wrong with the files of a sample, or None; with ``whole`` all of them is looked at."""
        return fault(*files, whole=whole)

    def _count_classes(self, folder: Path, split: Any) -> int:
        """Return the number of classes that the files of a whole set have."""
        return int(split.classes)

    def _download(self, root: Path, on_progress: Callable[[int, int], object]) -> None:
        """Fetch all archives, unpack them aside, and move the whole into place when it is complete."""
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
        # Whatever else the archive has is not needed.
        shutil.rmtree(aside)

    def _is_there(self, root: Path) -> bool:
        return (root / self.folder).is_dir()

    def _root(self, root: str | None) -> Path:
        return users_folder(root) if root is not None else cache_folder(self.name)

    def _instead(self) -> str:
        return f"Put {self.layout} below a folder and name it with --set {self.name}.root=FOLDER"
