"""Models by their id, from a small server on this machine that speaks as the hub does."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from folders import save_folder
from models import some_tokens

from llama_edu import checkpoint
from llama_edu.formats import hub
from llama_edu.formats.gguf import weights as gguf

COMMIT = hashlib.sha1(b"the first").hexdigest()
SMALL = {"config.json": b"{}", "tokenizer.json": b"[]", "README.md": b"# A model"}


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a table of files; what was asked for is noted."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.models, self.gated, self.asked = {}, set(), []
        self.breaks = {}                # file: how many answers will still break off half-way
        self.address = f"http://127.0.0.1:{self.server_port}"

    def downloads(self):
        return [path.split("/")[-1] for kind, path, _, _ in self.asked
                if kind == "GET" and "/resolve/" in path]

    def handle_error(self, request, client_address):
        """A connection that breaks is part of these tests."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing."""

    def do_HEAD(self):  # noqa: N802
        self.answer()

    def do_GET(self):  # noqa: N802
        self.answer()

    def answer(self):
        path = self.path.partition("?")[0]
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.command, path, wanted, self.headers.get("Authorization")))
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.models.get(name)
        if files is None:
            return self.refuse(404, "RepoNotFound")
        revision = parts[5] if parts[0] == "api" else parts[3]
        if revision not in ("main", COMMIT, "v1.0"):
            return self.refuse(404, "RevisionNotFound")
        if parts[0] == "api":
            listed = [{"type": "file", "path": file, "size": len(content), "oid": digest(content)}
                      for file, content in files.items()]
            about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            return self.send(json.dumps(listed if "/tree/" in path else about).encode())
        if name in self.server.gated:
            return self.refuse(401, "GatedRepo")
        file = "/".join(parts[4:])
        return self.send(files[file], file=file, wanted=wanted)

    def refuse(self, status, code):
        self.send(b"", status=status, **{"X-Error-Code": code, "X-Error-Message": "no"})

    def send(self, content, *, status=200, file="", wanted="", **headers):
        start = int(wanted[len("bytes="):].split("-")[0]) if wanted else 0
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if wanted else status)
        headers |= {"ETag": f'"{digest(content)}"', "X-Repo-Commit": COMMIT,
                    "Content-Length": str(len(content) - start), "Connection": "close"}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.breaks.get(file, 0):
            self.server.breaks[file] -= 1
            self.wfile.write(content[start : (start + len(content)) // 2])
            self.wfile.flush()
            self.connection.shutdown(2)
            return
        self.wfile.write(content[start:])
        self.close_connection = True


def digest(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def server():
    with Hub() as here:
        threading.Thread(target=here.serve_forever, args=(0.01,), daemon=True).start()
        yield here
        here.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    return partial(hub.fetch, endpoint=server.address, cache=tmp_path / "cache")


def names(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


# -- what is fetched ---------------------------------------------------------------------------


def test_a_model_of_the_hub_is_loaded_by_its_id(server, fetch, tmp_path, monkeypatch):
    save_folder(tmp_path / "model", max_shard_size="100KB")
    server.models["owner/llama"] = contents(tmp_path / "model")
    monkeypatch.setattr(hub, "fetch", fetch)
    model, words = checkpoint.load("owner/llama")
    twin, _ = checkpoint.load(tmp_path / "model")
    assert torch.equal(model(some_tokens(twin.config)), twin(some_tokens(twin.config)))
    assert words.decode(words.encode("The llama", bos=False, eos=False)) == "The llama"


def test_a_folder_of_that_name_wins_over_the_hub(server, fetch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_folder(Path("owner") / "llama")
    monkeypatch.setattr(hub, "fetch", fetch)
    checkpoint.load("owner/llama")
    assert server.asked == []


def test_only_safetensors_and_texts_of_the_top_folder_are_fetched(server, fetch):
    heavy = ("pytorch_model.bin", "consolidated.00.pth", "original/consolidated.00.pth",
             "original/params.json", "onnx/model.safetensors", "tf_model.h5", "llama.gguf",
             "adapter_model.safetensors")
    kept = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
            "model.safetensors.index.json", "tokenizer.model", "config.json", "tokenizer.json"}
    server.models["owner/llama"] = {f: f.encode() for f in {*heavy, *kept}} | SMALL
    assert names(fetch("owner/llama")) == kept
    assert set(server.downloads()) == kept


def test_the_files_of_meta_are_fetched_where_there_are_no_others(server, fetch):
    files = {"params.json", "tokenizer.model", "consolidated.00.pth", "consolidated.01.pth"}
    server.models["owner/metas"] = {f: f.encode() for f in files}
    assert names(fetch("owner/metas")) == files


def test_a_revision_is_fetched_under_its_own_name(server, fetch):
    server.models["owner/llama"] = SMALL
    assert fetch("owner/llama@v1.0").name == COMMIT
    assert any(path.endswith("/revision/v1.0") for _, path, _, _ in server.asked)


def test_the_token_of_the_library_is_sent(server, fetch, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_reader")
    server.models["owner/llama"] = SMALL
    fetch("owner/llama")
    assert {token for *_, token in server.asked} == {"Bearer hf_of_the_reader"}


# -- broken connections, and none --------------------------------------------------------------


def test_a_download_that_breaks_goes_on_where_it_stopped(server, fetch, monkeypatch):
    # The library goes on after the last whole chunk, which is 10 MB long elsewhere.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(range(256)) * 4000
    server.models["owner/llama"] = SMALL | {"model.safetensors": content}
    server.breaks = {"model.safetensors": 1}
    assert (fetch("owner/llama") / "model.safetensors").read_bytes() == content
    ranges = [wanted for kind, path, wanted, _ in server.asked
              if kind == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["", "bytes=512000-"]


def test_after_a_download_that_failed_the_whole_files_are_not_fetched_again(
        server, fetch, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)     # between the library's retries
    server.models["owner/llama"] = SMALL | {"model.safetensors": b"1234" * 1000}
    server.breaks = {"model.safetensors": 50}
    with pytest.raises(ValueError, match=r"the download of owner/llama broke off \(.*\). Start it"):
        fetch("owner/llama")
    server.breaks, before = {}, len(server.downloads())
    assert (fetch("owner/llama") / "model.safetensors").stat().st_size == 4000
    assert server.downloads()[before:] == ["model.safetensors"]


def test_what_was_fetched_is_used_when_the_hub_is_gone(server, fetch):
    server.models["owner/llama"] = SMALL
    folder = fetch("owner/llama")
    server.shutdown()
    server.server_close()
    assert fetch("owner/llama") == folder


def test_half_a_model_in_the_cache_is_not_a_model(server, fetch, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.models["owner/llama"] = SMALL | {"model.safetensors": b"1234" * 1000}
    server.breaks = {"model.safetensors": 50}
    with pytest.raises(ValueError, match="broke off"):
        fetch("owner/llama")
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="owner/llama is not, or not whole, in the cache"):
        fetch("owner/llama")


OFFLINE = """
import os, sys
os.environ |= {"HF_ENDPOINT": sys.argv[1], "HF_HOME": sys.argv[2], "HF_HUB_OFFLINE": "1"}
from llama_edu import checkpoint
model, words = checkpoint.load("owner/llama")
print(sum(w.numel() for w in model.parameters()))
try:
    checkpoint.load("owner/other")
except ValueError as error:
    print(error)
"""


def test_the_settings_of_the_library_hold(server, tmp_path):
    """Server, cache and offline mode, as a reader sets them: in a process of its own, because the
    library reads them when it is imported."""
    save_folder(tmp_path / "model")
    server.models["owner/llama"] = contents(tmp_path / "model")
    hub.fetch("owner/llama", endpoint=server.address, cache=tmp_path / "home" / "hub")
    asked = len(server.asked)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, server.address, str(tmp_path / "home")],
        capture_output=True, text=True, check=True)
    n_parameters, error = done.stdout.splitlines()
    model, _ = checkpoint.load(tmp_path / "model")
    assert int(n_parameters) == sum(w.numel() for w in model.parameters())
    assert "owner/other is not, or not whole, in the cache of this machine" in error
    assert len(server.asked) == asked


# -- what the hub refuses ----------------------------------------------------------------------


def refused(fetch, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        fetch(name)
    assert "\n" not in caught.value.args[0]


def test_a_repository_of_gguf_files_is_read_by_the_name_that_is_given(
        server, fetch, tmp_path, monkeypatch):
    save_folder(tmp_path / "model")
    for kind in ("F16", "F32"):
        gguf.write(tmp_path / "files" / f"llama-{kind}.gguf",
                   checkpoint.open_source(tmp_path / "model"), kind=kind)
    server.models["owner/ggufs"] = contents(tmp_path / "files") | {"config.json": b"{}"}
    monkeypatch.setattr(hub, "fetch", fetch)
    with pytest.raises(ValueError, match="has 2 .gguf files and no others; one must be") as refused:
        checkpoint.load("owner/ggufs")
    first, last = re.findall(r"owner/ggufs/\S+?\.gguf", str(refused.value))
    for name in (first, last):
        assert checkpoint.load(name)[0].config == checkpoint.load(tmp_path / "model")[0].config
    assert sorted(n for n in server.downloads() if n.endswith(".gguf")) == [
        "llama-F16.gguf", "llama-F32.gguf"]


def test_a_repository_of_pickles_is_refused_with_the_same_advice(
        server, fetch, monkeypatch):
    server.models["owner/bins"] = SMALL | {"pytorch_model.bin": b"a pickle"}
    monkeypatch.setattr(hub, "fetch", fetch)
    with pytest.raises(ValueError, match=r"owner/bins keeps .*from_pretrained\('owner/bins'\)"):
        checkpoint.load("owner/bins")
    assert "pytorch_model.bin" not in server.downloads()


def test_a_licence_that_was_not_accepted(server, fetch):
    server.models["meta-llama/Llama-2-7b-hf"] = SMALL
    server.gated = {"meta-llama/Llama-2-7b-hf"}
    refused(fetch, "meta-llama/Llama-2-7b-hf",
            r"the licence of meta-llama/Llama-2-7b-hf on the hub must first be accepted. Visit "
            r"https://huggingface.co/meta-llama/Llama-2-7b-hf, .* log in with: hf auth login")


def test_a_model_that_is_not_there(fetch):
    refused(fetch, "owner/nothing",
            "there is no folder 'owner/nothing', and the hub has no model owner/nothing that you "
            "may see. Check the spelling")


def test_a_revision_that_is_not_there(server, fetch):
    server.models["owner/llama"] = SMALL
    refused(fetch, "owner/llama@v9", "owner/llama on the hub has no revision 'v9'. See https")


def test_a_hub_that_cannot_be_reached(server, fetch):
    server.shutdown()
    server.server_close()
    refused(fetch, "owner/llama", "the hub cannot be reached. Connect to the network, or give")


@pytest.mark.parametrize("name", [
    "nowhere", "/no/such/folder", "./no/folder", "../folder", "a/b/c", "a\\b", "owner/llama@",
    "owner/llama@a b", "owner/", "C:\\models\\llama", "ow ner/llama", "https://huggingface.co/a/b"])
def test_a_path_that_is_no_id(fetch, server, name):
    refused(fetch, name, "there is no folder or file '.*', and no model on the hub can be called "
                         "so; a folder, a .gguf file or an id such as owner/name")
    assert server.asked == []


@pytest.mark.parametrize("name", ["a--b/c", "owner/name..x", "owner/name.git", "o/" + "n" * 200])
def test_an_id_that_the_library_refuses(fetch, server, name):
    refused(fetch, name, "there is no folder '.*', and no model on the hub can be called '.*'. Che")
    assert server.asked == []
