"""Any image classifier of timm as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attn_bench.plugin import Model, OptionError, Problem

if TYPE_CHECKING:
    from torch import nn


class Timm(Model):
    """A model of timm as timm ships it, at the size of the images, with a classifier for their classes.

    ViT and SwinV2 in the sizes of the papers are among them: ``vit_tiny_patch16_224``, ``swinv2_tiny_window8_256``.
    Nothing is added but, before pretrained weights, the normalisation of images that they were trained with where the
    task has another.
    """

    name = "timm"
    summary = "Any image classifier of timm by its name, pretrained or not"
    kinds = frozenset({"image"})
    presets = {
        "vit-tiny": {"model": "vit_tiny_patch16_224"},
        "vit-small": {"model": "vit_small_patch16_224"},
        "swinv2-tiny": {"model": "swinv2_tiny_window8_256"},
    }
    imports = ("torch", "timm")

    def build(
        self,
        problem: Problem,
        *,
        model: str = "vit_tiny_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
    ) -> nn.Module:
        """Return timm's model.

        Args:
            model: name, with a pretrained tag or without.
            pretrained: start from timm's weights, downloaded from the hub.
            weights: start from a local .safetensors or .pth file of timm's weights.

        Raises:
            OptionError: there is no such model or file, or it does not take images of this size.
        """
        from pathlib import Path

        import timm

        if not timm.is_model(model):
            import difflib

            close = difflib.get_close_matches(model, timm.list_models(), 1)
            raise OptionError(f"timm has no model {model!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if weights is not None and not Path(weights).is_file():
            raise OptionError(f"{weights}: there is no such file of weights")
        sizes = {"in_chans": problem.inputs, "num_classes": problem.outputs}
        overlay = {"file": weights} if weights is not None else None
        load = {"pretrained": pretrained or weights is not None, "pretrained_cfg_overlay": overlay}
        try:
            module = timm.create_model(model, img_size=problem.grid, **sizes, **load)
        except TypeError:
            # Convolutional networks know no size of their images.
            module = timm.create_model(model, **sizes, **load)
        wanted = (tuple(module.pretrained_cfg["mean"]), tuple(module.pretrained_cfg["std"]))
        if load["pretrained"] and problem.normalised not in (None, wanted):
            from baselines.renormalised import Renormalised

            return Renormalised(module, problem.normalised, wanted)
        return module

    def head(self, module: nn.Module) -> nn.Module | None:
        """Return timm's classifier, if it is a single one."""
        from torch import nn

        from baselines.renormalised import Renormalised

        head = (module.model if isinstance(module, Renormalised) else module).get_classifier()
        return head if isinstance(head, nn.Module) else None

    def effective(self, module: nn.Module) -> Mapping[str, Any]:
        """Return the normalisation of images that the weights were trained with, where the task's is another."""
        from baselines.renormalised import Renormalised

        if not isinstance(module, Renormalised):
            return {}
        return {"normalised_by": {name: module.model.pretrained_cfg[name] for name in ("mean", "std")}}
