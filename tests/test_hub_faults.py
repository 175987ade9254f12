"""Faults between a SEN and the Hub: a clear error, no partial files, and success on the next attempt.

Tokens are neither printed nor written in any of these cases.
"""

import json
import logging
import traceback
from pathlib import Path

import pytest
import torch
from fake_hub import fake_hub
from hub_session import PUSHED, READER, STRANGER, WRITER, connected
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from random_sen import SMALL, random_inputs, random_weights
from test_pretrained_sen import load_toy_head
from test_remote_code import with_layout
from transformers import AutoConfig, AutoModel

from modeling_sen import SENModel, SENProcessor
from modeling_sen.hub_files import commit_folder

PIXELS = random_inputs()["image_pixel_values"]
FRAMES = torch.zeros(4, 20, 30, 3, dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(towers, tmp_path_factory) -> Path:
    """The SEN that is on the Hub; it contains its towers."""
    toy = load_toy_head()
    AutoConfig.register("sen_toy", toy.ToyConfig, exist_ok=True)
    AutoModel.register(toy.ToyConfig, toy.ToyHead, exist_ok=True)
    folder = tmp_path_factory.mktemp("checkpoints") / "sen"
    torch.manual_seed(1)
    model = SENModel.from_neurons([{"hub_id": towers["clip"], "num_frames": 2}], projection_dim=12, **SMALL)
    random_weights(model).save_pretrained(folder, include_neurons=True)
    SENProcessor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> SENModel:
    """The SEN that is pushed; its gate differs from the one on the Hub."""
    model = SENModel.from_pretrained(folder)
    model.gate.data.add_(0.1)
    return model


@pytest.fixture
def hub(folder):
    with fake_hub() as hub:
        hub.large_file = 20_000
        hub.tokens = {WRITER: "write", READER: "read"}
        hub.upload("org/sen", folder)
        yield hub
        commits = [files for repository in hub.repositories.values() for files in repository.commits.values()]
        assert not any(b"_secret" in content for files in commits for content in files.values())


@pytest.fixture(autouse=True)
def no_token_is_shown_or_written(caplog, capfd, tmp_path, monkeypatch):
    """Logs everything at level DEBUG; neither the log nor any file contains a token."""
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "httpx2", "httpcore2")]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    yield
    shown = "".join(record.getMessage() for phase in ("setup", "call") for record in caplog.get_records(phase))
    shown += "".join(capfd.readouterr())
    assert "Send: curl" in shown
    assert "_secret" not in shown
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"_secret" not in path.read_bytes(), path


def problem(call) -> str:
    """The message of the OSError that the call raises; neither the error nor its causes contain a token."""
    with pytest.raises(OSError) as found:
        call()
    assert "_secret" not in "".join(traceback.format_exception(found.value))
    return str(found.value)


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        return model(image_pixel_values=PIXELS).fused_embeds


def left_in(home: Path) -> list[str]:
    """Temporary and incomplete files of an upload or a download."""
    return [str(path) for path in home.rglob("*") if "temporary" in path.parts[-2:-1] or path.suffix == ".incomplete"]


# --- pushing ---------------------------------------------------------------------------------------------------------

FAULT = "answers {status} (the Hub has a fault); try again later"
BROKE = "the connection to {hub} broke ("
PUSH_FAULTS = {
    "create answers 500": ({"kind": "create", "status": 500}, "{hub} " + FAULT),
    "create is cut": ({"kind": "create", "received": 10}, BROKE),
    "the card cannot be read": ({"kind": "head", "file": "README.md", "status": 503}, "README.md: {hub} " + FAULT),
    "the card is cut": ({"kind": "file", "file": "README.md", "sent": 10}, "README.md: " + BROKE),
    "preupload answers 503": ({"kind": "preupload", "status": 503}, "{hub} " + FAULT),
    "large files are not taken": ({"kind": "batch", "status": 500}, "{hub} " + FAULT),
    "an upload answers 503": ({"kind": "store", "status": 503}, "{hub} " + FAULT),
    "an upload is cut": ({"kind": "store", "received": 9000}, BROKE),
    "the second upload is cut": ({"kind": "store", "received": 9000, "skip": 1}, BROKE),
    "commit answers 500": ({"kind": "commit", "status": 500}, "{hub} " + FAULT),
    "commit is cut": ({"kind": "commit", "received": 1000}, BROKE),
}


