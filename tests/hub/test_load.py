"""What goes wrong between here and the Hub: each situation through the real client, and the error that comes out."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants, file_download

from puretransforms.errors import WeightsCorruptedError, WeightsUnavailableError
from puretransforms.hub.load import load
from puretransforms.transforms.ebm import EBMPurify

TOKEN = "hf_loopback"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FETCH = f"GET /me/tiny/resolve/{{}}/{WEIGHTS}"


def cached(tmp_path: Path, name: str = WEIGHTS) -> Path:
    (path,) = (tmp_path / "cache").glob(f"models--me--tiny/snapshots/*/{name}")
    return path


def flip_a_bit(path: Path) -> None:
    data = path.read_bytes()
    path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


# --- revisions, cache, access --------------------------------------------------------------------------------------


def test_registered_weights_are_pinned_and_a_revision_overrides_the_pin(hub, entry, files, purifier, tmp_path):
    repo = hub.repos["me/tiny"]
    purifier.net.head.weight.data.add_(1)
    purifier.save_pretrained(tmp_path / "newer")
    newer = {path.name: path.read_bytes() for path in (tmp_path / "newer").iterdir()}
    later = repo.commit(newer)
    repo.refs["v2"] = later
    assert load("tiny").label == f"me/tiny@{entry.revision[:12]}"
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]
    for revision in ("main", "v2", later):
        assert load("tiny", revision=revision).label == f"me/tiny@{later[:12]}"
    assert load(f"me/tiny@{entry.revision}").label == load("tiny").label
    assert load("me/tiny@v2").label == f"me/tiny@{later[:12]}"
    assert f"pretrained=me/tiny@{later[:12]}" in repr(EBMPurify.from_pretrained("me/tiny"))
    with pytest.raises(WeightsUnavailableError, match=r"me/tiny@v9.*no such branch, tag or commit"):
        load("tiny", revision="v9")


def test_cache_token_and_local_files_only_are_passed_through(hub, files, tmp_path):
    hub.repo("me/m", files, "private")
    load("me/m", cache_dir=tmp_path / "elsewhere", token=TOKEN)
    assert (tmp_path / "elsewhere" / "models--me--m").is_dir() and not (tmp_path / "cache").exists()
    hub.requests()
    load("me/m", cache_dir=tmp_path / "elsewhere", local_files_only=True)
    assert hub.requests() == []
    with pytest.raises(WeightsUnavailableError, match=r"not in the cache, and local_files_only=True"):
        load("me/m", local_files_only=True)


@pytest.mark.parametrize(
    ("access", "fix"), [("private", "a private one.*token="), ("gated", "accept its terms at http")]
)
def test_closed_repos_name_the_weights_and_the_fix_and_a_warm_cache_still_serves(hub, files, access, fix):
    hub.repo("me/closed", files, access)
    for token in (None, "hf_wrong"):
        with pytest.raises(WeightsUnavailableError, match=f"{CONFIG} of me/closed@main.*{fix}"):
            load("me/closed", token=token)
    load("me/closed", token=TOKEN)
    load("me/closed")


def test_what_is_not_there_is_named(hub, files):
    with pytest.raises(WeightsUnavailableError, match=r"me/none@main: no such repo at http"):
        load("me/none", token=TOKEN)
    hub.repo("me/pickle", {CONFIG: files[CONFIG], "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(
        WeightsUnavailableError, match=r"no model\.safetensors of me/pick.*pickled weights are never loaded"
    ):
        load("me/pickle")
    assert not any("pytorch_model.bin" in line for line in hub.requests())
    hub.repo("me/bare", {WEIGHTS: files[WEIGHTS]})
    with pytest.raises(
        WeightsUnavailableError, match=r"there is no config\.json of me/bare@main: expected a repo that holds"
    ):
        load("me/bare")


# --- content -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["tiny", "me/tiny"])  # with registered hashes, and with what the Hub says alone
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_corrupt_download_is_fetched_once_more(hub, entry, purifier, weights, name, photo):
    hub.break_(name, corrupt=True, times=1)
    t = EBMPurify.from_pretrained(weights)
    assert torch.equal(t(photo), purifier(photo))
    assert sum(line.startswith("GET") and name in line for line in hub.requests()) == 2


@pytest.mark.parametrize("weights", ["tiny", "me/tiny"])
def test_a_hub_that_stays_corrupt_is_refused_and_leaves_nothing_in_the_cache(hub, entry, weights, tmp_path):
    hub.break_(WEIGHTS, corrupt=True)
    with pytest.raises(WeightsCorruptedError, match=r"model\.safetensors of me/tiny@.* is damaged: expected hash"):
        load(weights)
    assert sum(line.startswith("GET") and WEIGHTS in line for line in hub.requests()) == 2
    assert not list((tmp_path / "cache").glob("models--me--tiny/snapshots/*/model.safetensors"))
    hub.faults.clear()
    assert load(weights).sha256 == entry.sha256[WEIGHTS]


@pytest.mark.parametrize("weights", ["tiny", "me/tiny"])
def test_a_file_damaged_in_the_cache_is_replaced(hub, entry, weights, tmp_path):
    load(weights)
    flip_a_bit(cached(tmp_path))
    hub.requests()
    assert load(weights).sha256 == entry.sha256[WEIGHTS]
    assert FETCH.format(entry.revision) in hub.requests()
    assert load(weights, local_files_only=True).sha256 == entry.sha256[WEIGHTS]


def test_a_file_damaged_in_the_cache_is_refused_without_a_network(hub, entry, tmp_path):
    load("tiny")
    flip_a_bit(cached(tmp_path))
    with pytest.raises(WeightsCorruptedError, match=r"removed from the cache: load it again with a network"):
        load("tiny", local_files_only=True)
    with pytest.raises(WeightsUnavailableError, match="not in the cache"):
        load("tiny", local_files_only=True)


def test_a_cache_without_links_is_checked_by_the_pinned_hash_or_that_in_the_config(hub, entry, tmp_path, monkeypatch):
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *_: False)
    load("tiny")
    assert not cached(tmp_path).is_symlink()
    flip_a_bit(cached(tmp_path))
    with pytest.raises(WeightsCorruptedError, match="damaged or exchanged"):
        load("me/tiny", revision=entry.revision)
    assert load("me/tiny", revision=entry.revision, verify=False).sha256 != entry.sha256[WEIGHTS]
    hub.requests()
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]
    assert hub.requests().count(FETCH.format(entry.revision)) == 1
    flip_a_bit(cached(tmp_path))
    with pytest.raises(WeightsCorruptedError, match="removed from the cache"):
        load("tiny", local_files_only=True)
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]


def test_another_file_than_the_pinned_one_is_refused(hub, entry, files):
    other = files[WEIGHTS][:-1] + bytes([files[WEIGHTS][-1] ^ 1])
    hub.repos["me/tiny"].commits[entry.revision][WEIGHTS] = other  # what rewriting its history would do
    with pytest.raises(WeightsCorruptedError, match="the repo holds another file than the one pinned"):
        load("tiny")
    with pytest.raises(WeightsCorruptedError, match="sha256 0000"):
        load("me/tiny", sha256="0000")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CONFIG, b"{", "config.json of me/m@.* is not JSON"),
        (CONFIG, b"[]", "expected a JSON object"),
        (CONFIG, b"\xff\xfe", "config.json of me/m@.* is not JSON"),
        (WEIGHTS, b"", "is not safetensors"),
        (WEIGHTS, b"\x80\x04K\x01.", "is not safetensors"),
        (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is not safetensors"),
    ],
)
def test_junk_is_refused(hub, files, name, content, message):
    hub.repo("me/m", files | {name: content})
    with pytest.raises(WeightsCorruptedError, match=message):
        load("me/m", verify=False)


# --- connections ---------------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_now_and_then_recovers(hub, entry):
    hub.break_(WEIGHTS, cut_after=100, times=3)
    hub.break_(CONFIG, method="HEAD", status=503, times=2)
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]


@pytest.mark.parametrize(
    "how", [{"cut_after": 100}, {"status": 500}, {"status": 503}, {"status": 404}, {"status": 418}]
)
def test_a_download_that_keeps_failing_is_one_error_with_its_cause(hub, entry, how, tmp_path):
    hub.break_(WEIGHTS, **how)
    with pytest.raises(WeightsUnavailableError, match=rf"downloading {WEIGHTS} of me/tiny@.*run it again") as failed:
        load("tiny")
    assert failed.value.__cause__ is not None and "pytorch_model" not in str(failed.value)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.faults.clear()
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]


def test_a_hub_that_answers_every_question_with_an_error_is_named(hub, entry):
    hub.break_(CONFIG, method="HEAD", status=500)
    with pytest.raises(WeightsUnavailableError, match=r"the Hub gave no answer \(Server error '500"):
        load("tiny")


def test_a_slow_server_is_waited_for(hub, entry):
    hub.break_(WEIGHTS, delay=0.4)
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://hub.invalid", "https://127.0.0.1:9/"])
def test_without_a_network_a_cold_cache_fails_and_a_warm_one_serves(hub, entry, url, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(WeightsUnavailableError, match=r"config\.json of me/tiny@.* cannot be reached.*copy its folder"):
        load("tiny")
    with pytest.raises(WeightsUnavailableError, match="force_download=True needs the Hub"):
        load("tiny", force_download=True)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    load("me/tiny")
    monkeypatch.setenv("HF_ENDPOINT", url)
    hub.naps.clear()
    assert load("tiny").sha256 == load("me/tiny").sha256 == entry.sha256[WEIGHTS]
    assert hub.naps == []


def test_offline_mode_asks_nobody(hub, entry, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE=1 forbids the network"):
        load("tiny")
    with pytest.raises(WeightsUnavailableError, match="cannot push to me/new: HF_HUB_OFFLINE=1"):
        EBMPurify(weights=None, nf=2).push_to_hub("me/new")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.requests()
    load("tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests()
    load("tiny")
    assert hub.requests() == []


def test_pushing_without_a_network_says_so(hub, purifier, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailableError, match=r"cannot push to me/new: http://127.* cannot be reached"):
        purifier.push_to_hub("me/new", token=TOKEN)


def test_pushing_without_a_right_to_says_so(hub, purifier):
    with pytest.raises(WeightsUnavailableError, match=r"pushing to me/new at http.* failed.*token="):
        purifier.push_to_hub("me/new")
    assert "me/new" not in hub.repos
    with pytest.raises(WeightsUnavailableError, match=r"expected a repo id like 'user/name', got 'a b/c'"):
        purifier.push_to_hub("a b/c", token=TOKEN)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_card_that_the_hub_refuses_is_named_with_its_reason(hub, purifier):
    with pytest.raises(WeightsUnavailableError, match=r'refuses the card: .*"license" must be.*model_card_kwargs='):
        purifier.push_to_hub("me/new", token=TOKEN, model_card_kwargs={"license": "my own"})
    fields = {"license": "mit", "metrics": {"psnr": 30.0}, "measured_on": "Crops of 10 photographs"}
    commit = purifier.push_to_hub("me/new", token=TOKEN, model_card_kwargs=fields)
    card = ModelCard(hub.repos["me/new"].commits[commit.oid]["README.md"].decode())
    assert card.data.license == "mit" and card.data.eval_results[0].metric_value == 30.0


# --- several processes ---------------------------------------------------------------------------------------------

LOADERS = """
import os, sys
from huggingface_hub import constants
from puretransforms.hub.load import load
constants.DOWNLOAD_CHUNK_SIZE = 10_000  # so that part of the file lies on the disk when its process is killed
for line in sys.stdin:  # how many processes to start at once
    children = []
    for _ in range(int(line)):
        child = os.fork()
        if child == 0:
            os.write(1, load("me/tiny").sha256.encode() + b"\\n")
            os._exit(0)
        children.append(child)
    os.write(1, f"{children[0]}\\n".encode())
    for child in children:
        os.waitpid(child, 0)
