"""MANO on SwinV2 as a plugin of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from attn_bench.nn.size_checks import patch_exceeds_grid
from attn_bench.nn.timm_patches import pixels_left_out
from attn_bench.plugin import Model, OptionError, Problem

if TYPE_CHECKING:
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    from torch import nn


class MANOSwinV2(Model):
    """timm's SwinV2 with multipole attention (:func:`mano.swin.mano_swinv2`), for images.

    For masks a decoder replaces the classifier (:class:`attn_bench.nn.pyramid.Pyramid`).
    The preset ``small`` is for images of 32 x 32 and above, trained from scratch: two stages on patches of 2 x 2.
    """

    name = "mano-swinv2"
    summary = "MANO for images: timm's SwinV2 with windowed attention at several scales, pretrained or not"
    citation = "arXiv:2507.02748"
    kinds = frozenset({"image", "mask"})
    complexity = "n"
    presets = {
        "small": {
            "embed_dim": 48,
            "depths": (2, 2),
            "heads": (3, 6),
            "levels": (3, 2),
            "patch_size": 2,
            "window_size": 4,
            "zero_up": False,
        }
    }
    imports = ("torch", "timm")

    @dataclass(frozen=True)
    class Options:
        """Options of the network."""

        variant: Annotated[str, Field(description="name of timm's SwinV2")] = "swinv2_tiny_window8_256"
        levels: Annotated[tuple[int, ...], Field(description="levels of each stage")] = (3, 2, 1, 1)
        window_size: Annotated[
            int,
            Field(ge=1, description="side of a window; on smaller grids, timm uses the grid as the window"),
        ] = 8
        pretrained: Annotated[bool, Field(description="start from timm's weights, downloaded from the hub")] = False
        weights: Annotated[
            str | None, Field(description="start from a local .safetensors or .pth file of timm's weights")
        ] = None
        zero_up: Annotated[
            bool,
            Field(
                description="start with the up-sampling at zero, so that the output is initially that of timm's network"
            ),
        ] = True
        embed_dim: Annotated[
            int | None, Field(ge=1, description="channels of the first stage; the variant's if unset")
        ] = None
        depths: Annotated[tuple[int, ...] | None, Field(description="blocks of each stage; the variant's if unset")] = (
            None
        )
        heads: Annotated[
            tuple[int, ...] | None, Field(description="attention heads of each stage; the variant's if unset")
        ] = None
        patch_size: Annotated[int, Field(ge=1, description="side of a patch, in pixels")] = 4

        def __post_init__(self) -> None:
            stages = 4 if self.depths is None else len(self.depths)  # every SwinV2 of timm has four
            for name in ("depths", "heads", "levels"):
                given = getattr(self, name)
                if given is not None and (len(given) != stages or min(given) < 1):
                    raise OptionError(
                        f"{name} is {given}; it must have one number >= 1 for each of the {stages} stages"
                    )
            heads, dim = self.heads, self.embed_dim
            if dim is not None and (heads is None or any((dim << i) % n for i, n in enumerate(heads))):
                raise OptionError(
                    f"embed_dim is {dim} and heads {heads}; the heads of each stage must be given and divide its "
                    "channels, which double from stage to stage"
                )

    def build(self, problem: Problem, options: Options) -> nn.Module:
        """Return the network with a classifier for the problem, or a decoder.

        Raises:
            OptionError: an invalid value.
        """
        from mano.swin import mano_swinv2

        sizes = {"embed_dim": options.embed_dim, "depths": options.depths, "num_heads": options.heads}
        try:
            module = mano_swinv2(
                options.variant,
                levels=options.levels,
                pretrained=options.pretrained,
                weights=options.weights,
                zero_up=options.zero_up,
                img_size=problem.grid,
                window_size=options.window_size,
                patch_size=options.patch_size,
                in_chans=problem.inputs,
                num_classes=problem.outputs if problem.kind == "image" else 0,
                **{name: value for name, value in sizes.items() if value is not None},
            )
        except ValueError as error:
            raise OptionError(str(error)) from None
        if problem.kind == "image":
            return module
        from attn_bench.nn.pyramid import segmenter

        return segmenter(module, problem.outputs)

    def unsupported(self, problem: Problem, device: str, options: Options) -> str | None:
        """Return a reason if a patch is larger than the image; else None."""
        return patch_exceeds_grid(options.patch_size, problem.grid)

    def head(self, module: nn.Module) -> nn.Module | None:
        """Return timm's linear classifier."""
        return cast("SwinTransformerV2", module).get_classifier()

    def warm_up(self, module: nn.Module) -> Sequence[nn.Parameter]:
        """Return the weights of every D and U."""
        from mano.swin import multipole_parameters

        return multipole_parameters(module)

    def effective(self, module: nn.Module, problem: Problem) -> Mapping[str, Any]:
        """Return grid, window, shift and levels of each stage, and the pixels beyond the last complete patch."""
        from mano.swin import windows

        found: dict[str, Any] = {"stages": windows(module)}
        if any(rest := pixels_left_out(module)):
            found["pixels_left_out"] = rest
        return found
