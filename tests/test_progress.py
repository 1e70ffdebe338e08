from qupath_bridge.progress import stage_lines


def test_stages_are_told_at_their_beginning_and_end_and_now_and_then(capsys):
    tell = stage_lines(every_s=3600)
    for done in range(1, 6):
        tell("features", done, 5)
    for done in range(1, 4):
        tell("train", done, 400)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["features: 1/5", "features: 5/5", "train: 1/400"]
    assert captured.out == ""


def test_without_a_pause_every_step_is_told(capsys):
    tell = stage_lines(every_s=0)
    for done in range(1, 4):
        tell("train", done, 9)
    assert capsys.readouterr().err.splitlines() == ["train: 1/9", "train: 2/9", "train: 3/9"]
