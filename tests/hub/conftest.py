"""A Hugging Face Hub on the loopback interface: what the real client sends to it is what it would send to the Hub.

It knows commits, branches, tags, private and gated repos, uploads (regular and LFS) and faults, and logs every request.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.file_download
import huggingface_hub.utils._http
import pytest
import torch
import yaml

from puretransforms.hub.weights import PurifierWeights, _entries
from puretransforms.transforms.ebm import EBMPurify

TOKEN = "hf_loopback"


@dataclass
class Repo:
    access: str = "public"  # or "private", or "gated"
    refs: dict[str, str] = field(default_factory=dict)  # branches and tags
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main", deleted: tuple[str, ...] = ()) -> str:
        before = self.commits.get(self.refs.get(branch, self.refs.get("main")), {})
        tree = {path: data for path, data in {**before, **files}.items() if path not in deleted}
        what = repr((len(self.commits), sorted((path, sha256(data)) for path, data in tree.items())))
        name = hashlib.sha1(what.encode()).hexdigest()
        self.commits[name] = tree
        self.refs[branch] = name
        return name


@dataclass
class Fault:
    """Something that goes wrong ``times`` times with the ``method`` of ``file``."""

    file: str
    status: int | None = None  # answer this
    cut_after: int | None = None  # close the connection after so many bytes of the body
    corrupt: bool = False  # flip a bit, same size
    delay: float = 0.0  # seconds before each 64 KiB ...
    delay_after: int = 0  # ... that follow these bytes
    method: str = "GET"
    times: float = float("inf")


class LoopbackHub:
    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.ranges: list[str] = []  # the Range headers that came
        self.lfs: dict[str, bytes] = {}
        self.cdn = ""  # another host to redirect LFS files to, as the real Hub does
        self.xet = False  # offer LFS files by their Xet hash too, as the real Hub does
        self.naps: list[float] = []  # the seconds that the client would have slept between its tries
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.other_host = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def repo(self, name: str, files: dict[str, bytes], access: str = "public") -> str:
        """A new repo with one commit, whose name comes back."""
        self.repos[name] = Repo(access)
        return self.repos[name].commit(files)

    def break_(self, file: str, **how) -> None:
        self.faults.append(Fault(file, **how))

    def fault(self, method: str, file: str) -> Fault:
        for fault in self.faults:
            if fault.method == method and fault.file == file and fault.times > 0:
                fault.times -= 1
                return fault
        return Fault(file)

    def waits_for(self, line: str) -> None:
        """Until such a request was logged."""
        end = time.monotonic() + 300
        while line not in self.log:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody asked: {line}")
            time.sleep(0.01)

    def requests(self) -> list[str]:
        """The log so far, emptied; the client's daily look-up of a list of agents is none of ours."""
        lines, self.log = [line for line in self.log if "agent-harnesses" not in line], []
        return lines

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args) -> None:
        pass

    def answer(self, status: int = 200, body: object = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self) -> None:
        path = urlsplit(self.path).path
        self.hub.log.append(f"{self.command} {unquote(path)}")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self.chunked()
        for pattern, act in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                return act(self, body, *map(unquote, found.groups()))
        return self.answer(200, {})

    def chunked(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def opened(self, name: str) -> Repo | None:
        """The repo, or ``None`` after the refusal was sent."""
        repo = self.hub.repos.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.access == "private" and not known):
            self.answer(404 if known else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif repo.access == "gated" and not known:
            self.answer(403, {"error": "gated"}, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
        else:
            return repo
        return None

    def tree(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = repo.refs.get(revision, revision)
        if commit in repo.commits:
            return commit, repo.commits[commit]
        self.answer(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
        return None

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        fault = self.hub.fault(self.command, file)
        if fault.status:
            return self.answer(fault.status, {"error": "out of order"})
        if not (repo := self.opened(name)) or not (found := self.tree(repo, revision)):
            return None
        commit, files = found
        if file not in files:
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data, headers = files[file], {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not is_lfs(file):
            return self.send(data, fault, headers | {"ETag": f'"{git_sha1(data)}"'})
        digest = sha256(data)
        linked = headers | {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        if self.hub.xet:
            route = f"{self.hub.url}/api/models/{name}/xet-read-token/{commit}"
            linked |= {"X-Xet-Hash": sha256(b"xet" + data), "X-Xet-Refresh-Route": route}
        if self.hub.cdn:
            self.hub.lfs[digest] = data
            return self.answer(302, b"", **linked, Location=f"{self.hub.cdn}/cdn/{digest}")
        return self.send(data, fault, linked)

    def send(self, data: bytes, fault: Fault, headers: dict[str, str]) -> None:
        first, asked, status = 0, self.headers.get("Range"), 200
        if fault.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if asked and (match := re.match(r"bytes=(\d+)-", asked)):
            self.hub.ranges.append(asked)
            first, status = int(match[1]), 206
            headers = headers | {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        data = data[first:]
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # a client that was killed
            self.wfile.write(data[: fault.delay_after])
            for start in range(fault.delay_after, len(data[: fault.cut_after]), 1 << 16):
                time.sleep(fault.delay)
                self.wfile.write(data[: fault.cut_after][start : start + (1 << 16)])
        if fault.cut_after is not None:
            self.close_connection = True

    def stored(self, body: bytes, digest: str) -> None:
        if self.command == "PUT":
            self.hub.lfs[digest] = body
            return self.answer(200, b"")
        return self.send(self.hub.lfs[digest], Fault(""), {"ETag": f'"{digest}"'})

    def info(self, _: bytes, name: str, revision: str) -> None:
        if (repo := self.opened(name)) and (found := self.tree(repo, revision or "main")):
            siblings = [{"rfilename": path} for path in found[1]]
            self.answer(200, {"id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": []})

    def listing(self, _: bytes, name: str, revision: str) -> None:
        if not (repo := self.opened(name)) or not (found := self.tree(repo, revision)):
            return
        entries = []
        for path, data in found[1].items():
            lfs = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}} if is_lfs(path) else {}
            entries.append({"type": "file", "path": path, "size": len(data), "oid": git_sha1(data), **lfs})
        self.answer(200, entries)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        url = {"url": f"{self.hub.url}/{name}", "id": name, "name": name}
        if name in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo"} | url)
        self.hub.repos[name] = Repo(asked.get("visibility") or ("private" if asked.get("private") else "public"))
        self.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.answer(200, url)

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if is_lfs(file["path"]) else "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        if self.opened(name):
            self.answer(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/cdn/{o['oid']}"}}}
            for o in json.loads(body)["objects"]
        ]
        if self.opened(name):
            self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if not (repo := self.opened(name)):
            return
        if "create_pr=1" in self.path:
            branch = "refs/pr/1"
        files, deleted = {}, []
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif entry["key"] == "deletedFile":
                deleted.append(value["path"])
        oid = repo.commit(files, branch, tuple(deleted))
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self.answer(
            200,
            {
                "success": True,
                "commitOid": oid,
                "commitUrl": url,
                "pullRequestUrl": f"{self.hub.url}/{name}/discussions/1",
            },
        )

    def validate(self, body: bytes) -> None:
        """The rules for the metadata of a card that the Hub documents."""
        found = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        card = yaml.safe_load(found[1]) if found else {}
        problems = [] if card.get("license") in (None, *LICENSES) else ['"license" must be one of [' + LICENSES[0]]
        for model in card.get("model-index", []):
            for result in model["results"]:
                needed = {"task": ["type"], "dataset": ["type", "name"]}
                problems += [f"{k}.{f} is required" for k, fs in needed.items() for f in fs if not result[k].get(f)]
                problems += ["metrics need type and value" for m in result["metrics"] if {"type", "value"} - m.keys()]
        self.answer(400 if problems else 200, {"errors": [{"message": text} for text in problems], "warnings": []})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        if repo := self.opened(name):
            repo.refs.setdefault(branch, repo.refs["main"])
            self.answer(200, {})


LICENSES = ["apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "other"]  # some of the Hub's
ID = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (rf"/api/models/{ID}/(?:revision/)?([^/]*)", Handler.info),
    (rf"/api/models/{ID}/tree/([^/]+)(?:/.*)?", Handler.listing),
    (rf"/api/models/{ID}/preupload/([^/]+)", Handler.preupload),
    (rf"/api/models/{ID}/commit/([^/]+)", Handler.commit),
    (rf"/api/models/{ID}/branch/([^/]+)", Handler.branch),
    (rf"/api/models/{ID}()", Handler.info),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/{ID}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/cdn/([0-9a-f]{64})", Handler.stored),
    (rf"/{ID}/resolve/([^/]+)/(.+)", Handler.resolve),
]


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running loopback Hub that the client is pointed to, an empty cache, and no waiting between retries."""
    server = LoopbackHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # for the processes that a test starts
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    naps = SimpleNamespace(**{name: getattr(time, name) for name in dir(time)} | {"sleep": server.naps.append})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", naps)
    monkeypatch.setattr(huggingface_hub.file_download, "time", naps)
    yield server
    server.close()


@pytest.fixture
def purifier() -> EBMPurify:
    """A small network that is not the one that its constructor makes."""
    made = EBMPurify(weights=None, nf=2, steps=2, seed=0)
    for tensor in made.parameters():
        tensor.data.normal_(generator=torch.Generator().manual_seed(7))
    return made


@pytest.fixture
def files(purifier, tmp_path) -> dict[str, bytes]:
    """What its repo holds."""
    purifier.save_pretrained(tmp_path / "saved")
    return {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}


@pytest.fixture
def entry(hub, files, monkeypatch) -> PurifierWeights:
    """Registered weights that the package does not carry, pinned to a commit of ``me/tiny`` on the loopback Hub."""
    commit = hub.repo("me/tiny", files)
    made = PurifierWeights(
        name="tiny",
        transform="EBMPurify",
        repo_id="me/tiny",
        revision=commit,
        sha256={name: sha256(files[name]) for name in ("config.json", "model.safetensors")},
        image_size=8,
        sizes=(4, 64),
        training_data="random numbers",
        license="apache-2.0",
        paper="none",
        summary="For tests.",
    )
    monkeypatch.setitem(_entries(), "tiny", made)
    return made
