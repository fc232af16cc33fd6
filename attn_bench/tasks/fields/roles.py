"""Finds the input and the target in a file: as the user names them, by a known layout, or by their usual names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from attn_bench.plugin import DataError, OptionError
from attn_bench.tasks.darcy.pairs import INPUT_KEYS, TARGET_KEYS
from attn_bench.tasks.fields.axis_letters import ambiguous, fitted, inferred
from attn_bench.tasks.fields.field_file import FieldFile, Piece
from attn_bench.tasks.fields.fields_options import FieldsOptions
from attn_bench.tasks.fields.layouts import Layout, layout_of
from attn_bench.tasks.fields.selection import Part, parsed
from attn_bench.tasks.fields.stored import Opened, Stored, open_stored
from attn_bench.tasks.shared.array_formats.contents import shown

LISTED = 8


def field_file(path: Path, options: FieldsOptions) -> FieldFile:
    """Return the samples of a file.

    Raises:
        DataError: something about it is not clear; the message says what was found and what to write.
        OptionError: an option has no meaning.
    """
    opened = open_stored(path)
    try:
        layout = layout_of(opened)
        chosen = _chosen(opened, layout, options)
        pieces = [tuple(_piece(opened, layout, part, options) for part in parts) for parts in chosen]
        found = FieldFile(path, opened.files, pieces[0], pieces[1], options.step, options.history)
        mask = None if options.mask is None else _mask(opened, found, options.mask)
        return replace(found, periodic=_periodic(found, layout, options), mask=mask)
    finally:
        for array in opened.arrays.values():
            array.close()


def _periodic(file: FieldFile, layout: Layout, options: FieldsOptions) -> str:
    """Return the periodic axes of the grid: those given, or those that the layout names."""
    if options.periodic is None:
        return layout.periodic
    along = options.periodic.removeprefix("none")
    if "w" in along and len(file.grid) == 1:
        raise OptionError(f"fields.periodic={options.periodic}: {file.path} has fields on a line, which have h only")
    return along


def _mask(opened: Opened, file: FieldFile, text: str) -> Piece:
    """Return the mask, of the shape of the grid or with the samples before it, unless its axes are given."""
    part, *more = parsed(text, opened.arrays, "mask")
    array, grid = _array(opened, part), file.grid
    if more or part.channels or part.steps:
        raise OptionError(f"fields.mask={text}: give one whole array, NAME or NAME:AXES")
    letters = {grid: "hw"[: len(grid)], (file.trajectories, *grid): f"n{'hw'[: len(grid)]}"}
    if part.axes is None and array.shape not in letters:
        shapes = " or ".join(f"{shape} ({own})" for shape, own in letters.items())
        raise DataError(
            f"{opened.path}: the mask {shown(part.name)!r} has the shape {array.shape}; it must have {shapes}, or its "
            f"axes given, as in fields.mask={text}:ORDER"
        )
    if part.axes is not None and (set(part.axes) - set("nhw") or len(part.axes) != len(array.shape)):
        raise OptionError(f"fields.mask={text}: it needs the axes n, h and w of the shape {array.shape}")
    return Piece(array, part.axes or letters[array.shape], part)


def _chosen(opened: Opened, layout: Layout, options: FieldsOptions) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Return the parts of the input and of the target."""
    given = {
        role: None if text is None else parsed(text, opened.arrays, role)
        for role, text in (("input", options.input), ("target", options.target))
    }
    if given["input"] is None and given["target"] is None and layout.inputs:
        return tuple(map(Part, layout.inputs)), tuple(map(Part, layout.targets))
    beside = (*layout.beside, options.mask, (options.mask or "").partition(":")[0])
    names = [name for name, array in opened.arrays.items() if name not in beside and _may_be_field(array)]
    if not any(given.values()) and len(names) == 1 and "t" in _letters(opened, layout, names[0], options):
        # One array with a time axis: the later step is predicted from the earlier one.
        return (Part(names[0]),), (Part(names[0]),)
    found = {role: parts or _usual(role, names, given) for role, parts in given.items()}
    if unclear := [role for role, parts in found.items() if len(parts) != 1 and given[role] is None]:
        several = [f"{' and '.join(shown(part.name) for part in found[role][:3])} may be the {role}" for role in unclear
                   if found[role]]  # fmt: skip
        which = " and which the ".join(unclear)
        why = "; ".join(several) or f"it is not clear which array is the {which}"
        say = " ".join(f"--set fields.{role}=NAME" for role in unclear)
        raise DataError(f"{opened.path}: {why}; it has {listed(opened)}; write {say}")
    return found["input"], found["target"]


