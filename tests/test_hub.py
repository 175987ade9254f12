"""Neurons and whole SENs on a small local Hub: loading, errors, pushing, and equal outputs after a round trip."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import fake_hub
from random_sen import SMALL, random_inputs, random_weights
from safetensors.torch import load_file, save_file

from modeling_sen import SENConfig, SENModel, SENProcessor, hub_files
from modeling_sen.neuron_loading import resolve_spec
from modeling_sen.pipelines.video_pipeline import VideoPipeline


def outputs(model):
    with torch.no_grad():
        return model(image_pixel_values=random_inputs()["image_pixel_values"]).fused_embeds.tolist()


def by_id(**spec):
    return SENModel.from_neurons([{"num_frames": 2, **spec}], projection_dim=12, **SMALL)


def by_specification(**spec):
    tower = {"modality": "image", "class_name": "CLIPVisionModelWithProjection", "submodule": "vision_model"}
    config = SENConfig(neurons=[{**tower, "hidden_size": 16, "num_frames": 2, **spec}], projection_dim=12, **SMALL)
    return SENModel(config).load_neurons()


def problem(load):
    try:
        load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def problems():
    """Errors for a gated repository, a missing one and a missing revision, for each way to load."""
    asked = [{"hub_id": "org/gated"}, {"hub_id": "org/none"}, {"hub_id": "org/clip", "revision": "no-such"}]
    return [
        [problem(lambda load=load, spec=spec: load(name="image", **spec)) for spec in asked]
        for load in (by_id, by_specification)
    ]


class AnyPipeline(VideoPipeline):
    _forward = postprocess = None


def observe(work: str, clip: str, commits: list[str]) -> dict:
    """The results of loading from and pushing to the small Hub in a process that is online."""
    found = {"problems": problems()}
    first = by_id(hub_id="org/clip", name="image")
    found["commit"] = first.neurons["image"].commit
    first.save_pretrained(work + "/plain")
    found["pinned"] = SENConfig.from_pretrained(work + "/plain").neurons[0]["revision"]
    found["plain"] = [outputs(first), outputs(SENModel.from_pretrained(work + "/plain"))]
    first.push_to_hub("org/plain")
    for parameter in first.neurons["image"].tower.parameters():
        parameter.data.mul_(1.1)
    first.push_to_hub("org/changed")
    found["changed"] = [outputs(first), outputs(SENModel.from_pretrained("org/changed"))]

    relative = {commit: SENModel.from_pretrained("org/sen", revision=commit) for commit in (*commits, "main")}
    found["relative"] = {commit: outputs(model) for commit, model in relative.items()}
    found["relative commit"] = relative["main"].neurons["image"].commit
    relative["main"].save_pretrained(work + "/again")
    found["again"] = outputs(SENModel.from_pretrained(work + "/again"))
    elsewhere = SENModel.from_pretrained("org/sen", cache_dir=work + "/cache")
    found["elsewhere"] = outputs(elsewhere)

    torch.manual_seed(3)
    neurons = [{"hub_id": clip, "num_frames": 2}]
    pushed = random_weights(SENModel.from_neurons(neurons, text_tower=clip, **SMALL))
    pushed.push_to_hub("org/pushed", include_neurons=True)
    SENProcessor(pushed.config).push_to_hub("org/pushed")
    pushed.save_pretrained(work + "/folder", include_neurons=True, push_to_hub=True, repo_id="org/saved")
    frames = torch.randint(0, 255, (6, 20, 30, 3), dtype=torch.uint8)
    prepared = SENProcessor(pushed.config)(videos=frames, text=["a dog", "a man"])
    with torch.no_grad():
        found["pushed"], found["same weights"] = [pushed(**prepared).logits_per_video.tolist()], []
        for name in ("org/pushed", "org/saved"):
            processor = SENProcessor.from_pretrained("org/pushed")
            inputs = processor(videos=frames, text=["a dog", "a man"])
            back = SENModel.from_pretrained(name)
            found["pushed"].append(back(**inputs).logits_per_video.tolist())
            for one, two in (
                (pushed, back),
                (pushed.neurons["image"].tower, back.neurons["image"].tower),
            ):
                weights, others = one.state_dict(), two.state_dict()
                found["same weights"].append(
                    weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)
                )
    processor = SENProcessor(pushed.config)
    pipeline = AnyPipeline(model=pushed, processor=processor, device="cpu")
    pipeline.push_to_hub("org/pipeline", include_neurons=True)
    relative["main"].push_to_hub("org/relative")
    found["pushed relative"] = outputs(SENModel.from_pretrained("org/relative"))
    return found


def run_observer(module: str, url: str, work: Path, *given: Any) -> dict:
    """Runs `observe` of a test module in a separate process with the small Hub; the process of the tests is offline."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(work / "home"),
        "HF_TOKEN": "hf_of_nobody",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    code = (
        "import json, sys, modeling_sen\n"  # before the test modules, whose fixtures set offline mode
        f"from {module} import observe\n"
        "print(json.dumps(observe(*json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps([str(work), *given])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub(towers):
    with fake_hub() as hub:
        hub.upload("org/gated", towers["clip"], gated=True)
        hub.upload("org/clip", towers["clip"])
        yield hub


@pytest.fixture(scope="module")
def sen_commits(hub, towers, tmp_path_factory) -> list[str]:
    """The commits of a self-contained SEN on the Hub; its tower changes in the second one."""
    folder = tmp_path_factory.mktemp("sen")
    model = SENModel.from_neurons([{"hub_id": towers["clip"], "num_frames": 2}], projection_dim=12, **SMALL)
    random_weights(model).save_pretrained(folder, include_neurons=True)
    first = hub.upload("org/sen", folder)
    path = folder / "neuron_image" / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(path).items()}, path, {"format": "pt"})
    return [first, hub.upload("org/sen", folder)]


