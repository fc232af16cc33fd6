"""Models whose ``imports`` misbehave."""

from __future__ import annotations

from toy_plugins import Toy


class Exits(Toy):
    name = "imports-exits"
    imports = ("rogue_imports.exits",)


class Dies(Toy):
    name = "imports-dies"
    imports = ("rogue_imports.dies",)


class Raises(Toy):
    name = "imports-raises"
    imports = ("rogue_imports.raises",)


class Hangs(Toy):
    name = "imports-hangs"
    imports = ("rogue_imports.hangs",)


class Computes(Toy):
    name = "imports-computes"
    imports = ("rogue_imports.computes",)


class Sets(Toy):
    name = "imports-sets"
    imports = ("rogue_imports.sets",)