@pytest.mark.parametrize("kind", ["model", "folder"])
@pytest.mark.parametrize(("fault", "expected"), PUSH_FAULTS.values(), ids=PUSH_FAULTS)
def test_a_failed_push_leaves_the_repository_unchanged(fault, expected, kind, model, hub, tmp_path):
    pushed = PUSHED[kind](model)
    repository = hub.repositories["org/sen"]
    card = b"---\nlicense: mit\n---\nWritten by hand."
    repository.commit({**repository.files, "README.md": card})
    before = dict(repository.refs)
    hub.fail(**fault)
    with connected(hub, tmp_path, WRITER):
        message = problem(lambda: pushed.push_to_hub("org/sen"))
        assert message.startswith("org/sen: " + expected.format(hub=hub.url, status=fault.get("status")))
        assert repository.refs == before
        assert left_in(tmp_path) == []
        hub.faults.clear()
        pushed.push_to_hub("org/sen")
        assert b"Written by hand." in repository.files["README.md"]
        torch.testing.assert_close(outputs(SENModel.from_pretrained("org/sen")), outputs(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["preupload", "batch", "store"])
@pytest.mark.parametrize("settings", [{"status": 503}, {"received": 100}], ids=["503", "cut"])
def test_a_push_succeeds_after_a_temporary_fault(kind, settings, model, hub, tmp_path):
    hub.fail(kind, times=2, **settings)
    with connected(hub, tmp_path, WRITER):
        assert model.push_to_hub("org/sen").oid == hub.repositories["org/sen"].refs["main"]


def test_a_push_is_complete_if_only_its_last_answer_is_lost(model, hub, tmp_path):
    hub.fail("commit", sent=0)
    with connected(hub, tmp_path, WRITER):
        assert problem(lambda: model.push_to_hub("org/new")).startswith(
            f"org/new: the connection to {hub.url} broke ("
        )
    assert {"config.json", "model.safetensors", "README.md"} <= set(hub.repositories["org/new"].files)


def test_a_folder_is_committed_completely_or_not_at_all(hub, tmp_path, monkeypatch):
    """`upload_folder` splits the commit if hf_xet is installed and the Hub refuses a commit of many files."""
    for number in range(30):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / f"{number}.txt").write_text(str(number))
    before = dict(hub.repositories["org/sen"].refs)
    hub.fail("commit", status=500, times=40)
    with connected(hub, tmp_path, WRITER):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        with pytest.raises(HfHubHTTPError):
            commit_folder(HfApi(), "org/sen", tmp_path / "many", "Upload")
        assert hub.repositories["org/sen"].refs == before
        hub.faults.clear()
        commit_folder(HfApi(), "org/sen", tmp_path / "many", "Upload")
    assert {f"{number}.txt" for number in range(30)} <= set(hub.repositories["org/sen"].files)
    assert len(hub.repositories["org/sen"].commits) == 2


@pytest.mark.parametrize("kind", PUSHED)
def test_every_push_reports_the_reason_of_a_refusal(kind, model, hub, tmp_path):
    pushed, before = PUSHED[kind](model), dict(hub.repositories["org/sen"].refs)
    login = "log in with `hf auth login`, set HF_TOKEN, or pass token=..."
    refused = {
        STRANGER: "Invalid credentials in Authorization header",
        READER: "Forbidden: you must use a write token to upload to a repository.",
        None: "Invalid username or password.",
    }
    for token, reason in refused.items():
        with connected(hub, tmp_path, token):
            for repo_id in ("org/sen", "org/new"):
                message = problem(lambda repo_id=repo_id: pushed.push_to_hub(repo_id))
                assert message == f"{repo_id}: {hub.url} refuses the token ({reason}); {login}"
    hub.fail("commit", status=503)
    with connected(hub, tmp_path):
        message = problem(lambda: pushed.push_to_hub("org/new", token=WRITER, commit_message="again"))
    assert message == f"org/new: {hub.url} answers 503 (the Hub has a fault); try again later"
    assert hub.repositories["org/sen"].refs == before
    assert set(hub.repositories["org/new"].files) == {".gitattributes"}  # created, but empty
    assert left_in(tmp_path) == []


