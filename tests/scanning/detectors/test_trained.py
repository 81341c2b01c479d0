"""The two detectors that ask a trained network: evidence, never an alarm."""

import pytest
import torch

from puretransforms.data.samples import LabelledImages
from puretransforms.functional.detect.ranking import higher_than_rest
from puretransforms.scanning.detectors.trained import PREDICTED, WHOLE, ClassPattern, Energy
from puretransforms.scanning.sample import gather
from puretransforms.scanning.scan import scan
from puretransforms.scanning.source import open_stream
from puretransforms.transforms.vae import VAEPurify

from ..conftest import make_pictures


def sample_of(data):
    stream = open_stream(data, None, 0, 1)
    return gather(stream.items, stream.classes, stream.total)


class Seer(VAEPurify):
    """Fitted, as it says, and sees in every image of label 7 a fine pattern of 8 levels and 40 levels of brightness."""

    def __init__(self, **options):
        super().__init__(weights=None, width=4, latent=8, num_classes=8, **options)

    def perturbation(self, images, labels):
        fine = 8 - 16 * (torch.arange(images.shape[3]) % 2)  # columns of +8 and -8
        return (labels == 7).float()[:, None, None, None] * (40 + fine).expand(1, *images.shape[1:]) / 255


@pytest.fixture(scope="module")
def noisy(pictures):
    """Noise of 8 levels on a third of the images of class 2."""
    images, rows = pictures.images.clone(), (pictures.targets == 2).nonzero()[:33, 0]
    noise = torch.randn(33, 3, 32, 32, generator=torch.Generator().manual_seed(0)).sign() * 8
    images[rows] = (images[rows].float() + noise).clamp(0, 255).to(torch.uint8)
    return LabelledImages(images, pictures.targets), rows


def test_unnatural_images_rank_high_in_their_class_and_raise_no_alarm(noisy):
    data, rows = noisy
    result = scan(data, progress=False)
    (found,) = (f for f in result.findings if f.name == "energy")
    assert not found.alarm and found.silent and found.suspects == []
    assert "energy            evidence only" in str(result)
    ranked = torch.empty(400)
    ranked[torch.tensor([int(name) for name in result.sample.names])] = found.images
    carriers = torch.zeros(400, dtype=torch.bool)
    carriers[rows] = True
    of_class = data.targets == 2
    assert higher_than_rest(ranked[of_class], carriers[of_class]) > 0.9
    assert max(found.classes, key=found.classes.__getitem__) == "2"


def test_energy_of_tiles_and_of_few_images():
    large = sample_of(make_pictures(80, side=80, classes=2))
    found = Energy()(large)
    assert large.tiled and set(found.classes) == {"0", "1"} and not found.images.isnan().any()
    found = Energy(ranked=70)(large)
    assert int(found.images.isnan().sum()) == 10 and found.classes
    assert "two classes" in Energy(ranked=20)(large).untested


def test_energy_without_weights_is_not_tested(pictures):
    sample = sample_of(pictures)
    assert "no energy-based model" in Energy(ebm=None)(sample).untested
    assert "no weights" in Energy(ebm="no-such-weights")(sample).untested


def test_the_class_pattern_of_a_fit_is_measured_with_the_labels_of_the_source(pictures):
    data = LabelledImages(pictures.images, torch.tensor([0, 3, 6, 7])[pictures.targets])
    result = scan(data, progress=False, ebm=None, vae=Seer())
    (found,) = (f for f in result.findings if f.name == "class pattern")
    assert not found.untested and not found.alarm and result.verdict.kind == "none found"
    assert found.classes["7"] == pytest.approx(6) and found.classes["0"] == pytest.approx(2)  # a quarter is common
    size = (40**2 + 8**2) ** 0.5
    assert found.score == pytest.approx(6) and found.evidence[WHOLE] == pytest.approx(0.75 * size)
    assert found.evidence[PREDICTED] == pytest.approx(size / 4)
    seven = result.sample.labels == result.sample.classes.index("7")
    assert torch.allclose(found.images[seven], torch.tensor(size)) and (found.images[~seven] == 0).all()


def test_a_network_that_was_not_trained_predicts_something(pictures):
    sample = sample_of(pictures)
    vae = VAEPurify(weights=None, width=4, latent=8, num_classes=4, seed=0)
    wanted = vae.perturbation(sample.pixels, sample.labels) * 255
    assert torch.allclose(ClassPattern(vae=vae)(sample).images, wanted.square().mean((1, 2, 3)).sqrt(), rtol=1e-3)


@pytest.mark.parametrize(
    ("vae", "labels", "why"),
    [
        (None, 4, "no fit given"),
        (VAEPurify(weights=None, width=4, latent=8), 4, "not fitted with labels"),
        (Seer(size=16), 4, "16 x 16"),
        (Seer(), 9, "labels below 8"),
        (Seer(), 1, "two classes"),
    ],
    ids=["none", "unlabelled", "size", "labels", "one class"],
)
def test_without_a_fit_to_this_data_it_is_not_tested(pictures, vae, labels, why):
    found = ClassPattern(vae=vae)(sample_of(LabelledImages(pictures.images, torch.arange(400) % labels)))
    assert why in found.untested and not found.classes


def test_a_fit_that_numbers_the_classes_otherwise_is_refused_by_name(pictures):
    data = LabelledImages(pictures.images, pictures.targets, ["2", "10", "cat", "dog"])
    same, other = Seer(classes=["2", "10", "cat", "dog"]), Seer(classes=["10", "2", "cat", "dog"])
    same.num_classes = other.num_classes = 4
    assert not ClassPattern(vae=same)(sample_of(data)).untested
    assert "its 0 is '10', that of the sample '2'" in ClassPattern(vae=other)(sample_of(data)).untested