@pytest.fixture(scope="module")
def online(hub, towers, sen_commits, tmp_path_factory) -> dict:
    return run_observer("test_hub", hub.url, tmp_path_factory.mktemp("work"), towers["clip"], sen_commits)


def test_errors_name_neuron_and_repository_and_give_a_remedy(online, hub):
    for gated, missing, revision in online["problems"]:
        assert gated == (
            f"OSError: neuron 'image' (org/gated): the repository is gated; accept its terms on its page at {hub.url}, and "
            "log in with `hf auth login`, set HF_TOKEN, or pass neuron_kwargs={NAME: {'token': ...}}"
        )
        assert missing == (
            f"OSError: neuron 'image' (org/none): no such repository at {hub.url}, or a private one; for that, log in with "
            "`hf auth login`, set HF_TOKEN, or pass neuron_kwargs={NAME: {'token': ...}}"
        )
        assert revision == (
            "OSError: neuron 'image' (org/clip, revision 'no-such'): the repository has no such branch, tag or commit"
        )


def test_errors_in_offline_mode_name_neuron_and_repository():
    for messages in problems():
        for message, repository in zip(
            messages, ("org/gated", "org/none", "org/clip, revision 'no-such'"), strict=True
        ):
            assert message == (
                f"OSError: neuron 'image' ({repository}): not in the cache, and offline mode (HF_HUB_OFFLINE=1) is on"
            )


def test_an_unreachable_hub_is_named_in_the_error(monkeypatch):
    monkeypatch.setattr(hub_files, "is_offline_mode", lambda: False)
    with pytest.raises(
        OSError, match=r"org/unheard-of: not in the cache, and nothing answers at https://huggingface.co"
    ):
        resolve_spec("org/unheard-of")


def test_the_commit_is_pinned(online, hub):
    (commit,) = hub.repositories["org/clip"].commits
    assert online["commit"] == online["pinned"] == commit
    assert online["plain"][0] == online["plain"][1]


def test_neurons_in_the_repository_of_a_sen_are_loaded_from_its_commit(online, sen_commits):
    first, second = sen_commits
    assert online["relative"][first] != online["relative"][second]
    assert online["relative"]["main"] == online["relative"][second] == online["again"] == online["elsewhere"]
    assert online["relative commit"] == second


def test_a_pushed_sen_gives_the_same_outputs_after_loading(online, hub):
    assert online["same weights"] == [True] * 4
    local, pushed, saved = map(np.array, online["pushed"])
    # Weights mapped from a file have another memory alignment, which can change the last bit of a product.
    np.testing.assert_allclose(pushed, local, rtol=1e-5)
    np.testing.assert_allclose(saved, local, rtol=1e-5)
    assert online["pushed relative"] == online["relative"]["main"]
    (files,) = list(hub.repositories["org/pushed"].commits.values())[-1:]
    assert {"config.json", "model.safetensors", "neuron_image/model.safetensors", "README.md"} <= set(files)
    assert "processor_config.json" in files
    # Relative, as the model wrote it.
    assert json.loads(files["config.json"])["neurons"][0]["hub_id"] == "./neuron_image"


def test_only_a_changed_tower_is_pushed(online, hub):
    np.testing.assert_allclose(*online["changed"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(online["changed"][0], online["plain"][0])
    last = {name: list(hub.repositories[f"org/{name}"].commits.values())[-1] for name in ("plain", "changed")}
    assert "neuron_image/model.safetensors" in last["changed"]
    assert not any(name.startswith("neuron_") for name in last["plain"])


def test_a_pipeline_pushes_model_processor_and_towers(online, hub):
    repository = hub.repositories["org/pipeline"]
    files = repository.commits[repository.at("main")]
    config = json.loads(files["config.json"])
    assert config["neurons"][0]["hub_id"] == "./neuron_image"
    assert "custom_pipelines" not in config
    assert {"model.safetensors", "processor_config.json", "neuron_image/model.safetensors"} <= set(files)
    assert not any(name.endswith(".py") for name in files)