# --- pulling ---------------------------------------------------------------------------------------------------------

WEIGHTS, TOWER = "org/sen: model.safetensors: ", "neuron 'image' (./neuron_image): org/sen: neuron_image/"
PULL_FAULTS = {
    "weights answer 500": ({"kind": "head", "file": "model.safetensors", "status": 500}, WEIGHTS + "{hub} " + FAULT),
    "their download answers 503": ({"kind": "storage", "status": 503}, WEIGHTS + "{hub} " + FAULT),
    "their download is cut": ({"kind": "storage", "sent": 5000}, WEIGHTS + BROKE + "peer closed connection without"),
    "their download stops": ({"kind": "storage", "sent": 5000, "pause": 0.3}, WEIGHTS + BROKE + "timed out"),
    "they are too short": (
        {"kind": "storage", "headers": {"Content-Length": "50"}},
        WEIGHTS + "Consistency check failed: file should be of size ",
    ),
    "configuration is cut": ({"kind": "file", "file": "config.json", "sent": 9}, "org/sen: config.json: " + BROKE),
    "a tower's answers 503": (
        {"kind": "file", "file": "neuron_image/config.json", "status": 503},
        TOWER + "config.json: {hub} " + FAULT,
    ),
    "a tower's is cut": (
        {"kind": "file", "file": "neuron_image/config.json", "sent": 9},
        TOWER + "config.json: " + BROKE,
    ),
    "a tower's weights are cut": ({"kind": "storage", "skip": 1, "sent": 5000}, TOWER + "model.safetensors: " + BROKE),
}


