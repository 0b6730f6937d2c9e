"""The tables of memo evaluate fit a terminal and omit empty columns and metrics."""

from memo_lightning.cli.evaluate import _print_table


def test_a_table_fits_80_columns_and_says_what_it_leaves_out(capsys):
    _print_table(
        "episode", range(1, 101), {"return": [-1072.4] * 100, "success": [0.5] * 99 + [None], "spl": [0.25] * 100}
    )
    *lines, rest = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    n_shown = len(lines[0].split()) - 1
    assert n_shown >= 6
    assert [line.split()[0] for line in lines] == ["episode", "return", "success", "SPL"]
    assert lines[1].split()[1:] == ["-1,072.4"] * n_shown
    assert rest == f"  the other {100 - n_shown} of 100 are in evaluation.json"


def test_ten_bins_fit(capsys):
    _print_table("up to step", range(4096, 40961, 4096), {"success": [0.97] * 10})
    head, success = capsys.readouterr().out.splitlines()
    assert head.split()[3:] == [str(4096 * k) for k in range(1, 11)]
    assert success.split()[1:] == ["0.97"] * 10


def test_columns_without_an_episode_and_metrics_without_a_value_are_left_out(capsys):
    _print_table("up to step", [5, 10, 15], {"success": [None, 1.0, 0.25], "spl": [None] * 3})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["up", "to", "step", "10", "15"],
        ["success", "1.00", "0.25"],
    ]
    _print_table("up to step", [5, 10], {"success": [None, None]})
    assert capsys.readouterr().out == ""
