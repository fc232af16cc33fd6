"""docs/models.md names every model that ships, and where it was published."""

from pathlib import Path

from attn_bench.plugins.registry import MODELS

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_every_model_and_its_citation_is_in_the_table():
    for name, claims in MODELS.entries().items():
        if claims[0].package == "attn-bench":
            assert f"`{name}`" in TEXT or f"`{name}:" in TEXT, name
            citation = MODELS.load(name).citation
            assert not citation.startswith("arXiv:") or citation.removeprefix("arXiv:") in TEXT, name
