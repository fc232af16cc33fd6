"""Claims of papers held against made results: verdicts, what makes results comparable, and the file of claims."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_results import HOSTILE, TRAINING, Folder, hostile
from scipy import stats

from attn_bench import cli
from attn_bench.analysis.claims.checks import Check
from attn_bench.analysis.claims.claim import SHIPPED, read_claims
from attn_bench.analysis.claims.judges import check
from attn_bench.errors import UserError
from attn_bench.plugin import Metric
from attn_bench.plugins.registry import MODELS, TASKS
from attn_bench.report import claims_table as shown
from attn_bench.results.run_info import RunInfo
from attn_bench.sweep.groups import Tuning

DRAWN = {
    "source": "generated", "recipe": "neuralop", "alpha": 3.0, "tau": 10.0, "forcing": 2.75, "a_high": 1.0,
    "a_low": 1 / 18.6, "n_train": 1000, "n_test": 200,
}  # fmt: skip
SHIPPED_FILE = {"source": "file", "checksum": "e1c25ac704daa3d1", "stride": 1, "n_train": 1000, "n_test": 50}
ANEW = "; supporting evidence: samples drawn anew, not the published files"
PAPER = dict(MODELS.load("mano").presets["paper"])


def checks(folder: Folder, *ids: str) -> list[Check]:
    return [c for c in check(read_claims(), [folder.store]) if c.claim.id in ids]


def only(folder: Folder, id: str) -> Check:
    (found,) = checks(folder, id)
    return found


def add_mano(folder: Folder, rel_mse: Sequence[float], data: Any = DRAWN, resolution: int = 16) -> None:
    for seed, value in enumerate(rel_mse):
        folder.add("mano:paper", resolution, seed, options=PAPER, rel_l2=value**0.5, data=data)


@pytest.mark.parametrize(
    ("rel_mse", "verdict"),
    [
        ([0.0088, 0.0080, 0.0072], "reproduced"),
        ([0.0087], "reproduced"),
        ([0.0073], "reproduced"),
        ([0.0089], "not reproduced"),
        ([0.0071], "better"),
        ([0.0079, 0.0109, 0.0110, 0.0111, 0.0110], "not reproduced"),  # the mean counts, not the best seed
        ([0.0070, 0.0110], "inconclusive"),  # the interval over the seeds contains the published value
    ],
)
@pytest.mark.parametrize("data", [DRAWN, SHIPPED_FILE, {"source": "zenodo", "recipe": "neuralop", "n_train": 1000}])
def test_a_mean_within_the_tolerance_reproduces(tmp_path: Path, rel_mse: list[float], verdict: str, data: Any) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, rel_mse, data)
    found = only(folder, "mano-darcy-16")
    assert found.estimate is not None
    assert (found.verdict, found.estimate.seeds) == (verdict, len(rel_mse))
    assert found.estimate.value == pytest.approx(sum(rel_mse) / len(rel_mse))
    if len(rel_mse) == 1:
        assert found.estimate.low is found.estimate.high is found.estimate.deviation is None
    else:
        wanted = stats.ttest_1samp(rel_mse, 0).confidence_interval(0.95)
        assert (found.estimate.low, found.estimate.high) == pytest.approx((wanted.low, wanted.high))
    assert found.note.endswith(f"trained for 10 epochs{ANEW if data is DRAWN else ''}")
    assert ("more seeds are needed" in found.note) == (verdict == "inconclusive")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (DRAWN | {"recipe": "fno"}, "data.recipe: fno, published: neuralop"),
        (DRAWN | {"n_train": 100}, "data.n_train: 100, published: 1000"),
        (DRAWN | {"alpha": 2.0}, "data.alpha: 2.0, published: 3.0"),
        (SHIPPED_FILE | {"checksum": "0"}, "data.checksum: 0, published: e1c25ac704daa3d1"),
        ({"source": "zenodo", "recipe": "neuralop"}, "data.n_train: not set, published: 1000"),
    ],
)
def test_another_protocol_is_not_comparable_and_says_which_setting(tmp_path: Path, data: Any, said: str) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, [0.008], data)
    found = only(folder, "mano-darcy-16")
    assert found.verdict == "not comparable"
    assert found.differences == (said,)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.008)  # shown beside it all the same


def test_the_published_size_counts_and_not_the_label(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("mano:paper", 16, options=PAPER | {"dim": 8}, rel_l2=0.08, data=DRAWN)
    assert only(folder, "mano-darcy-16").differences == ("model: options are not those of mano:paper",)
    folder.add("mano:mine", 16, options=PAPER, rel_l2=0.09, data=DRAWN)
    found = only(folder, "mano-darcy-16")
    assert (found.model, found.verdict) == ("mano:mine", "reproduced")  # what can be compared goes before what cannot


def test_a_model_is_told_by_its_options_not_by_the_name_of_its_preset(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add("mano:paper", 16, options=PAPER, rel_l2=0.09, data=DRAWN)
    folder.add("mano:overlapping", 16, options=PAPER | {"stride": 1}, rel_l2=0.09, data=DRAWN)
    found = only(folder, "mano-darcy-16-overlap")
    assert (found.model, found.verdict) == ("mano:overlapping", "reproduced")
    assert only(folder, "mano-darcy-16").model == "mano:paper"


def test_settings_that_must_be_given(tmp_path: Path) -> None:
    folder = Folder(tmp_path, task="flowers102")
    folder.store.write_run_info(RunInfo({"flowers102": {"top1": Metric("higher", "", "%")}}))
    folder.add("mano-swinv2", 224, options={"weights": "a.safetensors"})
    for claim in (c for c in read_claims() if c.id == "mano-flowers102"):
        (found,) = check([claim], [folder.store])
        assert (found.verdict, found.note) == ("not yet run", "no top1: not trained")
    cell = next((tmp_path / "cells").glob("*.json"))
    for top1, verdict in ((89.5, "reproduced"), (91.0, "better"), (87.0, "not reproduced")):
        cell.write_text(cell.read_text().replace('"rel_l2"', '"top1"'))
        record = json.loads(cell.read_text())
        record["evaluations"][0]["metrics"]["top1"] = top1
        record["cell"]["regime"] = "linear-probe"
        write(cell, record)
        assert only(folder, "mano-flowers102").verdict == verdict
    record["cell"]["regime"] = "finetune"
    write(cell, record)
    assert only(folder, "mano-flowers102").verdict == "not comparable"
    record["cell"]["regime"] = "linear-probe"
    record["cell"]["options"] = {}
    write(cell, record)
    assert only(folder, "mano-flowers102").verdict == "not comparable"


def write(path: Path, record: Any) -> None:
    import json

    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("fno", "verdict"), [(0.016, "reproduced"), (0.0155, "reproduced"), (0.012, "not reproduced"), (0.02, "better")]
)
def test_half_is_judged_against_the_rival_of_the_same_folder(tmp_path: Path, fno: float, verdict: str) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, [0.008])
    found = only(folder, "mano-half-of-fno")
    assert (found.verdict, found.note) == ("not yet run", "fno:paper was not run with the same settings")
    options = dict(MODELS.load("fno").presets["paper"])
    folder.add("fno:paper", 16, options=options, rel_l2=fno**0.5, data=DRAWN)
    folder.add("fno:paper", 32, options=options, rel_l2=1e-9, data=DRAWN)
    found = only(folder, "mano-half-of-fno")
    assert found.estimate is not None
    assert (found.verdict, found.estimate.value) == (verdict, pytest.approx(0.008 / fno))
    assert found.model == "mano:paper / fno:paper"


def test_models_trained_on_other_data_are_not_comparable(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, [0.008])
    folder.add("vit", 16, rel_l2=0.02**0.5, data=DRAWN | {"n_test": 100})
    assert only(folder, "mano-half-of-vit").differences == ("data: not the same for mano:paper and vit",)


@pytest.mark.parametrize(("epochs", "worse"), [(49.0, "not comparable"), (50.0, "not reproduced")])
def test_a_short_training_refutes_nothing(tmp_path: Path, epochs: float, worse: str) -> None:
    for name, rel_mse, verdict in (("worse", 0.03, worse), ("same", 0.008, "reproduced"), ("better", 0.001, "better")):
        folder = Folder(tmp_path / name)
        folder.add("mano:paper", 16, options=PAPER, rel_l2=rel_mse**0.5, data=DRAWN, epochs=epochs)
        assert only(folder, "mano-darcy-16").verdict == verdict
        # Who is ahead early need not be ahead later, so a ratio says nothing either way.
        folder.add("vit", 16, rel_l2=0.1, data=DRAWN, epochs=epochs)
        assert (only(folder, "mano-half-of-vit").verdict == "not comparable") == (epochs < 50)


def growing(folder: Folder, power: float, noise: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
    """Add MANO at four sizes whose costs grow as a power of the number of tokens."""
    for resolution, factor in zip((32, 64, 128, 256), noise):
        # Costs of made results are scale * tokens / 64.
        folder.add("mano", resolution, scale=factor * float(resolution**2) ** (power - 1))


@pytest.mark.parametrize(
    ("power", "noise", "verdict"),
    [
        (1.0, (1.0, 1.0, 1.0, 1.0), "reproduced"),
        (1.1, (1.0, 1.02, 0.98, 1.0), "reproduced"),
        (2.0, (1.0, 1.0, 1.0, 1.0), "not reproduced"),
        (1.5, (1.0, 1.0, 1.0, 1.0), "not reproduced"),
        (0.5, (1.0, 1.0, 1.0, 1.0), "inconclusive"),  # overhead is all that is seen
        (1.2, (1.0, 0.7, 1.0, 1.2), "inconclusive"),  # the interval is too wide
    ],
)
def test_growth_is_judged_by_the_interval_of_the_exponent(
    tmp_path: Path, power: float, noise: Sequence[float], verdict: str
) -> None:
    folder = Folder(tmp_path)
    growing(folder, power, noise)
    found = only(folder, "mano-linear-time")
    assert found.verdict == verdict
    assert found.estimate is not None
    assert found.estimate.holds(found.estimate.value)


def test_a_wide_interval_says_how_many_sizes_would_decide(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    growing(folder, 1.0, (1.0, 1.15, 1.0))
    found = only(folder, "mano-linear-time")
    assert found.verdict == "inconclusive"
    note = re.search(
        r"the interval is \d\.\d+ wide, more than 0\.5; about (\d) more, up to (\d+) grid points", found.note
    )
    assert note is not None, found.note
    assert int(note[2]) == 128**2 * 4 ** int(note[1])
    quiet = Folder(tmp_path / "quiet")
    growing(quiet, 1.0, (1.0, 1.01, 0.99, 1.0))
    assert only(quiet, "mano-linear-time").verdict == "reproduced"


LEARNED = {"down_sampling": "average"}


@pytest.mark.parametrize(
    ("pooled", "verdict"),
    [([0.2, 0.21, 0.2], "reproduced"), ([0.09, 0.09, 0.091], "not reproduced"), ([0.1, 0.2, 0.06], "inconclusive"),
     ([0.2], "inconclusive")],
)  # fmt: skip
def test_an_order_of_two_options_is_judged_by_the_interval_of_the_ratio(
    tmp_path: Path, pooled: list[float], verdict: str
) -> None:
    folder = Folder(tmp_path)
    for seed, error in enumerate([0.1, 0.101, 0.1][: len(pooled)]):
        folder.add("mano", 16, seed, rel_l2=error, data=DRAWN)
    for seed, error in enumerate(pooled):
        folder.add("mano", 16, seed, rel_l2=error, data=DRAWN, options=LEARNED)
        # What differs in another option as well says nothing of this one.
        folder.add("mano", 16, seed, rel_l2=9 * error, data=DRAWN, options={"levels": 1})
    found = only(folder, "mano-learned-down-sampling")
    assert found.verdict == verdict
    assert "/" in found.model


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [((0.4, 0.3, 0.2), "reproduced"), ((0.2, 0.3, 0.4), "not reproduced"), ((0.4, 0.3), None),
     ((0.4, 0.399, 0.2), "reproduced"), ((0.2, 0.2005, 0.2), "inconclusive")],
)  # fmt: skip
def test_improvement_with_every_step_of_an_option(
    tmp_path: Path, errors: tuple[float, ...], verdict: str | None
) -> None:
    folder = Folder(tmp_path)
    for levels, error in enumerate(errors, 1):
        for seed in range(3):
            folder.add("mano", 16, seed, rel_l2=error * (1 + seed / 500), data=DRAWN, options={"levels": levels})
    found = only(folder, "mano-levels")
    assert found.verdict == (verdict or "not yet run")
    if verdict:
        assert found.note == "by levels: " + ", ".join(
            f"{level}: {sum((error * (1 + seed / 500)) ** 2 for seed in range(3)) / 3:.4g}"
            for level, error in enumerate(errors, 1)
        )


@pytest.mark.parametrize(("scale", "verdict"), [(0.05, "better"), (0.1, "reproduced"), (0.5, "not reproduced")])
def test_costs_of_two_models_are_compared(tmp_path: Path, scale: float, verdict: str) -> None:
    folder = Folder(tmp_path)
    folder.add("mano", 64, scale=scale, epochs=3)
    folder.add("vit", 64)
    found = only(folder, "mano-time-of-vit")
    assert found.estimate is not None
    assert (found.verdict, found.estimate.value) == (verdict, pytest.approx(scale))


def test_variants_that_differ_in_an_option_are_distinguished(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for resolution in (64, 128, 256):
        folder.add("fma", resolution)
        folder.add("fma", resolution, scale=resolution**2, options={"query_downsampling": True})
    found = {c.claim.id: (c.model, c.verdict) for c in checks(folder, "fma-time", "fma-linear-time")}
    assert found == {
        "fma-time": ("fma [query_downsampling=default]", "reproduced"),
        "fma-linear-time": ("fma [query_downsampling=True]", "not reproduced"),
    }


def test_cells_that_were_not_run_are_marked(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, [0.008], resolution=32)
    folder.add("mano:paper", 64, status="oom", error="none left", options=PAPER)
    assert only(folder, "mano-darcy-16").note == "run at 32, 64, claimed at 16"
    assert only(folder, "mano-darcy-64").note == "no rel_mse: oom"
    assert only(folder, "mano-linear-time").note == "forward latency is needed at three or more sizes"
    assert only(folder, "fma-time").verdict == "not yet run"
    verdicts = {c.claim.id: c.verdict for c in check(read_claims(), [folder.store])}
    assert [id for id, verdict in verdicts.items() if verdict != "not yet run"] == ["mano-darcy-32"]


def test_seeds_that_failed_are_mentioned(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, [0.008, 0.008])
    folder.add("mano:paper", 16, 2, status="diverged", error="loss is nan", options=PAPER)
    found = only(folder, "mano-darcy-16")
    assert found.estimate is not None
    assert (found.estimate.seeds, found.note) == (2, "trained for 10 epochs; 1 of 3 seeds failed" + ANEW)


def test_several_folders_together(tmp_path: Path) -> None:
    right, wrong = Folder(tmp_path / "right"), Folder(tmp_path / "wrong")
    add_mano(right, [0.008])
    add_mano(wrong, [0.008], DRAWN | {"recipe": "fno"})
    for order in ((right, wrong), (wrong, right)):
        found = [c for c in check(read_claims(), [f.store for f in order]) if c.claim.id == "mano-darcy-16"]
        assert [(c.verdict, c.folder) for c in found] == [("reproduced", str(tmp_path / "right"))]


def test_the_claims_that_ship_name_things_that_exist() -> None:
    claims = read_claims()
    planned = {"lamo", "swin", "transolver-plus", "lsm", "ffno", "unet", "ono", "gnot", "mspt", "ho-fno"}
    for claim in claims:
        if claim.task is not None:
            assert claim.metric in TASKS.load(claim.task).metrics
        for model in filter(None, (claim.model, claim.than)):
            plugin, _, preset = model.partition(":")
            if plugin in MODELS.entries():
                assert not preset or preset in MODELS.load(plugin).presets
            else:
                assert plugin in planned
        # A published number is known to half a unit of its last digit and no better.
        if claim.relation == "equals":
            digits = f"{claim.value}".partition(".")[2]
            assert claim.tolerance * claim.value >= 0.4999 * 10 ** -len(digits) or claim.tolerance >= 0.01
    assert {c.certainty for c in claims if not c.paper} == {"cited"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "contains no claims"),
        ("claims: 3", "contains no claims"),
        ("claims: [", "not valid YAML"),
        ("claims: [3]", "claim number 1 is not a mapping"),
        ("claims: [{id: a, modle: x}]", "did you mean 'model'"),
        ("claims: [{id: a, says: b, certainty: table, model: m, metric: x, relation: equals, task: t}]", "needs value"),
        ("claims: [{id: a, says: b, certainty: sure, model: m, metric: x, relation: equals}]", "certainty"),
        ("claims: [{id: a, says: b, certainty: paper, model: m, metric: x, relation: grows as, growth: n}]", "a cost"),
        ("claims: [{id: a, protocol: b}]", "unknown protocol"),
        ("protocols: [b]\nclaims: [{id: a, protocol: b}]", "protocols is not a mapping"),
        ("claims: [!!python/object/apply:os.system ['echo bad']]", "not valid YAML"),
    ],
)
def test_a_broken_file_of_claims_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_claims(path)
    assert "\n" not in str(error.value)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["attn-bench", "claims", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder(tmp_path / "made")
    add_mano(folder, [0.0079, 0.0083])
    assert run(monkeypatch, str(tmp_path / "made")) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "REPRODUCED MANO's relative squared error on Darcy flow at 16 x 16" in text
    assert "ours: 0.00810 ± 0.00028, 2 seeds" in text
    file = tmp_path / "claims.md"
    assert run(monkeypatch, str(tmp_path / "made"), "--markdown", str(file)) == 0
    listed, not_run = capsys.readouterr().out.strip().splitlines()[-2:]
    assert listed == "1 reproduced"
    assert not_run.startswith("48 not yet run (--all lists them); ")
    assert not_run.endswith(
        " need models that are not installed: ffno, gnot, ho-fno, lamo, lsm, mspt, ono, swin, transolver-plus, unet"
    )
    assert run(monkeypatch, str(tmp_path / "made"), "--all") == 0
    assert capsys.readouterr().out.endswith("1 reproduced, 48 not yet run\n")
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(read_claims())
    assert {line.replace("\\|", "").count("|") for line in lines} == {7}
    (tmp_path / "nothing").mkdir()
    assert run(monkeypatch, str(tmp_path / "nothing")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(monkeypatch, str(tmp_path / "made"), "--file", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_hostile_text_stays_on_its_line(tmp_path: Path) -> None:
    folder = hostile(tmp_path)
    own = tmp_path / "claims.yaml"
    import yaml

    claims = [
        {
            "id": str(i), "says": text, "certainty": "paper", "model": text.partition(":")[0], "metric": "rel_l2",
            "relation": "equals", "task": HOSTILE[0], "value": 1.0,
        }
        for i, text in enumerate(HOSTILE)
    ]  # fmt: skip
    own.write_text(yaml.safe_dump({"claims": claims}))
    found = check(read_claims(own), [folder.store])
    assert len(found) >= len(HOSTILE)
    table = shown.markdown(found)
    assert "<script>" not in table
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + len(found)


def test_the_file_that_ships_is_part_of_the_package() -> None:
    assert SHIPPED.is_file()
    assert SHIPPED.parent.name == "claims"


def test_a_claim_that_is_not_decided_names_what_would_decide_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    add_mano(folder, [0.01])
    found = {c.claim.id: c.decided_by for c in check(read_claims(), [folder.store])}
    assert found["mano-darcy-64"] == (
        "would be decided by: attn-bench run sweeps/darcy.yaml --models mano:paper --resolutions 64 "
        "--out results/darcy, about 5.2 hours on two cores"
    )
    assert "needs a network" in found["mano-flowers102"]
    assert "--task flowers102" in found["mano-flowers102"]
    assert "needs a plugin lamo, which is not installed and a GPU" in found["lamo-darcy-85"]
    assert [id for id, said in found.items() if not said] == ["mano-darcy-16"]  # the only one that is decided


def test_rates_chosen_from_the_same_values_are_the_same_training(tmp_path: Path) -> None:
    fno = dict(MODELS.load("fno").presets["paper"])
    tuned = {"tuning": Tuning({"learning_rate": (0.001, 0.002)})}
    for name, other, verdict in (("same", tuned, "reproduced"), ("not", {}, "not comparable")):
        folder = Folder(tmp_path / name)
        for model, options, rate, value, own in (
            ("mano:paper", PAPER, 0.001, 0.004, tuned),
            ("fno:paper", fno, 0.002, 0.008, other),
        ):
            changed = {"training": replace(TRAINING, learning_rate=rate), **own}
            for seed in range(2):
                folder.add(
                    model, 16, seed, options=options, rel_l2=value**0.5, data=DRAWN, epochs=50.0, changed=changed
                )
        (found,) = checks(folder, "mano-half-of-fno")
        assert found.verdict == verdict
        assert ("learning_rate: 0.001 for mano:paper, 0.002 for fno:paper" in found.differences) == (name == "not")


def test_a_folder_of_results_folders_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        add_mano(Folder(tmp_path / name), [0.008, 0.008])
    (tmp_path / "notes").mkdir()
    assert run(monkeypatch, str(tmp_path)) == 0
    assert capsys.readouterr().out.count("REPRODUCED MANO's relative") == 2


def test_one_row_for_each_claim(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for seed, value in enumerate((0.008, 0.008)):
        folder.add("mano:paper", 16, seed, options=PAPER, rel_l2=value**0.5, data=DRAWN)
        folder.add("mano:paper", 32, seed, options=PAPER, rel_l2=value**0.5, data=DRAWN, epochs=50.0)
    lines = shown.brief(check(read_claims(), [folder.store])).splitlines()
    assert len(lines) == 2 + len(read_claims())
    row = {claim.id: line for claim, line in zip(read_claims(), lines[2:])}
    assert "| reproduced |" in row["mano-darcy-16"]
    assert "| not reproduced |" in row["mano-darcy-32"]
    assert "| not yet run |" in row["mano-darcy-64"]


def test_several_variants_in_one_row_are_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for seed in range(2):
        folder.add("mano:paper", 16, seed, options=PAPER, rel_l2=0.1, data=DRAWN, epochs=50.0)
        folder.add("vit:patch2", 16, seed, options={"patch_size": 2}, rel_l2=0.2, data=DRAWN, epochs=50.0)
        folder.add("vit:patch4", 16, seed, options={"patch_size": 4}, rel_l2=0.11, data=DRAWN, epochs=50.0)
    (row,) = shown.brief(checks(folder, "mano-half-of-vit")).splitlines()[2:]
    assert "better at 16; not reproduced at 16" in row
    assert "mano:paper / vit:patch2: " in row
    assert "mano:paper / vit:patch4: " in row
