"""The weights that have a name: what they are, where they come from, and the hashes that pin them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ..errors import WeightsUnavailableError
from .files import CONFIG, WEIGHTS, LoadedWeights

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class PurifierWeights:
    """One named entry.

    Attributes:
        name: what :func:`get_weights` and the transforms take.
        transform: the class that it is for.
        repo_id: repo on the Hugging Face Hub.
        revision: commit of that repo; ``None`` as long as it has not been pushed.
        sha256: of the files, by file name: model.safetensors and config.json.
        image_size: side of the training images in pixels.
        sizes: the shortest and the longest side of images that they are for, in pixels; outside, a purifier warns.
        training_data: what it was trained on, in a sentence.
        license: of the weights, an SPDX name in lower case.
        paper: the method's, ``arXiv:...``.
        summary: what it is and what it is not good for, in a few sentences.
        metrics: measured values by name, on ``measured_on``.
        metrics_note: what the values mean, in a sentence or two.
        datasets: ids on the Hub of the data sets that it was trained on, if they are there.
        recipe: how to make it again.
    """

    name: str
    transform: str
    repo_id: str
    revision: str | None
    sha256: Mapping[str, str]
    image_size: int
    sizes: tuple[int, int]
    training_data: str
    license: str
    paper: str
    summary: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured_on: str = "held-out images"
    metrics_note: str = ""
    datasets: tuple[str, ...] = ()
    recipe: str = "`recipe.py`, which lies beside the weights"

    def folder(self) -> Path | None:
        """Where the package (or the checkout that it is installed from) carries it; ``None`` where it does not."""
        for root in (_PACKAGE, _PACKAGE.parent):
            folder = root / "weights" / self.name
            if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
                return folder
        return None


_EBM_SMALL_32 = PurifierWeights(
    name="ebm-small-32",
    transform="EBMPurify",
    repo_id="puretransforms/ebm-small-32",
    revision=None,
    sha256={
        "config.json": "68386a4d3c4bd8daaea0ffd237ad88f5be7666473cc3958fe9247ed575e6cf07",
        "model.safetensors": "ff439ddfc6158f8e2389b0c98cc761ef03980966aee77f77dd0130955d6dd6c3",
    },
    image_size=32,
    sizes=(16, 64),
    training_data=(
        "47,500 random crops, downscaled to 32 x 32, of 950 photographs of 256 x 256 pixels, one for each of 950 "
        "classes of ImageNet; no CIFAR"
    ),
    datasets=("ILSVRC/imagenet-1k",),
    license="apache-2.0",
    paper="arXiv:2405.19376, arXiv:2405.18627",
    summary=(
        "A small energy network (181,584 parameters) for small images and CPUs, trained by denoising score matching "
        "for 18,000 updates of 64 minutes on one CPU thread. It is no copy of the published PureGen weights, which are "
        "six times larger and trained by maximum likelihood, and their published figures are not its own."
    ),
    metrics={
        "psnr_25_steps": 28.54,
        "gain_pixel_signs_25_steps": 0.1426,
        "gain_block_signs_25_steps": 0.4629,
        "psnr_75_steps": 23.23,
        "gain_pixel_signs_75_steps": 0.0605,
        "gain_block_signs_75_steps": 0.2866,
        "energy_auroc_pixel_signs": 0.931,
        "energy_auroc_block_signs": 0.6695,
    },
    measured_on="crops of held-out photographs",
    metrics_note=(
        "100 crops. psnr: of purified against clean images. gain: how much of a perturbation of 8/255 is left, random "
        "signs for each pixel or 4 x 4 block, 1 being all. auroc: of the energy, perturbed against clean."
    ),
    recipe="`python recipe.py --photos PHOTOS --updates 18000 --threads 1 --seed 0`",
)

_VAE_SMALL_32 = PurifierWeights(
    name="vae-small-32",
    transform="VAEPurify",
    repo_id="puretransforms/vae-small-32",
    revision=None,
    sha256={
        "config.json": "91f4272af3a110eb6348c389fd6fec8ea0d03eba7eab3f09709ec129e3b6a507",
        "model.safetensors": "6e61587b3c4ba2b222edfaa4c8eaf659ad30667c7f58b22ba79c5eebca87af25",
    },
    image_size=32,
    sizes=(16, 64),
    training_data=(
        "47,500 random crops, downscaled to 32 x 32, of 950 photographs of 256 x 256 pixels, one for each of 950 "
        "classes of ImageNet; no CIFAR, no poison, no labels"
    ),
    datasets=("ILSVRC/imagenet-1k",),
    license="apache-2.0",
    paper="arXiv:2405.01460",
    summary=(
        "A learned image codec of about one bit per pixel (167,779 parameters): a rate-limited autoencoder, the "
        "label-free half of D-VAE, trained on clean photographs for 6,678 updates of 21 minutes on one CPU thread. It "
        "is not D-VAE, which fits to the poisoned set itself (`VAEPurify.fit`), and D-VAE's published figures are not "
        "its own. At equal PSNR it leaves less of the three perturbations below than JPEG does. But its rate is fixed, "
        "and JPEG-10 leaves about half as much of the two fine ones, at 4 dB less: where you can afford that, JPEG-10 "
        "is the stronger purifier. Images unlike photographs lose far more: a synthetic picture of smooth waves of "
        "colour came back with other colours. Its effect on the accuracy of a classifier has not been measured."
    ),
    metrics={
        "bits_per_pixel": 1.068,
        "psnr": 26.13,
        "gain_pixel_signs": 0.1342,
        "gain_block_signs": 0.4795,
        "gain_tap": 0.2366,
        "jpeg_30_psnr": 25.19,
        "jpeg_30_gain_pixel_signs": 0.1356,
        "jpeg_30_gain_block_signs": 0.5491,
        "jpeg_30_gain_tap": 0.2256,
        "jpeg_50_psnr": 26.55,
        "jpeg_50_gain_pixel_signs": 0.1746,
        "jpeg_50_gain_block_signs": 0.6176,
        "jpeg_50_gain_tap": 0.299,
        "jpeg_10_psnr": 22.2,
        "jpeg_10_gain_pixel_signs": 0.0761,
        "jpeg_10_gain_block_signs": 0.3921,
        "jpeg_10_gain_tap": 0.1152,
    },
    measured_on="crops of held-out photographs",
    metrics_note=(
        "500 crops. psnr: of purified against clean images. gain: how much of a perturbation of 8/255 is left, 1 being "
        "all: random signs for each pixel or 4 x 4 block, and the published TAP poison (Fowl et al. 2021) on 1,017 of "
        "the CIFAR-10 images that it was made for. jpeg_Q: JPEG of quality Q instead."
    ),
    recipe="`python recipe.py --photos PHOTOS --epochs 9 --pairs TAP.npz --threads 1 --seed 0`",
)

_UNET_SMALL = PurifierWeights(
    name="unet-small",
    transform="UNetPurify",
    repo_id="puretransforms/unet-small",
    revision=None,
    sha256={
        "config.json": "978ab012fd85678cec549874319253d526fae0fdb1b0cf51f6ddb4bb484d213d",
        "model.safetensors": "69d84f0094df07af04af7b2a20ea8426b86eb9809ed3123b203aa98389615d8d",
    },
    image_size=32,
    sizes=(16, 256),
    training_data=(
        "23,000 images of CIFAR-100 and 22,800 random crops, downscaled to 32 x 32, of 950 photographs of 256 x 256 "
        "pixels, one for each of 950 classes of ImageNet; no CIFAR-10, no poison, no labels"
    ),
    datasets=("ILSVRC/imagenet-1k", "uoft-cs/cifar100"),
    license="apache-2.0",
    paper="arXiv:1710.04026",
    summary=(
        "A small residual U-Net (221,068 parameters) that purifies in one pass and is told how strongly, apart for "
        "luma and chroma. It was stopped after 3,250 updates of 32 images, about a quarter of an hour of one CPU "
        "thread, before its rate had fallen: a longer training would do better. On 128 images of CIFAR-10 it leaves "
        "less of every poison measured than JPEG of equal PSNR, from 25 to 35 dB. Its effect on the accuracy of a "
        "classifier has not been measured, and its default strengths have not been chosen by it. Photographs of 224 "
        "pixels keep their mean colour within 2.1/255 in each channel; a pattern with a period of two pixels, up to "
        "1/255 high, is left in them."
    ),
    metrics={
        "psnr_8_8": 38.68,
        "gain_pixel_signs_8_8": 0.4994,
        "gain_block_signs_8_8": 0.7405,
        "psnr_16_16": 34.64,
        "gain_pixel_signs_16_16": 0.3177,
        "gain_block_signs_16_16": 0.6002,
        "psnr_25_25": 31.58,
        "gain_pixel_signs_25_25": 0.1954,
        "gain_block_signs_25_25": 0.4816,
        "psnr_40_40": 28.33,
        "gain_pixel_signs_40_40": 0.0872,
        "gain_block_signs_40_40": 0.3488,
        "psnr_60_60": 25.83,
        "gain_pixel_signs_60_60": 0.0278,
        "gain_block_signs_60_60": 0.25,
        "psnr_16_75": 29.53,
        "gain_pixel_signs_16_75": 0.1743,
        "gain_block_signs_16_75": 0.321,
        "psnr_jpeg_10": 22.24,
        "gain_pixel_signs_jpeg_10": 0.0724,
        "gain_block_signs_jpeg_10": 0.3703,
        "psnr_jpeg_30": 25.16,
        "gain_pixel_signs_jpeg_30": 0.1328,
        "gain_block_signs_jpeg_30": 0.5413,
        "psnr_jpeg_75": 28.46,
        "gain_pixel_signs_jpeg_75": 0.2478,
        "gain_block_signs_jpeg_75": 0.7042,
    },
    measured_on="crops of held-out photographs",
    metrics_note=(
        "100 crops. psnr: of purified against clean images. gain: how much of a perturbation of 8/255 is left, random "
        "signs for each pixel or 4 x 4 block, 1 being all. The numbers at the end are the strengths of luma and "
        "chroma; jpeg_Q: JPEG of quality Q instead."
    ),
    recipe="`python recipe.py --photos PHOTOS --npz CIFAR100.npz --updates 7500 --threads 1 --seed 0`, stopped",
)

_ENTRIES: dict[str, PurifierWeights] = {entry.name: entry for entry in (_EBM_SMALL_32, _UNET_SMALL, _VAE_SMALL_32)}


def list_weights() -> list[str]:
    """Names of all registered weights, sorted."""
    return sorted(_ENTRIES)


def get_weights(name: str) -> PurifierWeights:
    """The entry of that name.

    Raises:
        WeightsUnavailableError: there is none.
    """
    if name not in _ENTRIES:
        near = get_close_matches(name, _ENTRIES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise WeightsUnavailableError(
            f"expected one of {', '.join(map(repr, list_weights())) or 'none registered'}, got {name!r}.{hint}"
        )
    return _ENTRIES[name]


def registered_as(sha256: str) -> PurifierWeights | None:
    """The entry whose model.safetensors has this hash, wherever it was loaded from; ``None`` for any other."""
    return next((entry for entry in _ENTRIES.values() if entry.sha256.get(WEIGHTS) == sha256), None)


def sizes_for(loaded: LoadedWeights) -> tuple[int, int] | None:
    """The shortest and the longest side of images that weights are for: what their config says, else the registry."""
    entry = registered_as(loaded.sha256)
    return loaded.sizes or (entry.sizes if entry else None)
