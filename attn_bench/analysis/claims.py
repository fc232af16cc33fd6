"""Published claims: what papers say about models, read from a data file that says how sure the reading is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attn_bench.analysis.scaling import COSTS
from attn_bench.errors import UserError, unknown
from attn_bench.plugin import Complexity

SHIPPED = Path(__file__).parent / "claims.yaml"
TOLERANCE = 0.1
ANY = "*"


@dataclass(frozen=True)
class Claim:
    """What a paper says about a model; ``claims.yaml`` explains the fields.

    Attributes:
        protocol: sets of settings, one of which results must have to be comparable; paths into a record
            (``data.recipe``, ``options.pretrained``) and their values.
    """

    id: str
    says: str
    certainty: Literal["table", "paper", "abstract", "cited"]
    model: str
    metric: str
    relation: Literal["equals", "at most times", "grows as"]
    paper: str = ""
    than: str | None = None
    task: str | None = None
    resolution: int | None = None
    value: float | None = None
    growth: Complexity | None = None
    tolerance: float = TOLERANCE
    epochs: float | None = None
    protocol: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        needed: dict[str, tuple[str, ...]] = {
            "equals": ("value", "task"),
            "at most times": ("value", "task", "than"),
            "grows as": ("growth",),
        }
        for name in needed[self.relation]:
            if getattr(self, name) is None:
                raise ValueError(f"claim {self.id}: relation '{self.relation}' needs {name}")
        if self.relation == "grows as" and self.metric not in COSTS:
            raise ValueError(f"claim {self.id}: metric {self.metric!r} is no cost; there are {', '.join(COSTS)}")
        if self.value is not None and not self.value > 0:
            raise ValueError(f"claim {self.id}: value must be positive (given: {self.value})")
        if not self.tolerance >= 0:
            raise ValueError(f"claim {self.id}: tolerance must not be negative (given: {self.tolerance})")


def read_claims(path: Path = SHIPPED) -> list[Claim]:
    """Read a file of claims, by default the one that ships; raises UserError naming what is wrong with it."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the claims file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list):
        raise UserError(f"{path} holds no claims; see {SHIPPED} for the form")
    protocols = content.get("protocols") or {}
    if not isinstance(protocols, dict):
        raise UserError(f"{path}: protocols is no mapping of names to lists of settings; see {SHIPPED} for the form")
    claims = []
    for number, given in enumerate(content["claims"], 1):
        name = given.get("id", f"number {number}") if isinstance(given, dict) else f"number {number}"
        if not isinstance(given, dict):
            raise UserError(f"{path}: claim {name} is no mapping")
        if (protocol := given.get("protocol")) is not None:
            if not isinstance(protocol, str) or protocol not in protocols:
                raise unknown(f"protocol of claim {name} in {path}:", str(protocol), protocols)
            given = given | {"protocol": protocols[protocol]}
        for key in given:
            if key not in Claim.__dataclass_fields__:
                raise unknown(f"key of claim {name} in {path}:", str(key), Claim.__dataclass_fields__)
        try:
            claims.append(TypeAdapter(Claim).validate_python(given))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path}: claim {name}: {where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
            ) from None
    ids = [claim.id for claim in claims]
    if twice := [id for id in ids if ids.count(id) > 1]:
        raise UserError(f"{path}: claim {twice[0]} stands there twice")
    return claims
