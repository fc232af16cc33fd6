"""Git repositories with a plugin in them, built and installed without the network."""

from __future__ import annotations

import subprocess
from pathlib import Path

from attn_bench.gate.ab.checkouts import surroundings

SETTINGS = {
    "user.name": "nobody",
    "user.email": "nobody@localhost",
    "protocol.file.allow": "always",
    "core.fsmonitor": "false",
}
BACKEND = """
import os, sys, zipfile

NAME, ENTRY, MODULE = {name!r}, {entry!r}, {module!r}


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    {before}
    os.makedirs("build", exist_ok=True)
    return archived(wheel_directory, MODULE + ".py", open(MODULE + ".py").read())


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return archived(wheel_directory, MODULE + ".pth", os.getcwd())


def archived(folder, file, content):
    info = NAME + "-1.dist-info/"
    files = {{
        file: content,
        info + "METADATA": "Metadata-Version: 2.1\\nName: " + NAME + "\\nVersion: 1\\n",
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        info + "entry_points.txt": "[attn_bench.models]\\n" + ENTRY,
    }}
    files[info + "RECORD"] = "".join(name + ",,\\n" for name in files)
    name = NAME + "-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return name
"""


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody, whatever this machine's git is set to; return what it prints."""
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings()).stdout


def commit_all(folder: Path, message: str) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", message)


def plugin_project(folder: Path, entry: str, code: str, *, before: str = "pass", requires: str = "[]") -> Path:
    """Make a repository with one commit: a project whose plugin nobody has installed.

    Args:
        entry: the entry point, ``name = module:Class``.
        code: what the module holds.
        before: a statement that the build backend runs before it builds.
        requires: what the build needs, as TOML.
    """
    folder.mkdir()
    module = entry.partition("=")[2].partition(":")[0].strip()
    (folder / "pyproject.toml").write_text(
        f"[build-system]\nrequires = {requires}\nbuild-backend = 'own_backend'\nbackend-path = ['.']\n"
    )
    backend = BACKEND.format(name=module, entry=f"{entry}\n", module=module, before=before)
    (folder / "own_backend.py").write_text(backend)
    (folder / f"{module}.py").write_text(code)
    git(folder, "init", "--quiet", "-b", "main")
    commit_all(folder, "one")
    return folder