@pytest.mark.parametrize(("fault", "expected"), PULL_FAULTS.values(), ids=PULL_FAULTS)
def test_a_failed_pull_leaves_only_complete_files(fault, expected, hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.fail(**fault)
    with connected(hub, tmp_path, READER):
        message = problem(lambda: SENModel.from_pretrained("org/sen"))
        assert message.startswith(expected.format(hub=hub.url, status=fault.get("status")))
        assert left_in(tmp_path) == []
        there = set(hub.repositories["org/sen"].files.values())
        assert {path.read_bytes() for path in tmp_path.rglob("blobs/*")} <= there
        hub.faults.clear()
        again = SENModel.from_pretrained("org/sen")
    assert torch.equal(outputs(again), outputs(SENModel.from_pretrained(folder)))


def test_an_interrupted_download_is_resumed(hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.fail("storage", sent=5000, times=1)
    with connected(hub, tmp_path, READER):
        found = outputs(SENModel.from_pretrained("org/sen"))
    assert [request.range for request in hub.requests if request.kind == "storage"] == [None, "bytes=5000-", None]
    assert torch.equal(found, outputs(SENModel.from_pretrained(folder)))


@pytest.mark.parametrize(
    "settings", [{"kind": "head", "status": 500}, {"kind": "file", "sent": 9}], ids=["500", "cut"]
)
@pytest.mark.parametrize("file", ["modules.json", "config_sentence_transformers.json", "tokenizer.json"])
def test_a_file_that_cannot_be_downloaded_does_not_count_as_absent(file, settings, hub, towers, tmp_path):
    """Otherwise a tower would be loaded without its pooling, its prompt or its vocabulary."""
    hub.upload("org/words", with_layout(towers["bert"], tmp_path / "words"))
    hub.fail(file=file, **settings)
    with connected(hub, tmp_path, READER):
        message = problem(lambda: SENModel.from_neurons(["org/words"], projection_dim=12, **SMALL))
    assert f"org/words: {file}: " in message


@pytest.mark.parametrize("file", ["config.json", "neuron_image/preprocessor_config.json"])
def test_a_file_that_fails_to_download_is_named_by_the_processor(file, hub, tmp_path):
    hub.fail("file", file=file, sent=9)
    with connected(hub, tmp_path, READER):
        message = problem(lambda: SENProcessor.from_pretrained("org/sen")(videos=FRAMES))
        assert f"org/sen: {file}: the connection to {hub.url} broke (" in message
        hub.faults.clear()
        assert SENProcessor.from_pretrained("org/sen")(videos=FRAMES)


@pytest.mark.parametrize("loads", [SENModel, SENProcessor])
def test_a_pull_reports_the_reason_of_a_refusal(loads, hub, tmp_path):
    hub.repositories["org/sen"].private = True
    login = "log in with `hf auth login`, set HF_TOKEN, or pass token=..."
    missing = f"no such repository at {hub.url}, or a private one; for that, {login}"
    wrong = f"{hub.url} refuses the token (Invalid credentials in Authorization header); {login}"
    for token, repo_id, reason in (
        (None, "org/sen", missing),
        (READER, "org/none", missing),
        (STRANGER, "org/sen", wrong),
    ):
        with connected(hub, tmp_path, token):
            assert problem(lambda repo_id=repo_id: loads.from_pretrained(repo_id)) == f"{repo_id}: {reason}"
    with connected(hub, tmp_path):
        assert "no such branch" in problem(lambda: loads.from_pretrained("org/sen", token=READER, revision="none"))
        assert loads.from_pretrained("org/sen", token=READER)


@pytest.mark.parametrize("is_gated", [False, True])
def test_an_unavailable_encoder_is_named_in_the_error(is_gated, hub, towers, tmp_path):
    hub.upload("org/clip", towers["clip"])
    with connected(hub, tmp_path / "author", WRITER):
        neurons = [{"hub_id": "org/clip", "num_frames": 2}]
        SENModel.from_neurons(neurons, projection_dim=12, **SMALL).push_to_hub("org/by-id")
    commit = hub.repositories["org/clip"].refs["main"]
    hub.repositories["org/clip"].gated = True
    if not is_gated:
        del hub.repositories["org/clip"]
    reason = "the repository is gated; accept its terms on its page" if is_gated else "no such repository"
    with connected(hub, tmp_path / "reader", READER):
        message = problem(lambda: SENModel.from_pretrained("org/by-id"))
    assert message.startswith(f"neuron 'image' (org/clip, revision '{commit}'): {reason} at {hub.url}, ")
    assert message.endswith("or pass neuron_kwargs={NAME: {'token': ...}}")


OUTSIDE = ["../evil.safetensors", "/evil.safetensors", "..\\evil.safetensors", "neuron_image/../../evil.safetensors"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_file_is_written_outside_the_cache(name, model, hub, tmp_path):
    """A repository may contain a file of any name; an index that names a shard outside of the repository is refused."""
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    hub.upload("org/shards", tmp_path / "shards")
    repository = hub.repositories["org/shards"]
    index = json.loads(repository.files["model.safetensors.index.json"])
    shard = next(iter(index["weight_map"].values()))
    repository.commit({**repository.files, name: repository.files[shard]})
    reader = tmp_path / "far" / "below" / "reader"
    with connected(hub, reader, READER):
        torch.testing.assert_close(outputs(AutoModel.from_pretrained("org/shards")), outputs(model))
        for key in index["weight_map"]:
            index["weight_map"][key] = name if index["weight_map"][key] == shard else index["weight_map"][key]
        repository.commit({**repository.files, "model.safetensors.index.json": json.dumps(index).encode()})
        message = problem(lambda: SENModel.from_pretrained("org/shards"))
    assert message.startswith(f"org/shards: {name}: Invalid filename '{name}': cannot ")
    assert not Path("/evil.safetensors").exists()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_tokens_do_not_appear_in_a_repr(hub, tmp_path):
    with connected(hub, tmp_path, READER):
        loaded = SENModel.from_pretrained("org/sen", token=READER)
        processor = SENProcessor.from_pretrained("org/sen", token=READER)
    loaded.save_pretrained(tmp_path / "again", include_neurons=True)  # the fixture searches these files for tokens
    for shown in (loaded.neurons.base, loaded.neurons["image"].source, processor.source, vars(loaded), loaded.config):
        assert "_secret" not in repr(shown)
