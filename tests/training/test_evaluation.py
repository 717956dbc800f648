"""Predictions of a model, and the model afterwards."""

import torch
from torch import nn

from kdinpaint.training.evaluation import predict_pairs


class Parts(nn.Module):
    """A network of which one part is frozen in eval mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.dropout = nn.Conv2d(3, 3, 1), nn.Dropout().eval()

    def forward(self, image, mask):
        assert not any(part.training for part in self.modules())
        assert not torch.is_grad_enabled()
        return self.conv(image)


def test_predictions_leave_every_mode_as_it_was_between_batches_too():
    net, pairs = Parts(), [{"image": torch.rand(3, 4, 4), "mask": torch.ones(1, 4, 4)} for _ in range(3)]
    for _, prediction in predict_pairs(net, pairs, batch=2):
        assert prediction.shape[1:] == (3, 4, 4)
        assert torch.is_grad_enabled()
    assert [net.training, net.conv.training, net.dropout.training] == [True, True, False]
