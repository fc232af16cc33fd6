"""A fingerprint changes with every file of its own that a plugin imports, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from attn_bench.errors import UserError
from attn_bench.plugins import fingerprint
from attn_bench.plugins.locate import source_of
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.plugins.sourcecode import read_source


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder on the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        # a__b is the module b of the package a, and a____init__ that package's own.
        package, init, _ = name.partition("____init__")
        path = root / f"{package.replace('__', '/')}{'/__init__' if init else ''}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def digest(module: str) -> str:
    return fingerprint.combined(fingerprint.sources(module))


def follows(root: Path, module: str, edited: str) -> bool:
    """Tell whether an edit of one file changes the digest of ``module``."""
    before = digest(module)
    path = root / edited
    text = path.read_text()
    path.write_text(f"{text}\nEDITED = 1\n")
    changed = digest(module) != before
    path.write_text(text)
    assert digest(module) == before
    return changed


@pytest.mark.parametrize(
    "statement",
    [
        "import fp_helper",
        "from fp_helper import WIDTH",
        "from fp_helper import *",
        "def build():\n    import fp_helper as h\n    return h",
        "try:\n    import fp_helper\nexcept ImportError:\n    fp_helper = None",
        "import sys\nif sys.platform == 'never':\n    import fp_helper",
        "import importlib\nh = importlib.import_module('fp_helper')",
        "h = __import__('fp_helper')",
        "class M:\n    imports = ('torch', 'fp_helper')",
        "NAMES = {'a': 'fp_helper'}\nimport importlib\ndef f(n):\n    return importlib.import_module(f'fp_{n}')",
        "import fp_between",
    ],
)
def test_a_helper_beside_a_plugin_of_one_file_is_followed(root, statement):
    write(root, fp_one=statement, fp_helper="WIDTH = 4", fp_between="from fp_helper import WIDTH", fp_other="x = 1")
    assert follows(root, "fp_one", "fp_one.py")
    assert follows(root, "fp_one", "fp_helper.py")


def test_modules_that_are_not_imported_do_not_count(root):
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fp_b\n"
    write(root, fp_a=typing, fp_b="x = 1", fp_c="import fp_a")
    assert not follows(root, "fp_a", "fp_b.py")
    assert not follows(root, "fp_a", "fp_c.py")


@pytest.mark.parametrize(
    ("init", "statement", "edited"),
    [
        ("", "from . import sub", "sub.py"),
        ("", "from .sub import f", "sub.py"),
        ("", "from fp_pkg.deep.below import f", "deep/below.py"),
        ("", "from fp_pkg.deep.below import f", "deep/__init__.py"),
        ("", "from fp_pkg.deep.below import f", "__init__.py"),
        ("", "from .deep import below", "deep/below.py"),
        ("", "from importlib import import_module\nx = import_module('.sub', __package__)", "sub.py"),
        ("", "from importlib import import_module\nf = lambda n: import_module('.' + n, __package__)", "sub.py"),
        ("", "import pkgutil\nx = list(pkgutil.iter_modules(['.']))", "deep/below.py"),
        ("LAZY = {'f': 'fp_pkg.sub'}\nfrom importlib import import_module\n"
         "def __getattr__(n):\n    return import_module(LAZY[n])", "x = 1", "sub.py"),
    ],
)  # fmt: skip
def test_a_package_is_followed_as_far_as_it_is_imported(root, init, statement, edited):
    modules = {"fp_pkg__sub": "f = 1", "fp_pkg__deep__below": "f = 1", "fp_pkg__other": "f = 1"}
    write(root, fp_pkg____init__="", fp_pkg__model=statement, fp_pkg__deep____init__="", **modules)
    (root / "fp_pkg/__init__.py").write_text(init)
    assert follows(root, "fp_pkg.model", f"fp_pkg/{edited}")
    if "pkgutil" not in statement and "'.' + n" not in statement:
        assert not follows(root, "fp_pkg.model", "fp_pkg/other.py")


def test_a_package_without_init_is_followed(root):
    write(root, fp_ns__deep__model="from fp_ns.deep.part import W\nfrom ..high import H", fp_ns__deep__part="W = 1")
    write(root, fp_ns__high="H = 1")
    for file in ("deep/model.py", "deep/part.py", "high.py"):
        assert follows(root, "fp_ns.deep.model", f"fp_ns/{file}")


def test_a_namespace_over_two_folders_is_followed_into_both(root, tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    write(root, fp_split__model="import fp_split.part")
    write(other, fp_split__part="W = 1")
    monkeypatch.syspath_prepend(other)
    assert follows(root, "fp_split.model", "elsewhere/fp_split/part.py")


def test_a_helper_that_the_plugin_finds_by_itself_is_followed(root):
    path = "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nfrom fp_near import W\n"
    write(root, fp_hack____init__="", fp_hack__model=path, fp_hack__fp_near="W = 1")
    assert follows(root, "fp_hack.model", "fp_hack/fp_near.py")


def test_a_folder_that_the_plugin_adds_to_the_path_is_followed(root, tmp_path):
    write(root, **{"far__fp_far": "W = 1"})
    write(root, fp_adds="import fp_far")
    before = fingerprint.sources("fp_adds", [str(tmp_path / "far")])
    assert list(before) == ["fp_adds", "fp_far"]


def test_an_editable_installation_that_hooks_into_imports_is_followed(tmp_path, monkeypatch):
    """As setuptools and editables have it: a finder on sys.meta_path that maps names to files."""
    from importlib.util import spec_from_file_location

    source = tmp_path / "src"
    write(source, **{"fp_hooked____init__": "", "fp_hooked__model": "from fp_hooked.part import W"})
    write(source, fp_hooked__part="W = 1")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "fp_hooked":
                places = [str(source / name)]
                return spec_from_file_location(name, source / name / "__init__.py", submodule_search_locations=places)
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert follows(source, "fp_hooked.model", "fp_hooked/part.py")


def test_a_module_in_an_archive_is_followed(tmp_path, monkeypatch):
    archive = tmp_path / "fp.zip"

    def pack(value: int) -> str:
        monkeypatch.syspath_prepend(archive)
        sys.path_importer_cache.pop(str(archive), None)
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("fp_zipped.py", "from fp_inside import W")
            file.writestr("fp_inside.py", f"W = {value}")
        return digest("fp_zipped")

    assert pack(1) == pack(1) != pack(22)


def install(site: Path, name: str, groups: str = "", record: str = "") -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(groups)
    (info / "RECORD").write_text(record)


def test_a_library_is_not_followed_and_another_project_with_plugins_is(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    install(site, "fp-own", "[attn_bench.models]\nx = fp_own:X\n", "fp_own.py,,\n")
    install(
        site, "fp-friend", "[attn_bench.models]\ny = fp_friend.y:Y\n", "fp_friend/__init__.py,,\nfp_friend/y.py,,\n"
    )
    install(site, "fp-library", "", "fp_library/__init__.py,,\nfp_spread/lib.py,,\n")
    write(site, fp_own="import fp_friend.y, fp_library, fp_loose, fp_spread.lib", fp_loose="W = 1")
    write(site, fp_friend____init__="", fp_friend__y="W = 1", fp_library____init__="W = 1", fp_spread__lib="W = 1")
    monkeypatch.syspath_prepend(site)
    assert follows(site, "fp_own", "fp_friend/y.py")
    assert follows(site, "fp_own", "fp_loose.py")
    assert not follows(site, "fp_own", "fp_library/__init__.py")
    assert not follows(site, "fp_own", "fp_spread/lib.py")


def test_compiled_sources_count_too(tmp_path, monkeypatch):
    folder = tmp_path / "package_with_kernels"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for text in ("int a;\n", "int b;\n", "int a;\n"):
        (folder / "kernel.cpp").write_text(text)
        (folder / "kernel.so").write_text(f"{text} built {len(digests)} times")
        digests.append(digest("package_with_kernels"))
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("kernel", ["fp_k/csrc/kernel.cu", "fp_k/ready.so"])
def test_kernels_in_a_folder_of_the_package_count(root, kernel):
    write(root, fp_k____init__="")
    (root / kernel).parent.mkdir(exist_ok=True)
    (root / kernel).write_text("int a;")
    assert follows(root, "fp_k", kernel)


def test_kernels_beside_a_single_module_count(root):
    write(root, fp_single="x = 1")
    (root / "fp_single.cpp").write_text("int a;")
    assert follows(root, "fp_single", "fp_single.cpp")


CODE = """
def f(a, b=2):
    x = f"{a}b{b:>{a}}" + "c"
    return [i for i in (x, b'\\0', 1e400, 2**70) if i], "kept"
