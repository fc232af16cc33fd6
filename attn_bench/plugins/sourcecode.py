"""Digests of Python source without comments, docstrings and formatting, and its imports; nothing is run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

# Functions that import a module whose name may not be in the source.
_IMPORTING = ("import_module", "__import__")
_SEARCHING = ("iter_modules", "walk_packages", "spec_from_file_location", "SourceFileLoader", "run_path", "run_module")
# Fields that differ between versions of Python, or follow from the rest.
_SKIPPED = ("ctx", "kind", "type_comment", "type_ignores")
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Import(NamedTuple):
    """An import statement: leading dots, the module, and the names after ``from ... import``."""

    level: int
    module: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Code:
    """The analysis of one source file.

    Attributes:
        digest: of its normal form; the same for every version of Python.
        imports: anywhere in it except under ``if TYPE_CHECKING``; a plugin's ``imports`` count as well.
        literals: strings that may be names of modules, if it imports a module by a variable.
        searches: whether it imports modules whose names do not occur in it.
    """

    digest: str
    imports: tuple[Import, ...] = ()
    literals: tuple[str, ...] = ()
    searches: bool = False


@lru_cache(maxsize=4096)
def read_source(source: bytes) -> Code:
    """Return the analysis of ``source``; if it is not Python, its bytes count and it imports nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        reader = _Reader()
        reader.read(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Code(digest_of(source))
    return Code(
        digest_of("\n".join(reader.said).encode("utf-8", "surrogatepass")),
        tuple(dict.fromkeys(reader.imports)),
        tuple(dict.fromkeys(reader.literals)) if reader.by_variable else (),
        reader.searches,
    )


def digest_of(content: bytes) -> str:
    """Return a digest of bytes, 64 bits in hexadecimal digits."""
    return sha256(content).hexdigest()[:16]


class _Reader:
    """Traverses a syntax tree once, for its normal form and its imports."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.imports: list[Import] = []
        self.literals: list[str] = []
        self.by_variable = self.searches = False
        self.type_checking = 0

    def read(self, node: Any) -> None:
        if isinstance(node, ast.Constant):
            self.said.append(_constant(node.value))
            if isinstance(node.value, str) and len(node.value) < 200 and _MODULE_NAME.fullmatch(node.value):
                self.literals.append(node.value)
        elif isinstance(node, ast.AST):
            self._note(node)
            self.said.append(type(node).__name__)
            for name in node._fields:
                value = getattr(node, name, None)
                # Fields added by newer versions are empty for source that older versions can parse.
                if value is None or value == [] or name in _SKIPPED:
                    continue
                self.said.append(name)
                hidden = name == "body" and isinstance(node, ast.If) and _is_type_checking(node.test)
                self.type_checking += hidden
                self.read(_joined(value) if isinstance(node, ast.JoinedStr) else value)
                self.type_checking -= hidden
        elif isinstance(node, list):
            self.said.append("[")
            for item in node:
                if not _says_nothing(item):
                    self.read(item)
            self.said.append("]")
        else:
            self.said.append(_constant(node))

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                self._add(*(Import(0, alias.name) for alias in names))
            case ast.ImportFrom(module=module, names=names, level=level):
                self._add(Import(level, module or "", tuple(alias.name for alias in names)))
            case (
                ast.Assign(targets=[ast.Name(id="imports")], value=ast.Tuple() | ast.List() as value)
                | ast.AnnAssign(target=ast.Name(id="imports"), value=ast.Tuple() | ast.List() as value)
            ):
                texts = (item.value for item in value.elts if isinstance(item, ast.Constant))
                self.imports += (Import(0, text) for text in texts if isinstance(text, str))
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in _SEARCHING:
                self.searches = True
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in _IMPORTING:
                self._note_call(node)

    def _note_call(self, call: ast.Call) -> None:
        given = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "name"), None)
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            module = given.value.lstrip(".")
            self._add(Import(len(given.value) - len(module), module))
        elif isinstance(given, ast.Name | ast.Subscript | ast.Attribute):
            self.by_variable = True
        else:
            self.searches = True

    def _add(self, *found: Import) -> None:
        if not self.type_checking:
            self.imports += found


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _says_nothing(node: Any) -> bool:
    """Tell whether a statement does nothing: a docstring, ``pass``, ``...``."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _joined(parts: Iterable[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with adjacent texts joined, as versions of Python differ in this."""
    joined: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant) and joined and isinstance(joined[-1], ast.Constant):
            joined[-1] = ast.Constant(str(joined[-1].value) + str(part.value))
        elif not (isinstance(part, ast.Constant) and part.value == ""):
            joined.append(part)
    return joined


def _constant(value: Any) -> str:
    if isinstance(value, str):
        return f"str {len(value)} {value}"
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    # A number may have too many digits for repr.
    return f"int {value:x}" if type(value) is int else f"{type(value).__name__} {value!r}"
