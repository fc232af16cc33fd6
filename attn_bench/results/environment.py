"""Where something was measured: hardware, versions and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from json import JSONEncoder
from typing import Any

from attn_bench.results.validation import as_json, plain, validated

# Bound before any plugin is imported.
_canonical = JSONEncoder(sort_keys=True, default=str).encode


@dataclass(frozen=True)
class Cpu:
    """A processor, its cores, and the memory."""

    model: str
    cores: int | None
    usable_cores: int | None
    memory_gib: int
    threads: int | None = None
    governor: str | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVML reports it."""

    name: str
    memory_gib: int | None
    power_limit_w: float | None = None
    application_sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    persistence_mode: int | None = None


@dataclass(frozen=True)
class Gpus:
    """The GPUs; none if there is no driver."""

    driver: str | None = None
    devices: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class System:
    """The operating system."""

    machine: str
    system: str = ""
    release: str = ""


@dataclass(frozen=True)
class Python:
    """The interpreter."""

    version: str = ""
    implementation: str = ""


@dataclass(frozen=True)
class Git:
    """The checkout that attn-bench was imported from; without a revision if it is an installed copy."""

    revision: str | None = None
    dirty: bool = False


@dataclass(frozen=True)
class Environment:
    """Where something was measured.

    Attributes:
        device_name: the device that models ran on.
        versions: of packages, by name.
        torch: flags and versions; empty if torch was not loaded.
        variables: environment variables that change speed or memory.
    """

    device_name: str
    cpu: Cpu
    gpus: Gpus
    os: System
    versions: Mapping[str, str]
    python: Python = Python()
    torch: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    git: Git = Git()

    @property
    def id(self) -> str:
        """A short hash of everything, including software and flags."""
        return _hash(as_json(self))

    @property
    def hardware(self) -> str:
        """A short hash of the hardware; only measurements with equal hashes can be compared."""
        return _hash(
            {
                "cpu": {name: getattr(self.cpu, name) for name in ("model", "cores", "usable_cores", "memory_gib")},
                "gpus": [(gpu.name, gpu.memory_gib) for gpu in self.gpus.devices],
                "machine": self.os.machine,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dict(as_json(self))

    @classmethod
    def from_json(cls, values: Any) -> Environment:
        """Return the environment in untrusted ``values``; raises ValueError if they contain none."""
        return validated(cls, plain(values))


def _hash(values: Any) -> str:
    return sha256(_canonical(values).encode()).hexdigest()[:12]