"""
SAME = '''
"""A docstring."""
# A comment.

def f(a, b = 2, ):
    """Another."""
    x = (f'{a}'
         f'b{b:>{a}}' + 'c')
    pass
    return [i for i in (x, b"\\x00", 1e400, 2**70)
            if i], "kept"
'''


def test_comments_docstrings_and_formatting_do_not_count():
    assert read_source(CODE.encode()) == read_source(SAME.encode())


@pytest.mark.parametrize(
    "edit", [("b=2", "b=3"), ('"kept"', '"other"'), ("if i", "if not i"), ("2**70", "2.0**70"), ("f(", "g(")]
)
def test_every_change_of_the_code_counts(edit):
    assert edit[0] in CODE
    assert read_source(CODE.replace(*edit, 1).encode()).digest != read_source(CODE.encode()).digest


def test_the_normal_form_is_the_same_for_every_version_of_python():
    # Python 3.11, 3.12 and 3.13 were compared on 1500 files of the standard library; this pins what they agreed on.
    assert read_source(CODE.encode()).digest == "5c18a5a176762955"


def test_files_that_are_not_python_count_as_they_are(root):
    write(root, fp_bad="import fp_worse")
    (root / "fp_worse.py").write_bytes(b"def (:\n")
    assert follows(root, "fp_bad", "fp_worse.py")


def test_what_cannot_be_found_or_read_is_named(root, monkeypatch):
    with pytest.raises(UserError, match="cannot find the source of fp_nowhere"):
        fingerprint.sources("fp_nowhere")
    write(root, fp_first="import fp_second", fp_second="x = 1")

    def unreadable(spec):
        if spec.name == "fp_second":
            raise PermissionError(13, "Permission denied")
        return source_of(spec)

    monkeypatch.setattr(fingerprint, "source_of", unreadable)
    with pytest.raises(UserError, match=r"cannot read the source of fp_second: .*fp_second.py \(Permission denied\)"):
        fingerprint.sources("fp_first")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return ModuleSpec(name, object()) if name == "fp_made" else None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    write(root, fp_first="import fp_made")
    with pytest.raises(UserError, match="cannot find the source of fp_made"):
        fingerprint.sources("fp_first")


def test_nothing_is_imported(root):
    write(root, fp_loud="import fp_louder\nraise RuntimeError", fp_louder="raise SystemExit")
    assert list(fingerprint.sources("fp_loud")) == ["fp_loud", "fp_louder"]
    assert "fp_loud" not in sys.modules


def test_what_mano_shares_with_others_counts_for_mano_and_what_it_does_not_use_does_not():
    found = MODELS.entry("mano").sources()
    assert {
        "mano.plugin",
        "mano.attention",
        "attn_bench.nn.heads",
        "attn_bench.nn.transformer",
        "mano.tiled/tiles.cpp",
    } <= found.keys()
    assert not {"baselines.fno", "attn_bench.plugin", "torch"} & found.keys()


def test_a_mixer_depends_on_the_shared_transformer_and_a_model_does_not(root):
    model = "from attn_bench.plugin import {}\n"
    write(root, fp_mixer=model.format("Mixer"), fp_model=model.format("Model"), fp_any="import attn_bench.plugin as p")
    assert "attn_bench.nn.transformer" in fingerprint.sources("fp_mixer")
    assert "attn_bench.nn.transformer" in fingerprint.sources("fp_any")
    assert list(fingerprint.sources("fp_model")) == ["fp_model"]


def test_shared_code_of_tasks_counts_and_the_harness_does_not():
    found = TASKS.entry("darcy").sources()
    assert {
        "attn_bench.tasks.darcy.solver",
        "attn_bench.tasks.shared.field_metrics",
        "attn_bench.tasks.shared.normalise",
    } <= found.keys()
    assert (
        not {"attn_bench.running.train.loop", "attn_bench.plugin", "attn_bench", "attn_bench.tasks.images"}
        & found.keys()
    )


def test_sources_are_found_without_torch():
    code = (
        "import sys; from attn_bench.plugins.registry import MODELS, TASKS\n"
        "entries = [e for r in (MODELS, TASKS) for (e, *_) in r.entries().values() if e.package == 'attn-bench']\n"
        "print([entry.fingerprint() for entry in entries])\n"
        "print([m for m in ('torch', 'timm', 'attn_bench.nn.heads') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    assert output.strip().endswith("[]"), output
