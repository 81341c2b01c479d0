"""The wheel in a fresh environment without a network: its bundled purifiers work."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from puretransforms.hub.registry import list_weights

ROOT = Path(__file__).parent.parent
SCRIPT = "import puretransforms as pt, torch; x = torch.rand(2, 3, 32, 32)\n"
NOWHERE = {name: "http://127.0.0.1:9" for name in ("HF_ENDPOINT", "http_proxy", "https_proxy", "ALL_PROXY")}


@pytest.mark.slow
def test_a_fresh_environment_without_a_network_purifies(tmp_path):
    pytest.importorskip("hatchling", reason="the build backend; pip install hatchling")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "source"]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.stat().st_size < 40e6
    names = zipfile.ZipFile(wheel).namelist()
    assert all(f"puretransforms/weights/{name}/model.safetensors" in names for name in list_weights())
    assert not any("training." in name for name in names)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=300)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # torch and the rest from this environment
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **NOWHERE}
    for purifier in ("EBMPurify", "VAEPurify", "COINInterpolate"):
        check = f"y = pt.{purifier}()(x); assert y.shape == x.shape and not torch.equal(x, y); print(pt.__file__)"
        done = subprocess.run(
            [python, "-c", SCRIPT + check], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().startswith(str(site))
