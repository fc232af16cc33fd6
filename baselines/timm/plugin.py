"""Any image classifier of timm as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from attn_bench.nn.timm_patches import check_patches, pixels_left_out
from attn_bench.plugin import Model, Normalisation, OptionError, Problem

if TYPE_CHECKING:
    from torch import nn


# Families whose stages need images with a minimum side, or sides that are multiples of a number.
SIDES = {"focalnet": (32, 1), "maxvit": (32, 1), "hiera": (32, 32)}


class Timm(Model):
    """An unchanged model of timm, at the size of the images, with a classifier for their classes.

    This includes ViT and SwinV2 in the sizes of the papers: ``vit_tiny_patch16_224``, ``swinv2_tiny_window8_256``.
    Two things are added: pretrained models get images normalized as in their training, if the task normalizes
    differently; for masks, a decoder replaces the classifier (:class:`attn_bench.nn.pyramid.Pyramid`).

    Attention that grows less than the square of an image's points: ``focalnet`` (focal modulation, arXiv:2203.11926),
    ``maxvit`` (windows and grids, arXiv:2204.01697), ``xcit`` (between channels, arXiv:2106.09681), ``efficientvit``
    (linear, arXiv:2205.14756), ``hiera`` (pooled, arXiv:2306.00989) and ``pvtv2`` (pooled keys, arXiv:2106.13797).
    """

    name = "timm"
    summary = "Any image classifier of timm by name, pretrained or not; with a light decoder for masks"
    kinds = frozenset({"image", "mask"})
    presets = {
        "vit-tiny": {"model": "vit_tiny_patch16_224"},
        "vit-small": {"model": "vit_small_patch16_224"},
        "swinv2-tiny": {"model": "swinv2_tiny_window8_256"},
        "focalnet": {"model": "focalnet_tiny_srf"},
        "maxvit": {"model": "maxvit_tiny_tf_224"},
        "xcit": {"model": "xcit_nano_12_p8_224"},
        "efficientvit": {"model": "efficientvit_b0"},
        "hiera": {"model": "hiera_tiny_224"},
        "pvtv2": {"model": "pvt_v2_b0"},
    }
    imports = ("torch", "timm")

    @dataclass(frozen=True)
    class Options:
        """Options of timm's model."""

        model: Annotated[str, Field(description="name of the model, with or without a pretrained tag")] = (
            "vit_tiny_patch16_224"
        )
        pretrained: Annotated[bool, Field(description="start from timm's weights, downloaded from the hub")] = False
        weights: Annotated[
            str | None, Field(description="start from a local .safetensors or .pth file of timm's weights")
        ] = None

    def build(self, problem: Problem, options: Options) -> nn.Module:
        """Return timm's model.

        Raises:
            OptionError: there is no such model, its weights are not available, or its patches do not fit the images.
        """
        import timm

        from attn_bench.nn.pretrained import create_timm

        if not timm.is_model(options.model):
            import difflib

            close = difflib.get_close_matches(options.model, timm.list_models(), 1)
            raise OptionError(
                f"timm has no model {options.model!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        is_mask = problem.kind == "mask"
        settings: dict[str, Any] = {
            "pretrained": options.pretrained,
            "weights": options.weights,
            "in_chans": problem.inputs,
            "num_classes": 0 if is_mask else problem.outputs,
        }
        try:
            try:
                module = create_timm(options.model, img_size=problem.grid, **settings)
            except TypeError:
                # Convolutional networks have no parameter for the image size.
                module = create_timm(options.model, **settings)
        except ValueError as error:
            raise OptionError(str(error)) from None
        check_patches(module, problem.grid)
        trained_with = cast("Mapping[str, Any]", module.pretrained_cfg)
        wanted = Normalisation(tuple(trained_with["mean"]), tuple(trained_with["std"]))
        if is_mask:
            from attn_bench.nn.pyramid import segmenter

            module = segmenter(module, problem.outputs)
        if (options.pretrained or options.weights is not None) and problem.normalised not in (None, wanted):
            from attn_bench.nn.renormalised import Renormalised

            return Renormalised(module, problem.normalised, wanted)
        return module

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if images are too small for the stages of this family, or cannot be halved; else None."""
        for family, (least, multiple) in SIDES.items():
            if options.model.startswith(family) and any(n < least or n % multiple for n in problem.grid):
                size = " x ".join(map(str, problem.grid))
                wanted = f"multiples of {multiple}" if multiple > 1 else f">= {least}"
                return f"the sides of images must be {wanted} for {options.model}; they are {size}"
        return None

    def head(self, module: nn.Module) -> nn.Module | None:
        """Return timm's classifier, if it is a single one."""
        from torch import nn

        from attn_bench.nn.renormalised import Renormalised

        network: Any = module.model if isinstance(module, Renormalised) else module
        head = network.get_classifier()
        return head if isinstance(head, nn.Module) else None

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return the normalization of images that the weights were trained with, if the task has another.

        Also return the rows and columns of pixels beyond the last complete patch, which the network ignores.
        """
        from attn_bench.nn.renormalised import Renormalised

        found: dict[str, Any] = {}
        if isinstance(module, Renormalised):
            found["normalised_by"] = module.wanted._asdict()
        if any(rest := pixels_left_out(module)):
            found["pixels_left_out"] = rest
        return found
