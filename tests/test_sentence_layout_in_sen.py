"""A checkpoint of sentence-transformers in a SEN: as text tower and as neuron, cached, saved, loaded from the Hub."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fake_hub import fake_hub
from huggingface_hub import HfApi
from random_sen import SMALL
from sentence_models import TEXTS, assert_same, change, load, look_at, make_backbones, saved
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from modeling_sen import SENEncoder, SENModel, SENProcessor
from modeling_sen.cost import neuron_cost
from modeling_sen.hub_files import HubSource
from modeling_sen.neuron_loading import load_neuron, resolve_spec
from modeling_sen.sentence_layout import SentenceHead, read_layout
from modeling_sen.training.feature_cache import FeatureCache, look_digest


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, str]:
    return make_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="module")
def sentences(backbones, tmp_path_factory) -> tuple[SentenceTransformer, str]:
    modules = Pooling(16, "mean", include_prompt=False), Dense(16, 12), Normalize()
    return saved(tmp_path_factory.mktemp("sentences") / "own", backbones["bert"], *modules, prompt="query about: ")


@pytest.fixture(scope="module")
def sen(sentences) -> SENModel:
    """The checkpoint is used twice: as the text tower and as a text neuron."""
    torch.manual_seed(1)
    model = SENModel.from_neurons([sentences[1]], text_tower=sentences[1], **SMALL)
    model.gate.data.fill_(0.5)
    return model


CLIPS = [{"text": "the cat speaks"}, {"text": "a dog"}]


def test_class_texts_and_text_neurons_share_one_tower_and_its_embeddings(sen, sentences):
    model, _ = sentences
    words, text_tower = sen.neurons["words"], sen.neurons.text_tower
    assert words.tower is text_tower.tower
    assert words.sentence is text_tower.sentence
    assert words.spec.aligned
    processor = SENProcessor(sen.config)
    assert_same(SENEncoder(sen, processor).encode_text(TEXTS), model.encode(TEXTS))
    with torch.no_grad():
        output = sen(**processor(videos=CLIPS), output_all_rounds=True)
    embeds = output.all_rounds[0].neuron_embeds["words"]
    assert_same(embeds.numpy(), model.encode([clip["text"] for clip in CLIPS]))


def test_the_association_reads_pooled_outputs_of_the_towers_width(sen, sentences):
    look = look_at(sen.neurons["words"])
    assert look.state.pooler_output.shape == (5, 16)
    assert sen.neurons["words"].embedding_size == sen.config.projection_dim == 12


@torch.no_grad()
def test_first_looks_are_stored_in_a_cache_and_loaded(sen, tmp_path):
    processor = SENProcessor(sen.config)
    cache = FeatureCache(sen, tmp_path, ["0", "1"], torch.float32)
    # The texts have different lengths.
    cache.build(lambda rows: processor(videos=[CLIPS[row] for row in rows]), batch_size=1)
    expected = sen(**processor(videos=CLIPS[::-1]))
    found = sen(trunks=cache.trunks([1, 0]))
    torch.testing.assert_close(found.fused_embeds, expected.fused_embeds, atol=1e-5, rtol=1e-4)
    states = found.neuron_states["words"], expected.neuron_states["words"]
    torch.testing.assert_close(states[0].pooler_output, states[1].pooler_output, atol=1e-5, rtol=1e-4)


def test_a_cache_of_another_pooling_is_not_used(backbones, tmp_path):
    digests = set()
    for mode in ("mean", "cls"):
        _, folder = saved(tmp_path / "same", backbones["bert"], Pooling(16, mode))
        digests.add(look_digest(load(folder), (), torch.float32))
    shutil.rmtree(Path(folder) / "1_Pooling")
    (Path(folder) / "modules.json").unlink()
    digests.add(look_digest(load(folder), (), torch.float32))
    assert len(digests) == 3


def test_the_cost_includes_modules_after_the_tower(sen):
    words = sen.neurons["words"]
    cost = neuron_cost(words.spec, SENProcessor(sen.config))
    assert cost.parameters == sum(weight.numel() for weight in words.parameters())
    assert cost.first_pass_flops > 0


def test_a_second_look_uses_the_same_pooling(sen):
    words = sen.neurons["words"]
    look = look_at(words)
    again = words.look_again(look, torch.randn(5, 2, 16))
    expected = words.sentence.pool(again.last_hidden_state, again.token_mask)
    torch.testing.assert_close(again.pooler_output, expected)


@torch.no_grad()
def outputs_of(model: SENModel, processor: SENProcessor) -> torch.Tensor:
    return model(**processor(videos=CLIPS, text=TEXTS)).logits_per_video


@pytest.mark.parametrize("place", ["root", "folder"])
def test_a_checkpoint_with_neurons_needs_no_other_files(place, sen, sentences, tmp_path):
    if place == "folder":
        inner = tmp_path / "st" / "0_Transformer"
        shutil.copytree(sentences[1], tmp_path / "st")
        inner.mkdir()
        for path in list((tmp_path / "st").iterdir()):
            if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
                path.rename(inner / path.name)
        entries = json.loads((tmp_path / "st" / "modules.json").read_text())
        entries[0]["path"] = "0_Transformer"
        (tmp_path / "st" / "modules.json").write_text(json.dumps(entries))
        weights = sen.state_dict()
        sen = SENModel.from_neurons([str(tmp_path / "st")], text_tower=str(tmp_path / "st"), **SMALL)
        sen.load_state_dict(weights)
    expected = outputs_of(sen, SENProcessor(sen.config))
    sen.save_pretrained(tmp_path / "one", include_neurons=True)
    shutil.rmtree(tmp_path / "st", ignore_errors=True)
    again = SENModel.from_pretrained(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    shutil.move(tmp_path / "two", tmp_path / "moved")
    for folder in (tmp_path / "one", tmp_path / "moved"):
        model, processor = SENModel.from_pretrained(folder), SENProcessor.from_pretrained(folder)
        assert torch.equal(outputs_of(model, processor), expected)
    library = SentenceTransformer(str(tmp_path / "moved" / "neuron_words"), device="cpu")
    assert_same(library.encode(TEXTS), sentences[0].encode(TEXTS))


def test_all_files_are_read_from_one_commit_of_a_repository(sentences, tmp_path, monkeypatch):
    """The second commit has another pooling; loading the first commit still gives the first pooling."""
    import huggingface_hub.constants as constants

    with fake_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        # The libraries' own API objects may have been created before with the real endpoint.
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", HfApi(endpoint=hub.url))
        first = hub.upload("org/sentences", sentences[1])
        changed = shutil.copytree(sentences[1], tmp_path / "changed")
        change(changed / "1_Pooling" / "config.json", pooling_mode="cls")
        hub.upload("org/sentences", changed)
        arguments = {"cache_dir": str(tmp_path / "cache")}
        for revision, folder in ((first, sentences[1]), (None, str(changed))):
            spec = resolve_spec(
                {"hub_id": "org/sentences", "name": "class_text", "revision": revision}, "text_tower", **arguments
            )
            neuron = load_neuron(spec, **arguments)
            look, expected = look_at(load(folder)), look_at(load(folder))
            found = neuron.first_look(look.inputs)
            torch.testing.assert_close(found.state.pooler_output, expected.state.pooler_output)
        hub.upload("org/sen", Path(sentences[1]).parent)  # in a subfolder, as `include_neurons` saves towers
        layout = read_layout(HubSource("org/sen", subfolder="own", fetch=arguments))
        assert (layout.modes, layout.prompt) == (("mean",), "query about: ")
        assert sum(weight.numel() for weight in SentenceHead(layout).parameters()) == 16 * 12 + 12
