"""What trains and what measures has a version set by hand, so somebody decides at every change whether it is raised."""

from __future__ import annotations

import json

import pytest
from acknowledge import CODE, KEPT, current


@pytest.mark.parametrize("name", CODE)
def test_changes_of_training_and_measuring_code_are_acknowledged(name):
    kept, now = json.loads(KEPT.read_text())[name], current()[name]
    files = kept["files"].keys() | now["files"].keys()
    changed = sorted(file for file in files if kept["files"].get(file) != now["files"].get(file))
    assert (changed, now["version"]) == ([], kept["version"]), (
        f"attn_bench/{', '.join(changed) or 'sweep/versions.py'} changed. If that can change a number of a record, "
        f"raise {name} in attn_bench/sweep/versions.py by one (once between two releases is enough). In any case run "
        "'python tests/sweep/acknowledge.py' then, and commit tests/sweep/versions.json with the change."
    )


def test_comments_need_no_decision_and_code_does(tmp_path, monkeypatch):
    import acknowledge

    monkeypatch.setattr(acknowledge, "PACKAGE", tmp_path)
    digests = []
    for text in ("x = 1\n", '"""Says more."""\n\nx = 1  # one\n', "x = 2\n"):
        (tmp_path / "contract").mkdir(exist_ok=True)
        (tmp_path / "contract/model.py").write_text(text)
        digests.append(acknowledge.current()["TRAINING"]["files"]["contract/model.py"])
    assert digests[0] == digests[1] != digests[2]
