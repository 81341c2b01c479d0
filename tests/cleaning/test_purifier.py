"""The purifier that a run uses is a copy, in all its parts; its configuration sees every weight."""

import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from puretransforms import COINInterpolate
from puretransforms.cleaning.purifier import device_of, own_copy, weights_sha256


def test_the_callers_transforms_stay_as_they_are():
    for container in (v1.Compose, v2.Compose):
        coin = COINInterpolate()
        own = own_copy(container([coin]), 5, torch.device("cpu"))
        assert coin.seed is None and own.transforms[0].seed == 5


def test_weights_inside_a_compose_are_seen():
    net = torch.nn.Conv2d(3, 3, 1)
    before = weights_sha256(v2.Compose([net]))
    assert before is not None
    with torch.no_grad():
        net.weight += 1
    assert weights_sha256(v2.Compose([net])) != before
    assert weights_sha256(COINInterpolate()) is None
    assert device_of(v2.Compose([net.to("meta")])).type == "meta"
