"""What a person sees in the browser: the runs, two of them side by side, and a trial of a study with its files.

Screenshots are kept in the test's directory, or in the one that MEMO_SCREENSHOTS names.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from memo_lightning.cli.main import main

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no Chromium with its driver (Debian: apt-get install chromium chromium-driver)",
    ),
]
TINY = [
    "debug=smoke",
    "total_frames=640",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
]
STUDY = f"""
train: [{", ".join(TINY)}]
space:
  algorithm.learning_rate: {{type: categorical, choices: [0.001]}}
n_trials: 1
"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1000",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A Memo run, an LSTM run and a study, shown by ``memo ui``: its address, a client, and a folder."""
    folder = tmp_path_factory.mktemp("browser")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for baseline in ("none", "lstm"):
            assert main(["train", *TINY, f"baseline={baseline}", f"run_dir={baseline}"]) == 0
        (folder / "one.yaml").write_text(STUDY)
        assert main(["sweep", "one.yaml"]) == 0
    command = [sys.executable, "-m", "memo_lightning.cli.main", "ui", f"port={port}"]
    with (folder / "ui.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield address, MlflowClient(f"sqlite:///{folder}/mlflow.db"), folder
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def see(browser, name, folder, *words, seconds=90):
    """Wait until the page shows all ``words``, and keep a screenshot of it in any case."""
    shots = Path(os.environ.get("MEMO_SCREENSHOTS", folder / "screenshots"))
    shots.mkdir(exist_ok=True, parents=True)
    deadline = time.monotonic() + seconds
    missing = list(words)
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        text = browser.find_element("tag name", "body").text
        missing = [word for word in words if not re.search(word, text)]
    browser.save_screenshot(str(shots / f"{name}.png"))
    assert not missing, f"{missing} not shown; see {shots / name}.png"


def test_a_person_finds_runs_compares_two_and_opens_a_trial(pages, browser):
    address, client, folder = pages
    experiment = client.get_experiment_by_name("memo-lightning").experiment_id
    runs = {run.data.tags["mlflow.runName"]: run for run in client.search_runs([experiment])}

    browser.get(f"{address}/#/experiments/{experiment}/runs")
    see(browser, "experiment", folder, "memo-lightning", "none", "lstm", "study one")

    ids = ",".join(f'"{runs[name].info.run_id}"' for name in ("none", "lstm"))
    browser.get(f'{address}/#/compare-runs?runs=[{ids}]&experiments=["{experiment}"]')
    see(browser, "compare", folder, "Comparing 2 Runs", "none", "lstm")

    trial = runs["one trial 0"]
    value = trial.data.metrics["return_per_trial"]
    browser.get(f"{address}/#/experiments/{experiment}/runs/{trial.info.run_id}")
    see(browser, "trial", folder, "one trial 0", "algorithm/learning_rate", re.escape(f"{value:.3f}"[:4]))
    below = f"tags.`mlflow.parentRunId` = '{trial.info.run_id}'"
    (seed,) = client.search_runs([experiment], below)
    browser.get(f"{address}/#/experiments/{experiment}/runs/{seed.info.run_id}/artifacts")
    see(browser, "artifacts", folder, "config.yaml", "metrics.json", "in_context_curve.png", "last.ckpt")
