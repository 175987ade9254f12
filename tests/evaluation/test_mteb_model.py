"""A SEN as mteb's encoders are, on a tiny task of mteb's own form, offline."""

import numpy as np
import pytest

pytest.importorskip("mteb")

import datasets
import mteb
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

from modeling_sen import SEN_TINY
from modeling_sen.evaluation.mteb_model import SENForMTEB
from modeling_sen.world.dataset import WorldClips
from modeling_sen.world.vocabulary import describe
from modeling_sen.world.write import write_world

CLIPS = 6


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Clips of one object each, and what they show."""
    folder = tmp_path_factory.mktemp("mteb")
    write_world(folder, "test", CLIPS, num_objects=1)
    scenes = WorldClips("test", CLIPS, 0, num_objects=1)
    return sorted((folder / "videos").glob("*.mp4")), [describe(scenes.scene(row).sprites[0]) for row in range(CLIPS)]


@pytest.fixture(scope="module")
def model():
    return SENForMTEB(SEN_TINY)


class TinyZeroShot(AbsTaskZeroShotClassification):
    """Form of mteb's HMDB51ZeroShot: a video column, a label of named classes, candidate texts."""

    __test__ = False
    metadata = TaskMetadata(
        name="TinyZeroShot",
        description="drawn clips",
        reference=None,
        dataset={"path": "nobody/nothing", "revision": "1"},
        type="VideoZeroshotClassification",
        category="v2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
        modalities=["video", "text"],
    )
    input_column_name = "video"

    def __init__(self, files, names):
        super().__init__()
        classes = sorted(set(names))
        features = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=classes)})
        rows = {"video": [str(file) for file in files], "label": [classes.index(name) for name in names]}
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features=features)})
        self.data_loaded = True

    def load_data(self, *args, **kwargs):
        pass

    def get_candidate_labels(self):
        return [f"a video of {name}" for name in self.dataset["test"].features["label"].names]


def test_a_task_of_mtebs_form(model, drawn):
    files, names = drawn
    results = mteb.evaluate(model, TinyZeroShot(files, names), cache=None, encode_kwargs={"batch_size": 4})
    (task,) = results.task_results
    texts = model.encoder.encode_text([f"a video of {name}" for name in sorted(set(names))])
    predicted = (model.encoder.encode([str(file) for file in files]) @ texts.T).argmax(1)
    expected = np.mean([sorted(set(names))[number] == name for number, name in zip(predicted, names, strict=True)])
    assert task.get_score() == pytest.approx(expected)
    assert expected >= 0.5  # chance is 1/6; sen-tiny knows such clips


def test_frames_are_the_protocols(model):
    (spec,) = (spec for spec in model.encoder.processor.config.neuron_specs if spec.modality == "image")
    assert (spec.num_frames, spec.sampling) == (8, "linspace-rounded")
    assert model.mteb_model_meta.embed_dim == 128
    assert model.mteb_model_meta.modalities == ["audio", "image", "text", "video"]


def test_inputs_that_cannot_be_embedded_are_errors(model):
    class Loader:
        dataset = datasets.Dataset.from_dict({"label": [1]})

    with pytest.raises(ValueError, match="found label"):
        model.encode(Loader())
