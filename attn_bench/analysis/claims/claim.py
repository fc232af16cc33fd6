"""Published claims: what papers say about models, read from a data file that says how sure the reading is."""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attn_bench.errors import UserError, unknown
from attn_bench.format import clean
from attn_bench.plugin import Complexity
from attn_bench.results.quantities import drawn

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SHIPPED = Path(__file__).parent / "claims.yaml"
TOLERANCE = 0.1
ANY = "*"
Relation = Literal["equals", "times", "at most times", "better than", "more by", "improves with", "grows as"]
# Between two models.
RATIOS = ("times", "at most times", "better than", "more by")
# What a claim names and several have: the key, and what the file lists under its plural.
SHARED = {"protocol": "lists of settings", "campaign": "commands"}
_NEEDED: Mapping[Relation, tuple[str, ...]] = {
    "equals": ("value", "task"),
    "times": ("value", "than"),
    "at most times": ("value", "than"),
    "better than": ("than",),
    "more by": ("value", "than"),
    "improves with": ("option",),
    "grows as": ("growth",),
}
# An upper bound on published numbers, and how many characters of a name are shown.
LARGEST, SHOWN = 1e100, 80


@dataclass(frozen=True)
class Campaign:
    """What decides claims.

    Attributes:
        run: the command; ``{models}``, ``{task}`` and ``{resolution}`` are those of the claim.
        needs: what not every machine has, such as a network.
        hours: that it takes on two cores; None where nothing is known.
    """

    run: str
    needs: str = ""
    hours: float | None = None


@dataclass(frozen=True)
class Claim:
    """What a paper says about a model; ``claims.yaml`` explains the fields.

    Attributes:
        options, than_options: values of options that the model, and the one it is compared with, must have.
        option: of the model, whose growing values ``improves with`` is about.
        contested: what others measured, with the source.
        protocol: alternative sets of settings; results must match one to be comparable. Keys are paths into a record
            (``data.recipe``, ``options.pretrained``). ``note`` is a remark on results that match.
        campaign: that decides it; ``hours`` are those of this claim's part of it.
    """

    id: str
    says: str
    certainty: Literal["table", "paper", "abstract", "cited"]
    model: str
    metric: str
    relation: Relation
    paper: str = ""
    than: str | None = None
    task: str | None = None
    resolution: int | None = None
    value: float | None = None
    growth: Complexity | None = None
    option: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    than_options: Mapping[str, Any] = field(default_factory=dict)
    contested: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    epochs: float | None = None
    protocol: tuple[Mapping[str, Any], ...] = ()
    campaign: Campaign | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        for name in _NEEDED[self.relation]:
            if getattr(self, name) is None:
                raise ValueError(f"relation '{self.relation}' needs {name}")
        costs = drawn()
        if self.relation == "grows as" and self.metric not in costs:
            close = difflib.get_close_matches(self.metric, costs, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(costs)}"
            raise ValueError(f"metric {clean(self.metric, SHOWN)!r} is not a cost; {hint}")
        if self.relation in ("equals", "improves with") and self.metric in costs:
            raise ValueError(
                f"relation '{self.relation}' is for a metric of a task, such as rel_l2; {self.metric} is a cost, "
                "about which a claim can state its growth (grows as) or its ratio to that of another model (times)"
            )
        for name in ("value", "epochs", "hours"):
            value = getattr(self, name)
            if value is not None and not 0 < value < LARGEST:
                raise ValueError(f"{name} must be a positive, finite number (given: {value:g})")
        if not 0 <= self.tolerance < LARGEST:
            raise ValueError(f"tolerance must be a finite number >= 0 (given: {self.tolerance:g})")
        if self.resolution is not None and not 0 < self.resolution < LARGEST:
            raise ValueError("resolution must be a positive number of points")


def read_claims(path: Path = SHIPPED) -> list[Claim]:
    """Read a file of claims, by default the one that ships; raises UserError naming what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the claims file {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply") from None
    # Of a ValueError are numbers and dates that YAML takes and Python does not.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {clean(str(error))}") from None
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list) or not content["claims"]:
        raise UserError(f"{path} contains no claims; see {SHIPPED} for the form")
    known = {key: _named(path, content, f"{key}s", what) for key, what in SHARED.items()}
    claims = [_claim(path, number, given, known) for number, given in enumerate(content["claims"], 1)]
    ids = Counter(claim.id for claim in claims)
    if twice := [id for id, times in ids.items() if times > 1]:
        raise UserError(f"{path}: claim {clean(twice[0], SHOWN)} is listed twice")
    return claims


def _named(path: Path, content: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    """Return what claims refer to by its name; raises UserError."""
    given = content.get(key) or {}
    if not isinstance(given, dict):
        raise UserError(f"{path}: {key} is not a mapping of names to {what}; see {SHIPPED} for the form")
    return {name: each for name, each in given.items() if isinstance(name, str)}


def _claim(path: Path, number: int, given: Any, named: Mapping[str, Mapping[str, Any]]) -> Claim:
    """Return the claim that an entry of a file holds; raises UserError naming it."""
    from pydantic import ValidationError

    id = given.get("id") if isinstance(given, dict) else None
    name = clean(id, SHOWN) if isinstance(id, str) and id.strip() else f"number {number}"
    if not isinstance(given, dict):
        raise UserError(f"{path}: claim {name} is not a mapping")
    for key in given:
        if key not in Claim.__dataclass_fields__:
            raise unknown(f"key of claim {name} in {path}:", _short(key), Claim.__dataclass_fields__)
    for key, known in named.items():
        if (one := given.get(key)) is not None:
            if not isinstance(one, str) or one not in known:
                raise unknown(f"{key} of claim {name} in {path}:", _short(one), known)
            given = given | {key: known[one]}
    for key, value in given.items():
        # YAML reads yes and no as truth values, which would be taken for numbers.
        if isinstance(value, bool):
            raise UserError(f"{path}: claim {name}: {key}: {str(value).lower()} is not a valid value")
    try:
        return _adapter().validate_python(given)
    except (ValidationError, OverflowError, RecursionError) as error:
        what = error.errors(include_input=False)[0] if isinstance(error, ValidationError) else {"msg": "too large"}
        where = ".".join(str(part) for part in what.get("loc", ()))
        said = clean(str(what["msg"]).removeprefix("Value error, "))
        raise UserError(f"{path}: claim {name}: {where}{': ' if where else ''}{said}") from None


@functools.cache
def _adapter() -> TypeAdapter[Claim]:
    from pydantic import TypeAdapter

    return TypeAdapter(Claim)


def _short(value: Any) -> str:
    """Return a name as text; of what is none, its type, for its text may be of any length."""
    return clean(value, SHOWN) if isinstance(value, str) else type(value).__name__
