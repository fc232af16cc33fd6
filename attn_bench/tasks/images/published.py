"""What public sets of images have in common: where their files come from, and whether all of them are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from attn_bench.plugin import DataError, OptionError, Problem, Task
from attn_bench.tasks.cache import cache_folder
from attn_bench.tasks.fetch import check_root, fetch, unpack

SMALLEST = 16
# Before an image is cut to its centre it is larger by this factor, as is usual for ImageNet.
CROP = 0.875
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PublishedSet(Task):
    """A public set of colour images in its published layout below one folder.

    Attributes:
        classes: number of classes.
        folder: the folder below ``root`` that its files are in.
        layout: what has to be there, for messages.
        address: where its archives are.
        archives: name and checksum of each; empty where nothing can be downloaded.
        archives_in: the folder that they are to be unpacked in.
        sizes: published sizes of training and test split.
    """

    classes: ClassVar[int]
    folder: ClassVar[str]
    layout: ClassVar[str]
    address: ClassVar[str] = ""
    archives: ClassVar[Sequence[tuple[str, str]]] = ()
    archives_in: ClassVar[str] = "."
    sizes: ClassVar[tuple[int, int]]

    def problem(self, resolution: int, **options: Any) -> Problem:
        """Return three channels to the classes of the set."""
        if resolution < SMALLEST:
            raise OptionError(f"{self.name} needs a resolution of at least {SMALLEST} (given: {resolution})")
        return Problem(self.kind, 3, self.classes, (resolution, resolution), (MEAN, DEVIATION))

    def prepare(
        self,
        resolutions: tuple[int, ...],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        refresh: bool = False,
        **options: Any,
    ) -> Sequence[Mapping[str, Any]]:
        """Download and unpack the archives into the cache, if the files are not there, unless a root is named.

        Progress counts bytes of one archive. Warns of a set that is there in part.
        """
        given = options.get("root")
        root = self._root(given)
        check_root(self.name, given, refresh=refresh)
        if given is None and (refresh or not self._is_there(root)):
            if not self.archives:
                raise DataError(f"{self.name} cannot be downloaded automatically. {self._instead()}")
            self._download(root, on_progress)
        *_, identity = self.opened(given)
        described = [
            {"split": split, "samples": identity[f"n_{split}"], "folder": str(root / self.folder)}
            for split in ("train", "test")
        ]
        if not identity["complete"]:
            described[0]["warning"] = (
                f"{root / self.folder} holds a part of {self.name}: {identity['n_train']} training and "
                f"{identity['n_test']} test images, where {self.sizes[0]} and {self.sizes[1]} are published; "
                "its scores cannot be compared with published ones"
            )
        return described

    def opened(self, root: str | None) -> tuple[Any, Any, dict[str, Any]]:
        """Return training and test set as :meth:`_open` has them, and what they are.

        A set with the published number of training images is taken to be the whole one. Of any other the identity
        says that it is not complete.

        Raises:
            DataError: the set is not there or not in its layout, or it is the whole one but for its test images or
                classes.
        """
        folder = self._root(root)
        if not self._is_there(folder):
            raise DataError(f"{folder} does not hold {self.name}. {self._instead()}")
        try:
            train, test = self._open(folder)
            complete = len(train) == self.sizes[0]
            if complete:
                self._check(folder, train, test)
        except Exception as error:
            # What torchvision's readers raise on broken files is not documented: from KeyError to RuntimeError.
            first = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            raise DataError(
                f"{folder / self.folder} is not {self.name} as published ({first}). {self._instead()}"
            ) from None
        identity = {"source": self.name, "n_train": len(train), "n_test": len(test), "complete": complete}
        return train, test, identity

    def _check(self, root: Path, train: Any, test: Any) -> None:
        if len(test) != self.sizes[1]:
            raise ValueError(f"{len(test)} test images, {self.sizes[1]} are published")
        for split, dataset in (("training", train), ("test", test)):
            if (found := self._count_classes(root, dataset)) != self.classes:
                raise ValueError(f"{found} classes of {split} images, {self.classes} are published")

    def _open(self, root: Path) -> tuple[Any, Any]:
        """Return training and test set; for classification those of (PIL image, class)."""
        raise NotImplementedError

    def _count_classes(self, root: Path, split: Any) -> int:
        """Return the number of classes that the files of a whole set have."""
        return len(split.classes)

    def _download(self, root: Path, on_progress: Callable[[int, int], None]) -> None:
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
        # What lies beside the folder in an archive is of no use.
        shutil.rmtree(aside)

    def _is_there(self, root: Path) -> bool:
        return (root / self.folder).is_dir()

    def _root(self, root: str | None) -> Path:
        return Path(root).expanduser() if root is not None else cache_folder(self.name)

    def _instead(self) -> str:
        return f"Put {self.layout} below a folder and name it with --set {self.name}.root=FOLDER"
