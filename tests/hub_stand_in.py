"""A stand-in for the Hub over HTTP, as far as huggingface_hub's own client asks it: repositories are made, files uploaded (small
ones in the commit, large ones by LFS), listed and downloaded. It asks for a token, and remembers which requests had one."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub.utils.sha import git_hash


ROOT = Path(__file__).parents[1]
TOKEN = "hf_" + "StandInToken" * 3
USER = "me"
LARGE = (".safetensors", ".png")  # what the Hub's .gitattributes sends by LFS, of what is pushed here
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Hub(ThreadingHTTPServer):
    """`repos[name][path]` are the bytes of the newest commit; `requests` every method, path and whether it had the token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bool]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def sha(self, repo: str) -> str:
        return hashlib.sha1("".join(self.commits[repo]).encode()).hexdigest()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Of a process whose Hub this is; its cache and token lie in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        more = {"HF_TOKEN": token} if token else {}
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        return kept | more | {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    def run(self, words: list, home: Path, token: str | None = TOKEN, **more: str) -> subprocess.CompletedProcess:
        """A Python command in such a process."""
        return subprocess.run(
            [sys.executable, *map(str, words)], env=self.environment(home, token) | more, capture_output=True, text=True, cwd=home
        )  # fmt: skip


@contextmanager
def hub_stand_in():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, body=None, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status, code, message):
        self.answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.server.requests.append((self.command, path, known))
        for methods, pattern, needs_token, method in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods:
                if needs_token and not known:
                    return self.refuse(401, "", "Invalid username or password.")
                return getattr(self, method)(body, **found.groupdict())
        self.refuse(404, "", f"the stand-in does not know {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    # Uploads

    def whoami(self, body):
        self.answer({"name": USER, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self, body):
        asked = json.loads(body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        if not repo.startswith(f"{USER}/"):
            return self.refuse(
                403, "", f"You don't have the rights to create a model under the namespace {repo.split('/')[0]!r}"
            )
        if repo in self.server.repos:
            return self.answer(
                {"error": "You already created this model repo", "url": f"{self.server.endpoint}/{repo}"}, 409
            )
        self.server.repos[repo], self.server.commits[repo] = {}, ["made"]
        self.answer({"url": f"{self.server.endpoint}/{repo}", "name": repo})

    def preupload(self, body, repo):
        files = []
        for file in json.loads(body)["files"]:
            data = self.server.repos[repo].get(file["path"])
            is_large = file["path"].endswith(LARGE)
            oid = None if data is None else hashlib.sha256(data).hexdigest() if is_large else git_hash(data)
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        self.answer({"files": files})

    def batch(self, body, repo):
        objects = []
        for one in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.server.endpoint}/lfs/{one['oid']}"}}
            objects.append(one | ({} if one["oid"] in self.server.objects else {"actions": actions}))
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, "", "not what was announced")
        self.server.objects[oid] = body
        self.answer()

    def commit(self, body, repo):
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.server.repos[repo][value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "header":
                self.server.commits[repo].append(value["summary"])
        sha = self.server.sha(repo)
        self.answer({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}", "commitOid": sha})

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    # Downloads

    def info(self, body, repo):
        if repo not in self.server.repos:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        siblings = [{"rfilename": path} for path in self.server.repos[repo]]
        self.answer(
            {
                "id": repo,
                "modelId": repo,
                "sha": self.server.sha(repo),
                "siblings": siblings,
                "private": False,
                "tags": [],
            }
        )

    def tree(self, body, repo):
        files = self.server.repos[repo].items()
        self.answer([{"type": "file", "path": path, "size": len(data), "oid": git_hash(data)} for path, data in files])

    def resolve(self, body, repo, path):
        if repo not in self.server.repos:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        data = self.server.repos[repo].get(path)
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        self.answer(
            data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=self.server.sha(repo), Accept_Ranges="none"
        )  # fmt: skip


ROUTES = [
    (("GET",), r"/api/whoami-v2", True, "whoami"),
    (("POST",), r"/api/repos/create", True, "create"),
    (("POST",), r"/api/validate-yaml", False, "validate"),
    (("POST",), rf"/api/models/{REPO}/preupload/main", True, "preupload"),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", True, "batch"),
    (("PUT",), r"/lfs/(?P<oid>\w{64})", False, "store"),
    (("POST",), rf"/api/models/{REPO}/commit/main", True, "commit"),
    (("GET",), rf"/api/models/{REPO}(?:/revision/\w+)?", False, "info"),
    (("GET",), rf"/api/models/{REPO}/tree/\w+", False, "tree"),
    (("GET", "HEAD"), rf"/{REPO}/resolve/\w+/(?P<path>.+)", False, "resolve"),
]
