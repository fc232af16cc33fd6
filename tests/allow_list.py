"""A contract for import-linter: some modules may import only those that are listed, and each other."""

from __future__ import annotations

from typing import Any

from importlinter import Contract, ContractCheck, fields, output


class AllowList(Contract):
    """``source_modules`` may import themselves and ``allowed_modules`` of the packages that are looked at."""

    type_name = "allow"

    source_modules = fields.SetField(subfield=fields.ModuleField())
    allowed_modules = fields.SetField(subfield=fields.ModuleField())

    def check(self, graph: Any, verbose: bool) -> ContractCheck:
        sources = {module.name for module in self.source_modules}  # type: ignore[attr-defined]
        allowed = sources | {module.name for module in self.allowed_modules}  # type: ignore[attr-defined]
        found = [
            (module, imported)
            for module in sorted(graph.modules)
            if _is_below(module, sources)
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if not _is_below(imported, allowed)
        ]
        return ContractCheck(kept=not found, metadata={"found": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for module, imported in check.metadata["found"]:
            output.print_error(f"{module} imports {imported}")


def _is_below(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