def _may_be_field(array: Stored) -> bool:
    return len(array.shape) >= 3 or (len(array.shape) == 2 and 1 not in array.shape)


def _usual(role: str, names: Iterable[str], given: Mapping[str, tuple[Part, ...] | None]) -> tuple[Part, ...]:
    """Return the arrays that have a usual name of a role."""
    taken = {part.name for parts in given.values() for part in parts or ()}
    usual = {"input": INPUT_KEYS, "target": TARGET_KEYS}[role]
    return tuple(Part(name) for name in names if name.rpartition("/")[2].lower() in usual and name not in taken)


def listed(opened: Opened) -> str:
    """Return the arrays of a file with their shapes and ranges, in one line."""
    names = [f"{shown(name)} {array.shape}{_range(array)}" for name, array in list(opened.arrays.items())[:LISTED]]
    names += [f"{shown(name)} ({what})" for name, what in list(opened.others.items())[: max(LISTED - len(names), 0)]]
    more = len(opened.arrays) + len(opened.others) - len(names)
    return (", ".join(names) or "no arrays") + (f" and {more} more" if more > 0 else "")


def _range(array: Stored) -> str:
    """Return the range of the first of the values along the first axis, in words; empty if it cannot be had."""
    import numpy as np

    if 0 in array.shape or not array.mapped:
        return ""
    try:
        values = np.asarray(array.piece(tuple(slice(0, 1) if i == 0 else slice(None) for i in range(len(array.shape)))))
    except DataError:
        return ""
    with np.errstate(all="ignore"):
        return f" from {float(np.min(values)):.3g} to {float(np.max(values)):.3g}"


def _piece(opened: Opened, layout: Layout, part: Part, options: FieldsOptions) -> Piece:
    array = _array(opened, part)
    if array.kind not in "biuf":
        raise DataError(f"{opened.path}: {shown(part.name)!r} must contain real numbers")
    if part.axes is not None:
        if len(part.axes) != len(array.shape):
            raise DataError(
                f"{opened.path}: {shown(part.name)!r} has {len(array.shape)} axes (shape {array.shape}), but "
                f"{part.axes} names {len(part.axes)}"
            )
        return Piece(array, part.axes, part)
    letters = _letters(opened, layout, part.name, options)
    if options.axes is not None and letters == fitted(options.axes.lower(), array.shape):
        return Piece(array, letters, part)
    by_layout = letters == layout.axes.get(part.name)
    return Piece(array, letters, part, f"as in {layout.name}" if by_layout else "from its shape")


def _array(opened: Opened, part: Part) -> Stored:
    if part.name in opened.arrays:
        return opened.arrays[part.name]
    if part.name in opened.others:
        raise DataError(f"{opened.path}: {shown(part.name)!r} is {opened.others[part.name]}")
    raise DataError(f"{opened.path}: has no array {shown(part.name)!r}; it has {listed(opened)}")


def _letters(opened: Opened, layout: Layout, name: str, options: FieldsOptions) -> str:
    """Return the letters of the axes of an array: those given, those of the layout, or those of its shape."""
    array = opened.arrays[name]
    tries: list[Callable[[], str | None]] = [
        lambda: None if options.axes is None else fitted(options.axes.lower(), array.shape),
        lambda: layout.axes.get(name),
        lambda: inferred(array.shape, matlab=opened.matlab, samples=array.shape[0] if opened.joined else None),
    ]
    for attempt in tries:
        # An order given for all arrays leaves no room for other guesses than of plain fields.
        if (letters := attempt()) is not None and (
            attempt is not tries[-1] or options.axes is None or letters == "nhw"
        ):
            return letters
    if options.axes is not None:
        raise DataError(
            f"{opened.path}: {shown(name)!r} has {len(array.shape)} axes (shape {array.shape}), which "
            f"fields.axes={options.axes} does not describe; give its own, as in fields.input={shown(name)}:ORDER"
        )
    raise ambiguous(opened.path, shown(name), array.shape)
