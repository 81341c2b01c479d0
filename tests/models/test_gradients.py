"""Gradients of every network: ``channels_last`` equals contiguous, at few channels too, on every kind of CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from puretransforms.models.resnet import PointwiseConv2d

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "gradient_table.py"


def failures(isa: str, *widths: int) -> list[str]:
    """A line for each network, width and dtype whose gradients differ, or whose process died."""
    if not SCRIPT.exists():
        pytest.skip("the scripts of benchmarks/ are not here")
    env = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    env |= {"PYTHONPATH": str(ROOT)} | ({} if isa == "all" else {"ONEDNN_MAX_CPU_ISA": isa})
    command = [sys.executable, str(SCRIPT), "--rows", "--widths", *map(str, widths)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the gradients were not computed: {done.stderr[-2000:]}"
    rows = json.loads(done.stdout)
    assert len({(row["network"], row["dtype"]) for row in rows}) == 18, "nine networks, two dtypes"
    return [
        f"{row['network']} of width {row['width']} in {row['dtype']}: {row['verdict']} ({row['difference']})"
        for row in rows
        if row["verdict"] != "equal"
    ]


@pytest.mark.parametrize("isa", ["AVX2", "all"])
def test_gradients_do_not_depend_on_the_memory_format(isa):
    assert not failures(isa, 4)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["AVX2", "all"])
def test_gradients_do_not_depend_on_the_memory_format_at_any_width(isa):
    assert not failures(isa, *range(2, 17))


@pytest.mark.parametrize(("stride", "size"), [(1, (8, 8)), (2, (8, 8)), (2, (7, 9)), (3, (8, 10))])
def test_a_pointwise_convolution_is_the_convolution(stride, size):
    """Same function, same weights, same name in a checkpoint; it has no stride left to fall over."""
    torch.manual_seed(0)
    ours = PointwiseConv2d(16, 8, stride)
    theirs = torch.nn.Conv2d(16, 8, 1, stride=stride, bias=False)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(3, 16, *size)
    torch.testing.assert_close(ours(x), theirs(x))
    last = x.contiguous(memory_format=torch.channels_last)
    assert ours(last).is_contiguous(memory_format=torch.channels_last)
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(ours.eval(), torch.nn.BatchNorm2d(8).eval())
    torch.testing.assert_close(folded(x), ours(x) / (1 + 1e-5) ** 0.5)
