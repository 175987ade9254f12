"""`sen train --task chat`: flags, defaults, and the folder of a run."""

import sys

import pytest
import yaml
from tiny_language_model import write_conversations, write_language_model

pytest.importorskip("accelerate")

import sen_cli
from modeling_sen import SENForConditionalGeneration
from modeling_sen.commands.train import read_arguments
from modeling_sen.training import trainer
from modeling_sen.training.train_settings import TrainSettings


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    """Drawing takes longer than a run of these."""
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: picture.touch())


def test_the_command_makes_a_chat_model(make_sen, clips, tmp_path, monkeypatch, capsys):
    llm, source = write_language_model(tmp_path / "llm"), write_conversations(tmp_path / "chat.json", clips)
    make_sen().save_pretrained(tmp_path / "sen")
    run = tmp_path / "run"
    flags = ["--task", "chat", "--preset", "align", "--llm", llm, "--sen", str(tmp_path / "sen"), "--train", source]
    flags += [
        "--validation",
        source,
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "2",
        "--output_dir",
        str(run),
    ]
    monkeypatch.setattr(sys, "argv", ["sen", "train", *flags])
    sen_cli.main()
    expected = f"{run}/best: load it with SENForConditionalGeneration.from_pretrained, or pass it to sen chat --model"
    assert expected in capsys.readouterr().out
    model = SENForConditionalGeneration.from_pretrained(run / "best")
    assert model.config.language_model["hub_id"] == llm
    saved = yaml.safe_load((run / "train.yaml").read_text())
    assert (saved["task"], saved["preset"], saved["llm"], saved["learning_rate"]) == ("chat", "align", llm, 1e-3)
    # The same settings from the file are the same run, which is finished.
    monkeypatch.setattr(sys, "argv", ["sen", "train", "--config", str(run / "train.yaml"), "--output_dir", str(run)])
    sen_cli.main()
    assert expected in capsys.readouterr().out


def test_defaults_are_those_of_the_preset_and_flags_win(tmp_path):
    usual = ["--task", "chat", "--train", "chat.json", "--output_dir", str(tmp_path)]
    settings, training = read_arguments(usual)
    assert (settings.preset, training.learning_rate) == (None, 1e-3)
    assert (training.per_device_train_batch_size, training.num_train_epochs) == (8, 1)
    assert read_arguments([*usual, "--preset", "instruct"])[1].learning_rate == 2e-5
    given = [*usual, "--preset", "instruct", "--learning_rate", "3e-4", "--llm_training", "full", "--num_frames", "32"]
    settings, training = read_arguments(given)
    assert (settings.llm_training, settings.num_frames, training.learning_rate) == ("full", 32, 3e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"llm": "x"}, "a new chat model needs --llm and --sen; found --llm without --sen"),
        ({"sen": "x"}, "found --sen without --llm"),
        ({"llm_training": "lora"}, "need --preset instruct"),
        ({"preset": "align", "llm_learning_rate": 1e-4}, "need --preset instruct"),
        ({"num_frames": 0}, "num_frames is 0, expected at least 1"),
        ({"skip_unreadable": True}, "the task 'chat' does not take skip_unreadable"),
        ({"train": ""}, "expected --train"),
        (
            {"task": "retrieval", "preset": "align"},
            "the task 'retrieval' does not take preset, which are for the task 'chat'",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience needs validation clips"),
    ],
)
def test_wrong_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**{"task": "chat", "train": "chat.json", **given})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "tune"], "argument --preset: invalid choice: 'tune'"),
        (["--train", "none.json"], "none.json: no such file or folder"),
    ],
)
def test_user_errors_are_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sen", "train", "--task", "chat", "--output_dir", str(tmp_path / "run"), *flags])
    with pytest.raises(SystemExit) as stopped:
        sen_cli.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
