"""A model that writes down each time it is built, in a file that is only ever appended to."""

from __future__ import annotations

from dataclasses import dataclass

from toy_plugins import Toy

from attn_bench.plugin import Problem


class Counted(Toy):
    name = "toy-counted"
    summary = "Appends the seed to a file when it is built."

    @dataclass(frozen=True)
    class Options(Toy.Options):
        file: str = ""

    def build(self, problem: Problem, options: Options):
        import os

        import torch

        descriptor = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"%d\n" % torch.initial_seed())
        os.close(descriptor)
        return super().build(problem, options)
