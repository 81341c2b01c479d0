"""The checks of arguments: what is taken, and the sentence for the rest."""

import numpy as np
import pytest
import torch

from puretransforms.functional import checks


def refused(kind, make):
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_takes_integers_of_any_kind(value):
    found = checks.whole("steps", value, least=0, most=3, odd=True)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        (2.5, TypeError, "expected steps as a whole number of at least 0, got 2.5: pass for example 2."),
        (3.0, TypeError, "expected steps as a whole number of at least 0, got 3.0: pass for example 3."),
        ("7", TypeError, "expected steps as a whole number of at least 0, got '7': pass for example 7."),
        ("x", TypeError, "expected steps as a whole number of at least 0, got 'x': pass an int."),
        (True, TypeError, "expected steps as a whole number of at least 0, got True: pass an int."),
        (None, TypeError, "expected steps as a whole number of at least 0, got None: pass an int."),
        ([1], TypeError, "expected steps as a whole number of at least 0, got [1]: pass an int."),
        (float("nan"), TypeError, "expected steps as a whole number of at least 0, got nan: pass an int."),
        (-1, ValueError, "expected steps as a whole number of at least 0, got -1: pass for example 0."),
    ],
)
def test_whole_refuses_the_rest_in_one_sentence(value, kind, sentence):
    assert refused(kind, lambda: checks.whole("steps", value, least=0)) == sentence


def test_whole_in_a_range_and_odd():
    assert refused(ValueError, lambda: checks.whole("bits", 9, least=1, most=8)) == (
        "expected bits as a whole number from 1 to 8, got 9: pass for example 8."
    )
    assert refused(ValueError, lambda: checks.whole("k", 4, least=1, odd=True)) == (
        "expected k as an odd whole number of at least 1, got 4: pass for example 5."
    )
    assert refused(ValueError, lambda: checks.whole("k", 4, most=4, odd=True)).endswith("pass for example 3.")


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int8(1)])
def test_number_takes_reals_of_any_kind(value):
    found = checks.number("alpha", value, least=0, most=1)
    assert found == 1 and type(found) is float


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        ("2", TypeError, "'2': pass 2.0 without quotes."),
        ("x", TypeError, "'x': pass an int or a float."),
        (True, TypeError, "True: pass an int or a float."),
        (None, TypeError, "None: pass an int or a float."),
        (-1, ValueError, "-1: pass one of these."),
        (float("nan"), ValueError, "nan: pass one of these."),
        (float("inf"), ValueError, "inf: pass one of these."),
    ],
)
def test_number_refuses_the_rest_in_one_sentence(value, kind, sentence):
    expected = "expected alpha as a finite number of at least 0 in pixels, got "
    assert refused(kind, lambda: checks.number("alpha", value, least=0, unit="pixels")) == expected + sentence


def test_number_above_a_bound_and_infinite():
    assert "a number above 0 and at most 1, got 0" in refused(
        ValueError, lambda: checks.number("share", 0, above=0, most=1)
    )
    assert "a finite number above 0, got 0" in refused(ValueError, lambda: checks.number("lr", 0, above=0))
    assert checks.number("threshold", float("inf"), finite=False) == float("inf")
    refused(ValueError, lambda: checks.number("threshold", float("nan"), finite=False))


def test_choice_and_flag():
    assert checks.choice("quantize", None, ("round", None)) is None
    assert refused(ValueError, lambda: checks.choice("quantize", "floor", ("round", None))) == (
        "expected quantize to be one of round, None, got 'floor'."
    )
    refused(ValueError, lambda: checks.choice("quantize", [], ("round", None)))
    assert checks.flag("sample", True) is True
    assert refused(TypeError, lambda: checks.flag("sample", 1)) == (
        "expected sample as True or False, got 1: pass one of the two."
    )


def test_seed_and_chunk_size():
    assert checks.seed(None) is None and checks.seed(2**63 - 1) == 2**63 - 1 and type(checks.seed(np.int64(3))) is int
    assert refused(TypeError, lambda: checks.seed("x")) == (
        "expected seed as a whole number from 0 to 2**63 - 1 or None, got 'x': pass an int."
    )
    assert refused(TypeError, lambda: checks.seed("7")).endswith("pass 7 without quotes.")
    for value in (True, 1.5):
        refused(TypeError, lambda value=value: checks.seed(value))
    refused(TypeError, lambda: checks.seed(None, bits=32, optional=False))
    assert "0 to 2**32 - 1, got -1" in refused(ValueError, lambda: checks.seed(-1, bits=32, optional=False))
    assert checks.chunk_size("auto") == "auto" and checks.chunk_size(3) == 3
    assert refused(ValueError, lambda: checks.chunk_size(0)) == (
        'expected chunk_size as "auto" or a whole number of images of at least 1, got 0: pass for example 1.'
    )
    refused(TypeError, lambda: checks.chunk_size(True))
    refused(TypeError, lambda: checks.chunk_size("all"))
