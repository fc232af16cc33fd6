"""How a cell can end."""

from __future__ import annotations

from typing import Literal

Status = Literal["ok", "oom", "timeout", "crashed", "diverged", "unsupported", "skipped"]
