"""Shell completion, called as the shells call it."""

import shutil
import subprocess
import sys

import pytest

from memo_lightning.cli.completion import completions
from memo_lightning.cli.main import VERBS, main


def test_verbs_groups_options_and_settings_are_completed(monkeypatch, tmp_path):
    assert set(completions("memo ")) == set(VERBS)
    assert completions("memo tr") == ["train"]
    assert completions("memo train bas") == ["baseline="]
    assert completions("memo train baseline=l") == ["baseline=lstm"]
    assert "algorithm.gamma=" in completions("memo train seed=1 algorithm.")
    assert completions("memo train baseline=rmt baseline.equal") == ["baseline.equal_memory_at="]
    assert completions("memo train baseline.equal") == []
    assert completions("memo train baseline=nonsense algorithm.gam") == ["algorithm.gamma="], "a mistake so far"
    assert completions("memo train env/v") == ["env/vision="]
    assert completions("memo train env/vision=v") == ["env/vision=vit"]
    assert completions("memo reproduce many") == ["many_rooms"]
    assert completions("memo reproduce many_rooms work") == ["workers="]
    assert completions("memo train repr") == []
    assert "env=gymnasium" in completions("memo check-env env=g")
    assert completions("memo check-env env.trial_l") == ["env.trial_length="]
    assert completions("memo evaluate trial_m") == ["trial_multiplier="]
    assert completions("memo evaluate env.trial_l") == ["env.trial_length="]
    assert completions("memo evaluate model.segment_l") == ["model.segment_length="]
    assert completions("memo completion z") == ["zsh"]
    assert completions("memo nonsense x") == []
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert "sweeps/mine.yaml" in completions("memo sweep ")
    assert completions("memo sweep sweeps/mine.yaml n_tr") == ["n_trials="]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_a_word(tmp_path):
    memo = tmp_path / "memo"
    memo.write_text(f'#!/bin/sh\nexec {sys.executable} -m memo_lightning.cli.main "$@"\n')
    memo.chmod(0o755)
    script = """
        eval "$(memo completion bash)"
        COMP_LINE="memo train baseline=lst"; COMP_POINT=${#COMP_LINE}
        _memo_complete 2> /dev/null
        echo "${COMPREPLY[@]}"
    """
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "lstm"


def test_other_shells_are_refused(capsys):
    assert main(["completion", "fish"]) == 2
    assert "shell='fish': must be bash or zsh" in capsys.readouterr().err
