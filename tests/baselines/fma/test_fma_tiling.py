"""Near field and interaction lists cover every allowed pair of tokens exactly once."""

import pytest
import torch

from baselines.fma.tiling import ancestors, cells_of, interaction_lists, level_count, near_lists

LENGTHS = [1, 16, 17, 31, 64, 100, 129, 255, 256, 1000, 1024, 1537, 2048, 3000, 4095, 4096]
GRIDS = [(4, 4), (5, 7), (8, 8), (1, 64), (16, 16), (33, 9), (43, 43), (64, 64), (50, 61)]


def token_cells(grid, side):
    """The cell of every token, row by row."""
    number = torch.zeros(grid, dtype=torch.long)
    for axis, cells in enumerate(cells_of(grid, side)):
        along = (torch.arange(grid[axis]) // side).view([-1 if a == axis else 1 for a in range(len(grid))])
        number = number * cells + along
    return number.flatten()


def block_lists(fine, causal):
    """The cells that every fine cell sees: its near field, then its interaction lists of level 1, 2, ..."""
    yield near_lists(fine, causal)
    for level in range(1, level_count(fine) + 1):
        yield interaction_lists(cells_of(fine, 2 ** (level - 1)), causal)[ancestors(fine, level)]


def coverage(grid, side, causal):
    """How often every token (column) is among those that the fine cell of a query (row of cells) sees."""
    fine = cells_of(grid, side)
    counts = 0
    for level, lists in enumerate(block_lists(fine, causal)):
        width = side * 2 ** max(level - 1, 0)
        seen = torch.zeros(len(lists), max(lists.max() + 1, token_cells(grid, width).max() + 1) + 1, dtype=torch.int)
        seen.scatter_add_(1, lists.where(lists >= 0, seen.shape[1] - 1), torch.ones_like(lists, dtype=torch.int))
        counts = counts + seen[:, token_cells(grid, width)]
    return counts


@pytest.mark.parametrize("side", [2, 8, 16])
@pytest.mark.parametrize("n", LENGTHS)
def test_bidirectional_lists_cover_every_token_once(n, side):
    assert (coverage((n,), side, False) == 1).all()


@pytest.mark.parametrize("side", [2, 8, 16])
@pytest.mark.parametrize("n", LENGTHS)
def test_causal_lists_cover_the_past_once_and_nothing_else(n, side):
    own = token_cells((n,), side)
    allowed = own[None] <= torch.arange(-(-n // side))[:, None]  # the mask within the own block does the rest
    assert torch.equal(coverage((n,), side, True), allowed.int())


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_quadtree_lists_cover_every_token_once(grid, side):
    assert (coverage(grid, side, False) == 1).all()


def test_lists_are_those_of_the_paper():
    def cells(lists, a):
        return sorted(j for j in lists[a].tolist() if j >= 0)

    causal, both = interaction_lists((16,), causal=True), interaction_lists((16,))
    assert cells(causal, 8) == [6]
    assert cells(causal, 9) == [6, 7]
    assert cells(causal, 0) == cells(causal, 1) == []
    assert cells(both, 8) == [6, 10, 11]
    assert cells(both, 9) == [6, 7, 11]
    assert cells(near_lists((16,), causal=True), 5) == [4, 5]
    assert cells(near_lists((16,)), 15) == [14, 15]
    assert interaction_lists((8, 8)).shape == (64, 27)
    assert (interaction_lists((8, 8)) >= 0).sum(1).max() == 27


@pytest.mark.parametrize(("blocks", "levels"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (1024, 9)])
def test_as_few_levels_as_suffice(blocks, levels):
    assert level_count((blocks,)) == level_count((2, blocks)) == levels
