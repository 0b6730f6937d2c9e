"""The MLflow server of `memo ui`: runs logged over HTTP, and how the browser shows them.

Screenshots are saved in the test's directory, or in the one that MEMO_SCREENSHOTS names.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from browsing import chromium
from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.tracking.registry import fetch_checkpoint
from tiny import TINY_TRAINING

pytestmark = pytest.mark.slow
TINY = [
    *TINY_TRAINING,
    "total_frames=640",
]
STUDY = f"""
train: [{", ".join(TINY)}]
space:
  algorithm.learning_rate: {{type: categorical, choices: [0.001]}}
n_trials: 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve a store that contains a Memo run with ``memo ui``; return the address and the folder."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *TINY, "run_dir=memo"]) == 0
    command = [sys.executable, "-m", "memo_lightning.cli.main", "ui", f"port={port}"]
    with (folder / "ui.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise AssertionError((folder / "ui.log").read_text())
        yield address, folder
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def logged_over_http(server):
    """Log an LSTM run and a study of one trial to the server."""
    address, folder = server
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tracked = f"logger.tracking_uri={address}"
        assert main(["train", *TINY, "baseline=lstm", "run_dir=lstm", tracked]) == 0
        (folder / "one.yaml").write_text(STUDY)
        assert main(["sweep", "one.yaml", tracked]) == 0
    return server


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "profile") as driver:
        yield driver


def see(browser, name, folder, *words, seconds=90):
    """Wait until the page shows all ``words``, save a screenshot in any case, and return the page's text."""
    shots = Path(os.environ.get("MEMO_SCREENSHOTS", folder / "screenshots"))
    shots.mkdir(exist_ok=True, parents=True)
    deadline = time.monotonic() + seconds
    missing, text = list(words), ""
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        text = browser.find_element("tag name", "body").text
        missing = [word for word in words if not re.search(word, text)]
    browser.save_screenshot(str(shots / f"{name}.png"))
    assert not missing, f"{missing} not shown; see {shots / name}.png:\n{text}"
    return text


def test_a_run_is_tracked_registered_and_loaded_over_http(logged_over_http, monkeypatch, capsys):
    server, folder = logged_over_http
    monkeypatch.chdir(folder)
    metrics = json.loads((folder / "lstm" / "metrics.json").read_text())
    history = MlflowClient(server).get_metric_history(metrics["mlflow_run_id"], "train/return_per_trial")
    assert [point.value for point in history] == [point["return_per_trial"] for point in metrics["history"]]

    assert main(["register", "run_dir=lstm", "name=tiny"]) == 0
    assert "memo evaluate checkpoint=models:/tiny/1" in capsys.readouterr().out
    downloaded = fetch_checkpoint(server, "models:/tiny/1", folder / "download")
    assert downloaded.read_bytes() == (folder / "lstm" / "checkpoints" / "last.ckpt").read_bytes()
    evaluation = ["n_trials=6", "n_envs=4", f"tracking_uri={server}"]
    assert main(["evaluate", "checkpoint=models:/tiny/1", "run_dir=a", *evaluation]) == 0
    assert main(["evaluate", "checkpoint=lstm/checkpoints/last.ckpt", "run_dir=b", *evaluation]) == 0
    registered, local = (json.loads((folder / name / "evaluation.json").read_text()) for name in "ab")
    assert registered.pop("checkpoint") != local.pop("checkpoint")
    assert registered == local
    with pytest.raises(UserError, match="models:/tiny/9: cannot be fetched"):
        fetch_checkpoint(server, "models:/tiny/9", folder)


def test_a_person_finds_runs_compares_two_and_opens_a_trial(logged_over_http, browser):
    address, folder = logged_over_http
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("memo-lightning").experiment_id
    runs = {run.data.tags["mlflow.runName"]: run for run in client.search_runs([experiment])}

    page = re.search(r"open (http://\S+)", (folder / "ui.log").read_text())[1]
    assert f"/experiments/{experiment}/runs" in page
    browser.get(page)
    # The training pages show what a researcher wants to know about a run, without choosing columns.
    text = see(browser, "start", folder, "return_per_trial", r"frames_per_s", "Duration", "Run Name")
    assert "Prompts" not in text
    browser.get("about:blank")  # otherwise MLflow's pages can hang between views
    browser.get(f"{address}/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning")
    text = see(browser, "charts", folder, r"train\s+\(\d", "return_per_trial")
    sections = re.findall(r"^(\S+)\s+\(\d+\)$", text, re.MULTILINE)
    assert sections[0] == "train", "learning curves come first"
    browser.get(f"{address}/#/experiments/{experiment}/runs")
    see(browser, "experiment", folder, "memo-lightning", "memo", "lstm", "study one")

    ids = ",".join(f'"{runs[name].info.run_id}"' for name in ("memo", "lstm"))
    browser.get(f'{address}/#/compare-runs?runs=[{ids}]&experiments=["{experiment}"]')
    # The parameter that differs, with both values side by side.
    see(browser, "compare", folder, "Comparing 2 Runs", r"choices/baseline\s+(none\s+lstm|lstm\s+none)\b")

    keys = '["train/return_per_trial"]'
    settings = f'metric="train/return_per_trial"&plot_metric_keys={keys}&plot_layout={{"autosize":true}}&x_axis=step'
    browser.get(f'{address}/#/metric?runs=[{ids}]&experiments=["{experiment}"]&{settings}')
    # Both learning curves in one chart, over frames.
    see(browser, "curves", folder, "train/return_per_trial", "memo", "lstm", "640")

    trial = runs["one trial 0"]
    value = trial.data.metrics["return_per_trial"]
    browser.get(f"{address}/#/experiments/{experiment}/runs/{trial.info.run_id}")
    see(browser, "trial", folder, "one trial 0", "algorithm/learning_rate", re.escape(f"{value:.3f}"[:4]))
    below = f"tags.`mlflow.parentRunId` = '{trial.info.run_id}'"
    (seed,) = client.search_runs([experiment], below)
    browser.get(f"{address}/#/experiments/{experiment}/runs/{seed.info.run_id}/artifacts")
    see(browser, "artifacts", folder, "config.yaml", "metrics.json", "in_context_curve.png", "last.ckpt")


def test_a_person_scrubs_through_a_trial_in_the_view_of_artifacts(logged_over_http, browser, monkeypatch):
    address, folder = logged_over_http
    monkeypatch.chdir(folder)
    evaluation = ["n_trials=2", "n_envs=2", "render=true", "run_dir=rendered"]
    assert main(["evaluate", "checkpoint=lstm/checkpoints/last.ckpt", *evaluation]) == 0
    metrics = json.loads((folder / "rendered" / "evaluation.json").read_text())
    run = MlflowClient(address).get_run(metrics["mlflow_run_id"]).info
    page = f"artifacts/evaluation/held_out_{metrics['trial_length']}_steps/trial.html"
    browser.get(f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}/{page}")
    see(browser, "inspector", folder, "trial.html")
    deadline = time.monotonic() + 60
    while not (frames := browser.find_elements("tag name", "iframe")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert frames[0].get_attribute("sandbox") == "allow-scripts"
    browser.switch_to.frame(frames[0])
    while not browser.execute_script("return 'ready' in document.documentElement.dataset"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    browser.find_element("id", "on").click()
    time.sleep(0.5)
    assert browser.find_element("id", "tile-step").text == f"2 of {metrics['trial_length']}"
