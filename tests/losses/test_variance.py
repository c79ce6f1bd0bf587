"""The floor under the spread of V-JEPA's predictions."""

import torch

from hf_jepa.losses.variance import prediction_std, variance_loss


def test_only_what_lacks_to_one_counts():
    std = torch.tensor([[0.5, 3.0], [1.0, 0.0]], requires_grad=True)
    loss = variance_loss(std)
    loss.backward()
    assert loss.item() == (0.5 + 1.0) / 4
    assert std.grad[0].tolist() == [-0.25, 0.0] and std.grad[1, 1] == -0.25


def test_predictions_that_are_all_alike():
    alike = torch.full((2, 5, 3), 7.0)
    torch.testing.assert_close(prediction_std([alike]), torch.full((2, 3), 0.01))  # the root of 1e-4
    assert prediction_std([alike.bfloat16()]).dtype == torch.float32
