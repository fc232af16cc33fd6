"""Weights of the authors' module give the authors' numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mano import MultipoleAttention, from_authors


def authors_weights(dim, heads, head_dim):
    inner = heads * head_dim
    shapes = {
        "Attention.norm.weight": (dim,),
        "Attention.norm.bias": (dim,),
        "Attention.Attention.norm.weight": (dim,),
        "Attention.Attention.norm.bias": (dim,),
        "Attention.Attention.to_qkv.weight": (3 * inner, dim),
        "Attention.Attention.to_out.0.weight": (dim, inner),
        "Attention.Attention.to_out.0.bias": (dim,),
        "down.1.weight": (dim, dim, 2, 2),
        "up.1.weight": (dim, dim, 2, 2),
    }
    if heads == 1 and head_dim == dim:
        shapes = {key: shape for key, shape in shapes.items() if "to_out" not in key}
    return {key: 0.5 * torch.randn(shape) for key, shape in shapes.items()}


def authors_output(w, x_BHWC, heads):
    """The published computation, restated: one grid after the other, windows of 2 x 2, harmonic merging."""

    def attend(x):
        b, h, v, c = x.shape
        t = x.view(b, h // 2, 2, v // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        t = F.layer_norm(t, (c,), w["Attention.norm.weight"], w["Attention.norm.bias"])
        t = F.layer_norm(t, (c,), w["Attention.Attention.norm.weight"], w["Attention.Attention.norm.bias"])
        q, k, value = (t @ w["Attention.Attention.to_qkv.weight"].T).chunk(3, -1)
        q, k, value = (y.view(len(t), 4, heads, -1).transpose(1, 2) for y in (q, k, value))
        t = F.scaled_dot_product_attention(q, k, value).transpose(1, 2).flatten(2)
        if "Attention.Attention.to_out.0.weight" in w:
            t = F.linear(t, w["Attention.Attention.to_out.0.weight"], w["Attention.Attention.to_out.0.bias"])
        return t.view(b, h // 2, v // 2, 2, 2, c).transpose(2, 3).reshape(x.shape)

    def convolve(f, x, weight):
        return f(x.permute(0, 3, 1, 2), weight, stride=2).permute(0, 2, 3, 1)

    outputs = [attend(x_BHWC)]
    for _ in range(int(torch.tensor(x_BHWC.shape[1]).log2()) - 1):
        x_BHWC = convolve(F.conv2d, x_BHWC, w["down.1.weight"])
        outputs.append(attend(x_BHWC))
    result = outputs.pop()
    for i, o in enumerate(reversed(outputs)):
        result = o + convolve(F.conv_transpose2d, result, w["up.1.weight"]) / (i + 1)
    return result


@pytest.mark.parametrize(("heads", "head_dim"), [(4, 2), (2, 8), (1, 8)])
def test_same_numbers_as_the_authors(heads, head_dim):
    torch.manual_seed(0)
    weights = authors_weights(8, heads, head_dim)
    ours = MultipoleAttention(8, heads=heads, head_dim=head_dim)
    ours.load_state_dict(from_authors(weights))
    x = torch.randn(2, 16, 16, 8)
    torch.testing.assert_close(ours(x), authors_output(weights, x, heads), rtol=1e-5, atol=1e-4)


def test_wrong_keys_are_named():
    weights = authors_weights(8, 2, 4)
    with pytest.raises(KeyError, match=r"not among .*position\.bias"):
        from_authors(weights | {"position.bias": torch.zeros(1)})
    del weights["up.1.weight"]
    with pytest.raises(KeyError, match=r"missing .*up\.1\.weight"):
        from_authors(weights)
    with pytest.raises(KeyError, match="missing"):
        from_authors(nn.Linear(2, 2).state_dict())
