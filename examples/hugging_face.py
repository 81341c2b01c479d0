"""Purify a Hugging Face dataset when it is read, with ``with_transform``; or once, with ``clean_in_memory``.

Where it runs: ``with_transform`` at every access, in whichever process reads; ``clean_in_memory`` once.
What it costs: ``with_transform`` takes a call for every image read. What ``clean_in_memory`` gives costs nothing
afterwards, and keeps the features; ``dataset.map(COINInterpolate(seed=0), batched=True)`` does too.
"""

import sys

from datasets import load_dataset

from puretransforms import COINInterpolate
from puretransforms.cleaning.clean import clean_in_memory


def main(folder: str) -> tuple:
    """The first image of ``folder`` purified at access, and purified once: two PIL images."""
    source = load_dataset("imagefolder", data_dir=folder, split="train")
    lazy = source.with_transform(COINInterpolate())
    once = clean_in_memory(source, COINInterpolate(), progress=False)
    assert once.features == source.features
    return lazy[0]["image"], once[0]["image"]


if __name__ == "__main__":
    print(main(sys.argv[1]))
