"""Linear attention: a product of features instead of the softmax (Katharopoulos et al., arXiv:2006.16236)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
# As in the authors' code, since all features of a token can underflow to zero.
EPSILON = 1e-6


def attend_linear(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor, causal: bool = False) -> Tensor:
    """Return phi(q_i) sum_j phi(k_j) v_j^T / phi(q_i) sum_j phi(k_j) with phi = elu + 1, (B, N, heads, D).

    Equations 4, 5 and 7; with ``causal`` the sums are over j <= i (equations 8 and 9). A column of ones behind the
    values makes the denominator in the same products as the numerator.
    """
    # On the CPU a pointwise operator on a part of Q, K and V takes several times as long as copying it first.
    q, k = (F.elu(t.contiguous()).add_(1).transpose(1, 2) for t in (q_BNHD, k_BNHD))
    v = F.pad(v_BNHD.transpose(1, 2), (0, 1), value=1.0)
    sums = _causal_sums(q, k, v) if causal else q @ (k.transpose(-1, -2) @ v)
    return (sums[..., :-1] / (sums[..., -1:] + EPSILON)).transpose(1, 2)


def _causal_sums(q_BHND: Tensor, k_BHND: Tensor, v_BHNE: Tensor) -> Tensor:
    """Return sum_{j <= i} (q_i . k_j) v_j: in chunks the masked product, and the running sum of k v^T before them."""
    n = q_BHND.shape[2]
    chunk = min(CHUNK, n)
    q, k, v = (F.pad(t, (0, 0, 0, -n % chunk)).unflatten(2, (-1, chunk)) for t in (q_BHND, k_BHND, v_BHNE))
    products = k[:, :, :-1].transpose(-1, -2) @ v[:, :, :-1]
    # Shifted before summing, as subtracting a chunk's own product would leave rounding errors.
    before = F.pad(products, (0, 0, 0, 0, 1, 0)).cumsum(2)
    inside = (q @ k.transpose(-1, -2)).tril() @ v
    return (inside + q @ before.to(q.dtype)).flatten(2, 3)[:, :, :n]
