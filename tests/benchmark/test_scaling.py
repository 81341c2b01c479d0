"""The cost model behaves as its formulas say, and the pages hold what the result files give."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments"
COSTS = {"list": 20.0, "read": 100.0, "purify": 50.0, "write": 200.0, "commit": 60.0, "conclude": 10.0}


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", BENCHMARKS / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cores_share_everything_but_listing_and_manifest(scaling):
    assert scaling.seconds_on_cores(COSTS, 1e6, 1) == pytest.approx(440)
    assert scaling.seconds_on_cores(COSTS, 1e6, 41) == pytest.approx(30 + 10)
    assert scaling.seconds_on_cores(COSTS, 3e6, 41) == pytest.approx(3 * 40)


def test_the_slower_of_gpu_and_codecs_decides(scaling):
    codecs = 360 / scaling.CORES_PER_GPU
    rate = scaling.break_even(COSTS)
    assert rate == pytest.approx(1e6 / codecs)
    for factor, seconds in ((0.5, 2 * codecs), (1, codecs), (100, codecs)):
        assert scaling.seconds_on_gpus(COSTS, 1e6, 1, factor * rate) == pytest.approx(30 + seconds)
    times = [scaling.seconds_on_gpus(COSTS, 1e8, gpus, 1000) for gpus in scaling.GPUS]
    assert times == sorted(times, reverse=True)
    assert times[0] - times[1] == pytest.approx(1e5 * 7 / 8)  # one node either way: the same listing
    assert times[1] == pytest.approx(8 * times[2])  # eight nodes: all of it shared


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (200, "3.3 min"), (7100, "118 min"), (90000, "25 h"), (1e7, "116 d")]
)
def test_durations_are_readable(scaling, seconds, text):
    assert scaling._duration(seconds) == text


def test_a_table_stands_between_its_comments(scaling):
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert scaling.written(page, {"x": "new"}) == "a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb\n"
    with pytest.raises(SystemExit, match="one place for the table y"):
        scaling.written(page, {"y": "new"})


def test_the_pages_hold_what_the_result_files_give(scaling):
    for page, filled in scaling.tables().items():
        text = (BENCHMARKS.parent / "docs" / page).read_text()
        assert scaling.written(text, filled) == text, f"run python experiments/scaling.py: {page} is out of date"
