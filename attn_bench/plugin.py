"""The contract between the harness and its plugins; the only module of attn-bench that a plugin has to import.

A plugin is a subclass of :class:`Mixer` (one attention module), :class:`Model` (a whole network) or :class:`Task`,
named by an entry point of the group ``attn_bench.models`` or ``attn_bench.tasks``. Nothing here imports torch, and a
plugin's module should not either: listing plugins imports them, so heavy imports belong inside :meth:`Mixer.mixer`,
:meth:`Model.build` and :meth:`Task.splits`.
"""

from attn_bench.contract.base import Plugin
from attn_bench.contract.mixer import Mixer, Tokens
from attn_bench.contract.model import Complexity, Model
from attn_bench.contract.problem import KINDS, Kind, KindSpec, Normalisation, Problem
from attn_bench.contract.splits import Splits, held_out_count
from attn_bench.contract.task import (
    Direction,
    Metric,
    PrepareContext,
    PreparedData,
    PreparedFile,
    Task,
    TrainingDefaults,
)
from attn_bench.errors import DataError, OptionError, Unsupported

__all__ = [
    "KINDS", "Complexity", "DataError", "Direction", "Kind", "KindSpec", "Metric", "Mixer", "Model", "Normalisation",
    "OptionError", "Plugin", "PrepareContext", "PreparedData", "PreparedFile", "Problem", "Splits", "Task", "Tokens",
    "TrainingDefaults", "Unsupported", "held_out_count",
]  # fmt: skip

CONTRACT = 2
