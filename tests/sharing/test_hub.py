"""The Hugging Face Hub, up to the network."""

import shutil
from types import SimpleNamespace

import pytest
from test_agent import make_toy, save_policy

import memo_lightning
from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.policies import hub
from memo_lightning.sharing.package import write_package

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")


@pytest.fixture
def package(in_tmp_dir):
    save_policy(in_tmp_dir / "x.ckpt", make_toy("nested")[0])
    return write_package("x.ckpt", in_tmp_dir / "policy").folder


@pytest.fixture
def offline(monkeypatch, free_port):
    """Point the Hub client at an address where nothing answers."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "cache")
    monkeypatch.setenv("HF_HUB_CACHE", "cache")


def test_a_push_makes_the_repository_and_uploads_what_the_manifest_lists(package, monkeypatch, capsys):
    done = []

    class Api:
        def __init__(self, library_name):
            assert library_name == "memo-lightning"

        def create_repo(self, repo, **settings):
            done.append(("create", repo, settings))

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
            done.append((path_in_repo, repo_id, path_or_fileobj.decode()))

        def upload_folder(self, **settings):
            done.append(("upload", settings))
            return SimpleNamespace(commit_url="https://hub.example/owner/name/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    (package / "notes.txt").write_text("private")
    assert main(["push", str(package), "repo=owner/name", "private=true"]) == 0
    assert done[0] == ("create", "owner/name", {"private": True, "exist_ok": True})
    assert done[1][:2] == ("README.md", "owner/name")
    assert 'memo_lightning.load("hf:owner/name")' in done[1][2]
    settings = done[2][1]
    assert settings["repo_id"] == "owner/name"
    assert set(settings["allow_patterns"]) == {"manifest.json", "model.safetensors", "policy.json", "training.json"}
    assert "https://hub.example/owner/name/commit/1" in capsys.readouterr().out


def test_what_is_on_the_hub_is_loaded_by_name(package, monkeypatch):
    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.append((repo, revision))
        return str(shutil.copytree(package, "cache", ignore=shutil.ignore_patterns("*.txt"), dirs_exist_ok=True))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    agent = memo_lightning.load("hf:owner/my.policy-1")
    assert agent.spec.as_plain() == memo_lightning.load("x.ckpt").spec.as_plain()
    memo_lightning.load("hf:owner/name@v2")
    assert asked == [("owner/my.policy-1", None), ("owner/name", "v2")]
    (package.parent / "cache/policy.json").write_text("{}")
    with pytest.raises(UserError, match=r"policy.json: interface=.* was changed by hand"):
        memo_lightning.load("cache")


@pytest.mark.usefixtures("offline")
def test_without_a_network_it_is_one_line(package, capsys):
    assert main(["push", str(package), "repo=owner/name"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("memo: repo=owner/name: cannot be uploaded to the Hugging Face Hub (")
    assert error.count("\n") == 1, error
    with pytest.raises(UserError, match=r"checkpoint=hf:owner/name: cannot be fetched from the Hugging Face Hub \("):
        memo_lightning.load("hf:owner/name")


def test_mistakes_are_one_line(package, monkeypatch, capsys):
    shutil.copytree(package, "spoilt")
    (package.parent / "spoilt/policy.json").write_text("{}")
    for words, message in {
        "repo=owner/name": "memo push needs one folder and a repository: memo push DIR repo=owner/name",
        "policy": "repo=null: must be OWNER/NAME on the Hugging Face Hub: memo push policy repo=OWNER/NAME",
        "policy repo=name": "repo='name': must be OWNER/NAME on the Hugging Face Hub",
        "missing repo=owner/name": "missing: not a package (no manifest.json); make one with memo package",
        "spoilt repo=owner/name": "was changed by hand",
    }.items():
        assert main(["push", *words.split()]) == 2
        error = capsys.readouterr().err
        assert message.lower() in error.lower()
        assert error.count("\n") == 1, error
    for source in ("hf:", "hf:name", "hf:a/b/c", "hf:../x"):
        with pytest.raises(UserError, match=r"must be hf:OWNER/NAME|cannot be fetched"):
            memo_lightning.load(source)


def test_without_the_extra_it_says_how_to_install_it(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf:owner/name: needs huggingface_hub: pip install 'memo-lightning\[hub\]'"):
        hub.import_hub("hf:owner/name")
