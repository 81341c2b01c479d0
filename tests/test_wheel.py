"""The wheel in a fresh environment without a network: its bundled purifiers work."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from puretransforms.hub.weights import list_weights

ROOT = Path(__file__).parent.parent
SCRIPT = """
import puretransforms as pt, torch
x = torch.rand(2, 3, 32, 32)
for purify in (pt.EBMPurify(), pt.VAEPurify(), pt.COINInterpolate()):
    y = purify(x)
    assert y.shape == x.shape and not torch.equal(x, y)
print(pt.__file__)
"""
NOWHERE = {name: "http://127.0.0.1:9" for name in ("HF_ENDPOINT", "http_proxy", "https_proxy", "ALL_PROXY")}


@pytest.mark.slow
def test_a_fresh_environment_without_a_network_purifies(tmp_path):
    pytest.importorskip("hatchling", reason="the build backend; pip install hatchling")
    wheel = built(tmp_path)
    assert wheel.stat().st_size < 40e6
    names = zipfile.ZipFile(wheel).namelist()
    for name in list_weights():
        carried = {Path(file).name for file in names if file.startswith(f"puretransforms/weights/{name}/")}
        assert carried == {"config.json", "model.safetensors", "README.md", "recipe.py", "metrics.json", "meta.json"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=300)
    python = tmp_path / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True, timeout=300)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # torch and the rest from this environment
    out = run_in(tmp_path, python, "-c", SCRIPT)
    assert out.strip().startswith(str(site))
    out = run_in(tmp_path, python.with_name("puretransforms"), "weights", "verify")
    assert all(f"ok {name}: " in out for name in list_weights())


def built(tmp_path: Path) -> Path:
    """``python -m build`` of what git knows or would take."""
    (tmp_path / "source" / "weights" / "ebm-small-32").mkdir(parents=True)
    (tmp_path / "source" / "weights" / "ebm-small-32" / "training.pt").write_bytes(
        b"state of a training, never carried"
    )
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "source"]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    return wheel


def run_in(tmp_path: Path, *command: str | Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **NOWHERE}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout
