"""The public surface is a decision: a new name is added here on purpose, and importing the package stays light."""

import subprocess
import sys
from pathlib import Path

import pytest

import puretransforms

SURFACE = {
    "AutoPurify",
    "BPDA",
    "BitDepthReduce",
    "COINInterpolate",
    "CleanResult",
    "DecoyNoise",
    "EBMPurify",
    "GPUTransformLoader",
    "GaussianBlur",
    "Grayscale",
    "JPEGCompress",
    "MedianBlur",
    "OrthogonalProjection",
    "PoisonedDataset",
    "PureTransform",
    "PurifierChain",
    "ScanResult",
    "UNetPurify",
    "VAEPurify",
    "clean",
    "clean_in_memory",
    "create",
    "estimate_clean",
    "get_weights",
    "list_poisons",
    "list_purifiers",
    "list_weights",
    "register",
    "scan",
    "verify",
}


def test_the_surface_is_exactly_this():
    assert set(puretransforms.__all__) == SURFACE
    assert list(puretransforms.__all__) == sorted(puretransforms.__all__)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("COIN", "COINInterpolate"),
        ("CUDA", "poisons.CUDA"),
        ("jpeg", "JPEGCompress"),
        ("PoisonDataset", "PoisonedDataset"),
    ],
)
def test_a_name_that_is_not_there_names_the_nearest(name, meant):
    with pytest.raises(AttributeError, match=rf"no attribute '{name}': did you mean puretransforms\.{meant}\?$"):
        getattr(puretransforms, name)
    assert not hasattr(puretransforms, "__wrapped__") and not hasattr(puretransforms, "qqq")


def test_every_public_name_is_documented():
    assert not [name for name in puretransforms.__all__ if not (getattr(puretransforms, name).__doc__ or "").strip()]


def test_importing_the_package_loads_no_optional_dependency():
    """In production shape annotations are plain types: jaxtyping and beartype are for the tests."""
    script = (
        "import sys\n"
        "for name in ('jaxtyping', 'beartype', 'kornia', 'sklearn', 'datasets', 'scipy', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import puretransforms, torch\n"
        "assert puretransforms.COINInterpolate()(torch.rand(3, 8, 8)).shape == (3, 8, 8)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_no_module_is_long():
    package = Path(puretransforms.__file__).parent
    assert not [path.name for path in package.rglob("*.py") if len(path.read_text().splitlines()) > 400]
