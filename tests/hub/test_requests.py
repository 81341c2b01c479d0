"""What goes over the wire: each call of the client that the library relies on, and the requests that it makes."""

import os
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download

from puretransforms.hub.load import load
from puretransforms.transforms.ebm import EBMPurify

TOKEN = "hf_loopback"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def test_the_client_is_one_of_the_supported_versions():
    assert "1.33" <= huggingface_hub.__version__ < "3"


def test_a_download_asks_and_fetches_cold_asks_warm_and_is_silent_pinned(hub, files):
    commit = hub.repo("me/m", files)
    fetch = f"/me/m/resolve/main/{WEIGHTS}"
    for revision, requests in ((None, [f"HEAD {fetch}", f"GET {fetch}"]), (None, [f"HEAD {fetch}"]), (commit, [])):
        hf_hub_download("me/m", WEIGHTS, revision=revision, endpoint=hub.url)
        assert hub.requests() == requests


@pytest.mark.parametrize("way", [load, EBMPurify.from_pretrained, EBMPurify])
def test_loading_fetches_two_files_of_one_commit(hub, files, way):
    commit = hub.repo("me/m", files)
    first, second = f"/me/m/resolve/main/{CONFIG}", f"/me/m/resolve/{commit}/{WEIGHTS}"
    way("me/m")
    assert hub.requests() == [f"HEAD {first}", f"GET {first}", f"HEAD {second}", f"GET {second}"]
    way("me/m")
    assert hub.requests() == [f"HEAD {first}"]
    way(f"me/m@{commit}")
    assert hub.requests() == []


def test_a_push_in_between_does_not_mix_two_commits(hub, files):
    commit = hub.repo("me/m", files)
    repo = hub.repos["me/m"]
    newer = repo.commit({WEIGHTS: b"newer", CONFIG: b"newer"}, "next")

    class Moving(dict):
        asked = 0

        def get(self, name, *default):
            if name != "main":
                return super().get(name, *default)
            self.asked += 1
            return commit if self.asked <= 2 else newer  # the HEAD and the GET of the config, then a push

    repo.refs = Moving(repo.refs)
    assert load("me/m").label == f"me/m@{commit[:12]}"
    assert repo.refs.asked == 2


def test_a_snapshot_lists_the_tree_and_skips_the_look_up_of_a_commit(hub, files):
    commit = hub.repo("me/m", files)
    at = f"/me/m/resolve/{commit}"
    each = sorted(f"{verb} {at}/{name}" for verb in ("HEAD", "GET") for name in files)
    for revision, look_up in ((None, ["GET /api/models/me/m/revision/main"]), (commit, [])):
        snapshot_download("me/m", revision=revision, endpoint=hub.url, cache_dir=str(revision))
        requests = hub.requests()
        before = [*look_up, f"GET /api/models/me/m/tree/{commit}"]
        assert requests[: len(before)] == before and sorted(requests[len(before) :]) == each


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_push_creates_asks_uploads_and_commits(hub, purifier):
    commit = purifier.push_to_hub("me/new", token=TOKEN)
    requests = hub.requests()
    stored = [line for line in requests if line.startswith(("PUT", "POST /me/new.git"))]
    assert [line for line in requests if line not in stored] == [
        "POST /api/repos/create",
        "POST /api/validate-yaml",
        "POST /api/models/me/new/preupload/main",
        "POST /api/models/me/new/commit/main",
    ]
    assert len(stored) == 2  # the weights go to LFS: the offer and the upload
    again = EBMPurify.from_pretrained("me/new", revision=commit.oid)
    assert again.pretrained == f"me/new@{commit.oid[:12]}"
    assert set(hub.repos["me/new"].commits[commit.oid]) == {".gitattributes", CONFIG, WEIGHTS, "README.md"}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_pull_request_leaves_the_main_branch_alone_and_can_be_tried(hub, files, purifier):
    commit = hub.repo("me/m", files)
    purifier.net.head.weight.data.add_(1)
    asked = purifier.push_to_hub("me/m", token=TOKEN, create_pr=True)
    assert asked.pr_url.endswith("/me/m/discussions/1") and hub.repos["me/m"].refs["main"] == commit != asked.oid
    tried = EBMPurify.from_pretrained("me/m", revision="refs/pr/1")
    assert torch.equal(tried.net.head.weight, purifier.net.head.weight)


def test_the_answers_carry_what_the_client_reads(hub, files):
    commit = hub.repo("me/m", files)
    hub.repo("me/closed", files, "gated")
    info = get_hf_file_metadata(hf_hub_url("me/m", WEIGHTS, endpoint=hub.url), endpoint=hub.url)
    assert info.commit_hash == commit and len(info.etag) == 64 and info.size == len(files[WEIGHTS])
    info = get_hf_file_metadata(hf_hub_url("me/m", CONFIG, endpoint=hub.url), endpoint=hub.url)
    assert info.commit_hash == commit and len(info.etag) == 40 and info.size == len(files[CONFIG])
    for repo, revision, name, code in (
        ("me/none", None, CONFIG, "RepoNotFound"),
        ("me/m", "v9", CONFIG, "RevisionNotFound"),
        ("me/m", None, "none.txt", "EntryNotFound"),
        ("me/closed", None, CONFIG, "GatedRepo"),
    ):
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as refused:
            get_hf_file_metadata(hf_hub_url(repo, name, revision=revision, endpoint=hub.url), endpoint=hub.url)
        assert refused.value.response.headers["X-Error-Code"] == code
    assert HfApi(endpoint=hub.url).model_info("me/m").sha == commit


def test_a_cut_download_resumes_where_a_chunk_had_arrived(hub, monkeypatch):
    data = os.urandom(400_000)
    hub.repo("me/m", {WEIGHTS: data})
    hub.break_(WEIGHTS, cut_after=150_000, times=1)
    path = hf_hub_download("me/m", WEIGHTS, endpoint=hub.url)
    assert hub.ranges == []  # of 10 MB at once, none had arrived
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.break_(WEIGHTS, cut_after=150_000, times=1)
    path = hf_hub_download("me/m", WEIGHTS, endpoint=hub.url, force_download=True)
    assert hub.ranges == ["bytes=100000-"]
    assert Path(path).read_bytes() == data


def test_the_weights_may_lie_on_another_host(hub, files):
    hub.repo("me/m", files)
    hub.cdn = hub.other_host
    assert load("me/m").state.keys()
    assert any(line.startswith("GET /cdn/") for line in hub.requests())
