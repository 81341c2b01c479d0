"""Every situation between here and the Hub, and the tests that hold it: the client by itself, then the library over it.

``SITUATIONS`` is the list to read first; what it names has to exist. The tests below are those of the client by itself,
for its gaps are why the library checks more.
"""

import json
import re
from pathlib import Path

import PIL.Image
import pytest
import torch
from huggingface_hub import HfApi, constants, errors, file_download, hf_hub_download, utils
from safetensors import SafetensorError, safe_open

from puretransforms.cleaning.clean import clean
from puretransforms.errors import WeightsCorruptedError, WeightsUnavailableError
from puretransforms.hub.load import load
from puretransforms.transforms.ebm import EBMPurify

TOKEN = "hf_loopback"
CONFIG, WEIGHTS = "config.json", "model.safetensors"

SITUATIONS = {
    "one file: asked for and fetched cold, asked for warm, no request for a commit in the cache": [
        "test_a_download_asks_and_fetches_cold_asks_warm_and_is_silent_pinned",
    ],
    "from_pretrained: config and weights, each asked for and fetched": [
        "test_loading_fetches_two_files_of_one_commit",
        "test_a_push_in_between_does_not_mix_two_commits",
    ],
    "snapshot_download: revision, tree, then each file at the commit": [
        "test_a_snapshot_lists_the_tree_and_skips_the_look_up_of_a_commit",
    ],
    "push_to_hub: create, validate the card, ask how to upload, commit": [
        "test_a_push_creates_asks_uploads_and_commits",
        "test_pushing_without_a_right_to_says_so",
        "test_push_and_back",
    ],
    "headers of the answers: commit, hash, size, code of the error; other hosts; Xet": [
        "test_the_answers_carry_what_the_client_reads",
        "test_the_weights_may_lie_on_another_host",
        "test_weights_that_repos_share_in_the_cache_are_checked_by_their_own_hash",
    ],
    "revision: branch, tag, commit; pinned by commit and sha256; overridden; shown": [
        "test_registered_weights_are_pinned_and_a_revision_overrides_the_pin",
        "test_another_file_than_the_pinned_one_is_refused",
        "test_the_commit_is_in_what_clean_writes_about_a_run",
    ],
    "cache_dir, token, local_files_only: passed through": [
        "test_cache_token_and_local_files_only_are_passed_through",
    ],
    "a corrupt file of the same size: unseen by the client, caught on a cold and on a warm cache": [
        "test_the_client_takes_a_corrupt_file_of_the_same_size_until_it_is_asked_to_verify",
        "test_a_corrupt_download_is_fetched_once_more",
        "test_a_hub_that_stays_corrupt_is_refused_and_leaves_nothing_in_the_cache",
        "test_a_file_damaged_in_the_cache_is_replaced",
        "test_a_file_damaged_in_the_cache_is_refused_without_a_network",
        "test_a_cache_without_links_is_checked_by_the_pinned_hash_or_that_in_the_config",
    ],
    "a connection that is cut: tried again, resumed, one error in the end; killed; four at once": [
        "test_the_client_gives_up_a_cut_download_after_six_tries_with_an_error_not_its_own",
        "test_a_cut_download_resumes_where_a_chunk_had_arrived",
        "test_a_connection_that_is_cut_now_and_then_recovers",
        "test_a_download_that_keeps_failing_is_one_error_with_its_cause",
        "test_a_killed_download_recovers_and_four_processes_at_once_download_once",
    ],
    "no network: cold and warm, offline mode": [
        "test_without_a_network_a_cold_cache_is_tried_as_long_as_the_client_does",
        "test_without_a_network_a_cold_cache_fails_and_a_warm_one_serves",
        "test_offline_mode_asks_nobody",
    ],
    "private, gated, unknown: named, with the fix; a warm cache serves": [
        "test_closed_repos_name_the_weights_and_the_fix_and_a_warm_cache_still_serves",
        "test_the_clients_refusal_is_the_cause_and_the_registered_name_is_said",
        "test_what_is_not_there_is_named",
    ],
    "junk: not JSON, not safetensors, a pickle": [
        "test_the_readers_of_junk_raise_their_own_errors_and_the_library_one_of_its_own",
        "test_junk_is_refused",
        "test_mutated_files_load_or_end_in_our_errors_and_run_nothing",
    ],
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_has_its_tests(situation):
    there = {
        name for path in Path(__file__).parent.glob("test_*.py") for name in re.findall(r"def (\w+)", path.read_text())
    }
    assert SITUATIONS[situation] and set(SITUATIONS[situation]) <= there


def test_the_client_takes_a_corrupt_file_of_the_same_size_until_it_is_asked_to_verify(hub, entry, files):
    hub.break_(WEIGHTS, corrupt=True, times=1)
    path = Path(hf_hub_download("me/tiny", WEIGHTS, endpoint=hub.url))
    assert path.read_bytes() != files[WEIGHTS] and len(path.read_bytes()) == len(files[WEIGHTS])
    assert path.resolve().name == entry.sha256[WEIGHTS]  # the blob's name is the hash that it should have
    found = HfApi(endpoint=hub.url).verify_repo_checksums("me/tiny", cache_dir=constants.HF_HUB_CACHE)
    assert [(bad["path"], bad["expected"]) for bad in found.mismatches] == [(WEIGHTS, entry.sha256[WEIGHTS])]


def test_the_client_gives_up_a_cut_download_after_six_tries_with_an_error_not_its_own(hub, entry, tmp_path):
    hub.break_(WEIGHTS, cut_after=100)
    with pytest.raises(utils.httpx.RemoteProtocolError) as failed:
        hf_hub_download("me/tiny", WEIGHTS, endpoint=hub.url)
    assert not isinstance(failed.value, errors.HfHubHTTPError)
    assert sum(line.startswith("GET") for line in hub.requests()) == 6
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_without_a_network_a_cold_cache_is_tried_as_long_as_the_client_does(hub, entry, monkeypatch):
    with pytest.raises(errors.LocalEntryNotFoundError):
        hf_hub_download("me/tiny", WEIGHTS, endpoint="http://127.0.0.1:9")
    assert 20 < sum(hub.naps) < 30
    hub.naps.clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailableError, match="cannot be reached"):
        load("tiny")
    assert 20 < sum(hub.naps) < 30


