"""What the registry knows about weights goes with them: the sizes that they are for, and the facts of their card."""

import copy
import warnings

import pytest
import torch

from puretransforms import EBMPurify, VAEPurify
from puretransforms.errors import SizeError, SizeWarning, WeightsCorruptedError
from puretransforms.hub.weights import get_weights

BOTH = pytest.mark.parametrize(("kind", "name"), [(EBMPurify, "ebm-small-32"), (VAEPurify, "vae-small-32")])


@BOTH
def test_sizes_of_the_weights_pass(kind, name):
    purifier, (low, high) = kind(), get_weights(name).sizes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        purifier._check_size(32, 32)
        purifier._check_size(low, high)


def test_sizes_far_from_those_of_the_energy_are_warned_of_once():
    purifier, (low, high) = EBMPurify(), get_weights("ebm-small-32").sizes
    words = f"224 x 224 pixels, but its weights are for sides from {low} to {high} pixels"
    with pytest.warns(SizeWarning, match=words) as seen:
        purifier._check_size(224, 224)
        purifier._check_size(224, 224)
    assert len(seen) == 1
    for sides in ((low - 1, 32), (32, high + 1)):
        with pytest.warns(SizeWarning):
            copy.deepcopy(purifier)._check_size(*sides)


def test_the_codec_refuses_sizes_far_from_those_of_its_weights():
    purifier, (low, high) = VAEPurify(), get_weights("vae-small-32").sizes
    for sides in ((224, 224), (low - 1, 32), (32, high + 1)):
        with pytest.raises(SizeError, match=f"sides from {low} to {high} pixels.*got {sides[0]} x {sides[1]}.*UNet"):
            purifier(torch.zeros(3, *sides))


def test_untrained_networks_and_purifiers_without_weights_are_for_any_size():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EBMPurify(weights=None, nf=8)._check_size(224, 224)
        VAEPurify(weights=None, width=8, latent=8)._check_size(1, 1)


def test_saved_copies_keep_the_sizes_also_with_other_weights(tmp_path):
    purifier = EBMPurify()
    with torch.no_grad():
        next(purifier.net.parameters()).add_(0.01)
    purifier.save_pretrained(tmp_path)
    again = EBMPurify.from_pretrained(tmp_path)
    with pytest.warns(SizeWarning):
        again._check_size(224, 224)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("16,", '"16",'))
    with pytest.raises(WeightsCorruptedError, match="two whole numbers of pixels, got"):
        EBMPurify.from_pretrained(tmp_path)


@BOTH
def test_a_saved_card_says_what_is_registered(kind, name, tmp_path):
    purifier, entry = kind(), get_weights(name)
    purifier.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "not said" not in card
    assert all(text in card for text in (entry.training_data, entry.license, "32 x 32 pixels", entry.recipe))
    own = str(purifier.generate_model_card(training_data="my own photographs"))
    assert "my own photographs" in own and entry.training_data not in own
    with torch.no_grad():
        next(purifier.net.parameters()).add_(0.01)  # trained further: what is registered is true no more
    changed = str(purifier.generate_model_card())
    assert "not said" in changed and entry.training_data not in changed
