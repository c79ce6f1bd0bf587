"""Low-shot subsets: stratified, reproducible, nested."""

import pytest
import torch

from hf_jepa.evaluation.low_shot import low_shot_indices


LABELS = torch.tensor([4] * 300 + [0] * 120 + [9] * 7)[torch.randperm(427, generator=torch.Generator().manual_seed(5))]


def counts(index):
    values, n = LABELS[index].unique(return_counts=True)
    return dict(zip(values.tolist(), n.tolist(), strict=True))


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.01, {0: 1, 4: 3, 9: 1}),
        (0.03, {0: 4, 4: 9, 9: 1}),  # 3.6 rows of class 0 are rounded
        (0.1, {0: 12, 4: 30, 9: 1}),
    ],
)
def test_fraction_of_each_class_and_at_least_one(fraction, expected):
    assert counts(low_shot_indices(LABELS, fraction=fraction)) == expected


def test_per_class():
    index = low_shot_indices(LABELS, per_class=7)
    assert counts(index) == {0: 7, 4: 7, 9: 7}
    assert index.unique().tolist() == index.tolist()  # ascending, without repeats


def test_everything_is_everything():
    assert low_shot_indices(LABELS, fraction=1.0).tolist() == list(range(427))


def test_same_seed_same_rows_other_seed_other_rows():
    a, b = low_shot_indices(LABELS, per_class=5), low_shot_indices(LABELS.tolist(), per_class=5)
    assert torch.equal(a, b)
    assert not torch.equal(a, low_shot_indices(LABELS, per_class=5, seed=1))


def test_larger_subsets_contain_smaller_ones():
    small, large = (set(low_shot_indices(LABELS, fraction=f, seed=3).tolist()) for f in (0.01, 0.1))
    assert small < large


def test_every_row_can_be_chosen():
    seen = torch.cat([low_shot_indices(LABELS, per_class=7, seed=s) for s in range(400)]).bincount(minlength=427)
    assert seen.min() > 0
    of_large_class = seen[LABELS == 4].double()
    assert of_large_class.mean() == pytest.approx(400 * 7 / 300)
    assert of_large_class.std() < 2 * (400 * 7 / 300) ** 0.5  # no row is favoured


def test_refusals_name_the_offender():
    with pytest.raises(ValueError, match="per_class is 8, but class 9 has only 7 rows"):
        low_shot_indices(LABELS, per_class=8)
    with pytest.raises(ValueError, match="either fraction or per_class"):
        low_shot_indices(LABELS)
    with pytest.raises(ValueError, match="either fraction or per_class"):
        low_shot_indices(LABELS, fraction=0.1, per_class=1)
    with pytest.raises(ValueError, match="fraction is 10"):
        low_shot_indices(LABELS, fraction=10)
    with pytest.raises(TypeError, match="per_class must be a whole number, got 1.5"):
        low_shot_indices(LABELS, per_class=1.5)
    with pytest.raises(ValueError, match="per_class is 0"):
        low_shot_indices(LABELS, per_class=0)
    with pytest.raises(ValueError, match="empty"):
        low_shot_indices([], per_class=1)
