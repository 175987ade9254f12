"""`sen eval`: results that say what they depend on, runs that go on, splits with their spread."""

import json
import sys

import numpy as np
import pytest

from modeling_sen import SEN_TINY, SENEncoder
from modeling_sen.commands.evaluate import main
from modeling_sen.evaluation import clip_embeddings
from modeling_sen.evaluation.clip_embeddings import EmbeddingStore, model_sha1


@pytest.fixture
def lists(clips, tmp_path):
    """Two splits of the world's clips, in the form of published lists, with class names."""
    (tmp_path / "names.csv").write_text("id,name\n0,dog\n1,cat\n2,bird\n")
    for split, rows in enumerate(([(0, 0), (1, 1)], [(1, 1), (2, 0), (0, 2)]), 1):
        (tmp_path / f"val{split}.txt").write_text("".join(f"{clips[clip].name} {label}\n" for clip, label in rows))
    return tmp_path


def run(sen_folder, lists, clips, output, **options):
    main(
        str(sen_folder),
        [str(lists / "val1.txt"), str(lists / "val2.txt")],
        root=clips[0].parent,
        class_names=[lists / "names.csv"],
        output=output,
        **options,
    )
    return json.loads((output / "results.json").read_text())


def test_results_state_all_settings(sen_folder, lists, clips, tmp_path, capsys):
    results = run(sen_folder, lists, clips, tmp_path / "out", protocol="openvclip", as_json=True, plot=True)
    assert json.loads(capsys.readouterr().out) == results
    assert results["protocol"]["name"] == "openvclip"
    assert results["protocol"]["version"] == 1
    assert len(results["templates"]) == 28
    assert results["model"]["sha1"] == model_sha1(SENEncoder.from_pretrained(sen_folder).model)
    assert {neuron["name"] for neuron in results["model"]["neurons"]} > {"image", "video", "audio"}
    assert [part["clips"] for part in results["data"]] == [2, 3]
    assert all(len(listed["sha1"]) == 40 for part in results["data"] for listed in part["listed"])
    assert results["seed"] == 0
    top1 = [part["top1"] for part in results["splits"]]
    assert results["mean"]["top1"] == pytest.approx(np.mean(top1))
    assert results["std"]["top1"] == pytest.approx(np.std(top1, ddof=1))
    for split in (1, 2):
        rows = (tmp_path / "out" / f"confusion-{split}.csv").read_text().splitlines()
        assert rows[0] == ",dog,cat,bird"
        assert sum(int(count) for row in rows[1:] for count in row.split(",")[1:]) == split + 1
        for picture in (f"confusion-{split}.png", f"per_class-{split}.png"):
            assert (tmp_path / "out" / picture).stat().st_size > 5000


def test_an_interrupted_run_resumes(sen_folder, lists, clips, tmp_path, monkeypatch):
    whole = run(sen_folder, lists, clips, tmp_path / "whole")
    monkeypatch.setattr(clip_embeddings, "SHARD_CLIPS", 1)
    embedded = []
    encode = SENEncoder.encode

    def interrupted(self, read, batch_size):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.append(read)
        return encode(self, read, batch_size)

    monkeypatch.setattr(SENEncoder, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(sen_folder, lists, clips, tmp_path / "out")
    (kept,) = (tmp_path / "out" / "embeddings").iterdir()
    files = sorted(kept.iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-7])  # damaged: made again
    embedded.clear()
    monkeypatch.setattr(SENEncoder, "encode", lambda *given: embedded.append(given[1]) or encode(*given))
    again = run(sen_folder, lists, clips, tmp_path / "out")
    assert len(embedded) == 2  # of three clips
    assert again["splits"] == whole["splits"]
    embedded.clear()
    run(sen_folder, lists, clips, tmp_path / "out")
    assert not embedded
    assert len(EmbeddingStore(kept).rows) == 3


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_clip_is_named_and_earlier_results_are_kept(
    sen_folder, clips, tmp_path, monkeypatch, capsys, damage
):
    import sen_cli

    monkeypatch.setattr(clip_embeddings, "SHARD_CLIPS", 1)
    folder = tmp_path / "data" / "some"
    folder.mkdir(parents=True)
    (folder / "a.mp4").symlink_to(clips[0])
    whole = clips[1].read_bytes()
    (folder / "b.mp4").write_bytes({"truncated": whole[:300], "text": b"not a video " * 50, "empty": b""}[damage])
    command = ["sen", "eval", str(sen_folder), str(folder.parent), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit:
        sen_cli.main()
    assert exit.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sen eval: ")]
    assert len(errors) == 1
    assert str(folder / "b.mp4") in errors[0]
    assert len(list((tmp_path / "out" / "embeddings").rglob("*.safetensors"))) == 1
    assert not (tmp_path / "out" / "results.json").exists()


def test_another_protocol_needs_new_embeddings(sen_folder, lists, clips, tmp_path):
    for protocol in ("own", "pe"):
        run(sen_folder, lists, clips, tmp_path / "out", protocol=protocol)
    kinds = sorted(folder.name.split("-")[0] for folder in (tmp_path / "out" / "embeddings").iterdir())
    assert kinds == ["own", "pe"]


def test_retrieval_finds_clips_by_their_captions(tmp_path, capsys):
    main(SEN_TINY, ["world:test?num=6&num_objects=1"], task="retrieval", output=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["mean"]["text_to_video_R@1"] >= 0.5  # chance is 1/6; sen-tiny knows such clips
    assert results["mean"]["video_to_text_R@10"] == 1.0
    assert results["data"] == [{"file": "world:test?num=6&num_objects=1", "clips": 6, "texts": 6}]
    shown = capsys.readouterr().out
    assert "text_to_video_R@1" in shown
    assert "over" not in shown  # one split has no spread


def test_the_seed_determines_the_drawn_clips(tmp_path):
    found = []
    for seed in (0, 0, 1):
        main(SEN_TINY, ["world:test?num=9&num_objects=1"], num=3, seed=seed, output=tmp_path)
        found.append((tmp_path / "confusion.csv").read_text())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--protocol", "mine"], "protocol 'mine', expected one of xclip, vifi"),
        (["x", "--task", "captioning"], "--task 'captioning', expected one of recognition, retrieval, tracking, chat"),
        (["x", "--query-mode", "first"], "--query-mode requires --task tracking, found --task recognition"),
        (["x", "--dataset", "imagenet"], "dataset 'imagenet', expected one of hmdb51"),
        (["--protocol", "mteb", "--dataset", "ssv2"], "or a --dataset that protocol mteb has on the Hub (hmdb51,"),
        (["x", "--task", "retrieval", "--head", "y"], "--task retrieval does not support --head"),
    ],
)
def test_user_errors_are_one_line(arguments, message, capsys, monkeypatch):
    import sen_cli

    monkeypatch.setattr(sys, "argv", ["sen", "eval", SEN_TINY, *arguments])
    with pytest.raises(SystemExit) as exit:
        sen_cli.main()
    assert exit.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("sen eval: ")
    assert message in errors[0]