"""


@contextlib.contextmanager
def loaders():
    """A process that starts others; none is left behind."""
    with subprocess.Popen(
        [sys.executable, "-c", LOADERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    ) as processes:
        try:
            yield processes
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(processes.pid, signal.SIGKILL)


def waits_for_a_part(cache: Path) -> Path:
    """The file that a download has begun to fill."""
    for _ in range(3000):
        for path in cache.rglob("*.incomplete"):
            if path.stat().st_size:
                return path
        time.sleep(0.01)
    raise TimeoutError("no part of the file arrived")


def test_a_killed_download_recovers_and_four_processes_at_once_download_once(hub, tmp_path):
    EBMPurify(weights=None, nf=16).save_pretrained(tmp_path / "larger")  # than what a file buffers
    files = {name: (tmp_path / "larger" / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    request = FETCH.format(hub.repo("me/tiny", files))
    hub.break_(WEIGHTS, delay=60.0, delay_after=20_000, times=1)
    hub.break_(WEIGHTS, delay=1.0)
    with loaders() as processes:
        processes.stdin.write("1\n")
        child = int(processes.stdout.readline())
        hub.waits_for(request)
        left = waits_for_a_part(tmp_path / "cache")
        os.kill(child, signal.SIGKILL)
        assert 0 < left.stat().st_size < len(files[WEIGHTS]) and not list((tmp_path / "cache").rglob(WEIGHTS))
        hub.requests()
        out = processes.communicate("4\n", timeout=120)[0]
    assert left.exists()  # and is no part of what the others loaded
    assert out.count(hashlib.sha256(files[WEIGHTS]).hexdigest()) == 4 and hub.requests().count(request) == 1
    assert cached(tmp_path).read_bytes() == files[WEIGHTS]


def test_messages_are_one_sentence_or_two(hub, entry):
    hub.break_(WEIGHTS, status=500)
    with pytest.raises(WeightsUnavailableError) as failed:
        load("tiny")
    assert "\n" not in str(failed.value) and re.search(r"\.$", str(failed.value))
