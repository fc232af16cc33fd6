"""The commits of a repository, in git's order: times of measuring say nothing about what came first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from attn_bench.errors import UserError
from attn_bench.format import clean, count
from attn_bench.gate.ab.checkouts import Repository
from attn_bench.results.environment import Git

SHORT = 10
NAMED = 5


@dataclass(frozen=True)
class Commit:
    """A commit: its hash, its date, and the first line of its message."""

    hash: str
    date: str
    subject: str

    @property
    def short(self) -> str:
        """The beginning of the hash."""
        return self.hash[:SHORT]


class Commits:
    """The commits that lead to a revision.

    Attributes:
        all: from the oldest on.

    Raises:
        UserError: no repository, or no such revision.
    """

    def __init__(self, folder: Path, revision: str = "HEAD") -> None:
        self.repository = Repository(folder)
        tip = self.repository.commit(revision)
        lines = self.repository.lines("log", "--topo-order", "--reverse", "--format=%H%x00%cs%x00%s", tip)
        self.all = [Commit(*(clean(part, 200) for part in line.split("\0", 2))) for line in lines]
        self._places = {commit.hash: i for i, commit in enumerate(self.all)}

    def ordered(self, revisions: Collection[str]) -> list[Commit]:
        """Return those of ``revisions`` that are known, in git's order."""
        return [self.all[i] for i in sorted(self._places[name] for name in revisions if name in self._places)]

    def unknown(self, revisions: Collection[str]) -> str:
        """Return a line on the revisions that are not among these commits; empty if all are."""
        missing = sorted({name[:SHORT] for name in revisions if name not in self._places})
        if not missing:
            return ""
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        shallow = self.repository.lines("rev-parse", "--is-shallow-repository") == ["true"]
        why = (
            "this clone is shallow, 'git fetch --unshallow' gets the whole history"
            if shallow
            else "they are of another branch, or the branch was rewritten"
        )
        return f"left out: {count(len(missing), 'revision')} not in the history of this branch ({named}); {why}"

    def between(self, before: str, after: str) -> list[Commit]:
        """Return the commits that ``after`` has and ``before`` does not."""
        names = self.repository.lines("rev-list", "--topo-order", "--reverse", f"{before}..{after}")
        return self.ordered(names)


def measured(folder: Path, revision: str | None, recorded: Collection[Git], *, dirty: bool) -> tuple[str, bool]:
    """Return the commit that results are of, and whether the work tree had uncommitted changes.

    Args:
        folder: in the repository.
        revision: that the user names; None for what is checked out.
        recorded: the checkouts of attn-bench that the results name: if this repository is one, they must agree.
        dirty: accept uncommitted changes.

    Raises:
        UserError: there is no such revision, the results are of another one, or there are uncommitted changes.
    """
    repository = Repository(folder)
    commit = repository.commit(revision or "HEAD")
    own = {git for git in recorded if git.revision and repository.has(git.revision)}
    if others := sorted({str(git.revision)[:SHORT] for git in own if git.revision != commit}):
        raise UserError(
            f"the results were measured at {', '.join(others)}, not at {commit[:SHORT]}; name it with --revision"
        )
    changed = any(git.dirty for git in own) or (
        revision is None and not own and bool(repository.lines("status", "--porcelain", "--untracked-files=no"))
    )
    if changed and not dirty:
        raise UserError(
            f"the work tree had uncommitted changes, so the results are not those of {commit[:SHORT]}; commit and "
            "measure again, or mark them with --dirty"
        )
    return commit, changed