@pytest.mark.parametrize(
    ("access", "refusal"), [("private", errors.RepositoryNotFoundError), ("gated", errors.GatedRepoError)]
)
def test_the_clients_refusal_is_the_cause_and_the_registered_name_is_said(hub, entry, access, refusal):
    hub.repos["me/tiny"].access = access
    with pytest.raises(refusal):
        hf_hub_download("me/tiny", WEIGHTS, endpoint=hub.url)
    with pytest.raises(WeightsUnavailableError, match=r"of me/tiny@[0-9a-f]{40} \(weights 'tiny'\)") as refused:
        EBMPurify.from_pretrained("tiny")
    assert isinstance(refused.value.__cause__, refusal)


def test_the_readers_of_junk_raise_their_own_errors_and_the_library_one_of_its_own(hub, files):
    hub.repo("me/junk", {CONFIG: b"{", WEIGHTS: b"junk"})
    with pytest.raises(json.JSONDecodeError):
        json.loads(Path(hf_hub_download("me/junk", CONFIG, endpoint=hub.url)).read_bytes())
    with pytest.raises(SafetensorError), safe_open(hf_hub_download("me/junk", WEIGHTS, endpoint=hub.url), "pt"):
        pass
    with pytest.raises(WeightsCorruptedError, match="is not JSON") as refused:
        load("me/junk")
    assert isinstance(refused.value.__cause__, json.JSONDecodeError)
    hub.repo("me/junk2", {CONFIG: files[CONFIG], WEIGHTS: b"junk"})
    with pytest.raises(WeightsCorruptedError, match="is not safetensors") as refused:
        load("me/junk2", verify=False)
    assert isinstance(refused.value.__cause__, SafetensorError)


def test_the_commit_is_in_what_clean_writes_about_a_run(hub, entry, tmp_path, photo):
    (tmp_path / "images").mkdir()
    PIL.Image.fromarray(photo.permute(1, 2, 0).numpy()).save(tmp_path / "images" / "a.png")
    result = clean(tmp_path / "images", tmp_path / "out", EBMPurify.from_pretrained("tiny"), workers=1, progress=False)
    assert result is not None
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert f"me/tiny@{entry.revision[:12]}" in run["purifier"]["repr"]


@pytest.fixture
def xet(hub, files, monkeypatch):
    """The client's way over Xet, but for the transfer itself, which takes the bytes from the test."""

    def transfer(*, incomplete_path: Path, xet_file_data, **_) -> None:
        hub.log.append(f"XET {xet_file_data.file_hash}")
        data = files[WEIGHTS]
        bad = hub.fault("XET", WEIGHTS).corrupt
        incomplete_path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if bad else data)

    hub.xet = True
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(file_download, "is_xet_available", lambda: True)
    monkeypatch.setattr(file_download, "xet_get", transfer)
    return hub


def test_weights_that_repos_share_in_the_cache_are_checked_by_their_own_hash(xet, entry, files, purifier, photo):
    """Newer clients keep one copy for all repos, under the Xet hash, which is no sha256 of the file."""
    transfers = lambda: sum(line.startswith("XET") for line in xet.requests())  # noqa: E731
    assert torch.equal(EBMPurify.from_pretrained("tiny")(photo), purifier(photo))
    load("me/tiny")
    assert transfers() == 1
    blob = Path(hf_hub_download("me/tiny", WEIGHTS, endpoint=xet.url)).resolve()
    blob.chmod(0o600)
    blob.write_bytes(files[WEIGHTS][:-1] + b"\0")
    assert load("tiny").sha256 == entry.sha256[WEIGHTS] and transfers() == 1
    xet.break_(WEIGHTS, method="XET", corrupt=True)
    with pytest.raises(WeightsCorruptedError, match=r"is damaged: expected hash [0-9a-f]{64}.*removed from the cache"):
        load("tiny", force_download=True)
    assert not any(path.exists() for path in Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*.safetensors"))
    xet.faults.clear()
    assert load("tiny").sha256 == entry.sha256[WEIGHTS]
