"""A neuron's states: token grids, pooled outputs, folded frames, and a frozen tower."""

import pytest
import torch
from neuron_families import make_inputs, make_neuron
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_sen import NeuronSpec
from modeling_sen.neuron import Neuron


def test_frames_are_folded_into_the_batch_clip_by_clip(towers):
    neuron, inputs = make_neuron("clip_vision_model", towers), make_inputs("clip_vision_model")
    state = neuron.first_look(inputs).state
    with torch.no_grad():
        frames = [neuron.tower(inputs["pixel_values"][1, frame][None]) for frame in range(2)]
    expected = torch.cat([frame.last_hidden_state[0, 1:] for frame in frames])  # without class tokens
    torch.testing.assert_close(state.last_hidden_state[1], expected)
    pooled = torch.cat([frame.pooler_output for frame in frames]).mean(0)
    torch.testing.assert_close(state.pooler_output[1], pooled)
    assert state.grid == (2, 2, 2)


def test_every_frame_gets_the_prompts_of_its_clip(towers):
    neuron, inputs = make_neuron("clip_vision_model", towers), make_inputs("clip_vision_model")
    trunk = neuron.first_look(inputs)
    prompts = torch.randn(2, 3, 16)
    changed = prompts.clone()
    changed[0] += torch.randn(3, 16)
    first, second = neuron.look_again(trunk, prompts), neuron.look_again(trunk, changed)
    difference = (first.last_hidden_state - second.last_hidden_state).abs().amax(dim=(-1))  # (batch, tokens)
    assert bool((difference[0] > 1e-5).all())
    assert torch.equal(difference[1], torch.zeros_like(difference[1]))


@pytest.mark.parametrize(
    ("model_type", "grid"),
    [
        ("videomae", (2, 2, 2)),  # 4 frames in tubelets of 2, 16 pixels in patches of 8
        ("xclip_vision_model", (4, 2, 2)),
        ("audio-spectrogram-transformer", (1, 2, 8)),  # 16 mel bins, 64 frames
        ("bert", (1, 1, 9)),
        ("timesformer", (1, 1, 17)),  # no grid, since its tokens are ordered by position, then by frame
    ],
)
def test_states_have_the_grid_of_the_tower(model_type, grid, towers):
    state = make_neuron(model_type, towers).first_look(make_inputs(model_type)).state
    t, h, w = state.grid
    assert state.grid == grid
    assert state.last_hidden_state.shape == (2, t * h * w, 16)


def test_the_audio_grid_is_frequency_by_time(towers):
    """The token at (frequency, time) is the one that changes with a click there."""
    neuron = make_neuron("audio-spectrogram-transformer", towers)
    embeddings = neuron.tower.embeddings
    silence, click = torch.zeros(1, 64, 16), torch.zeros(1, 64, 16)
    click[0, 40:48, 8:16] = 1.0  # sixth time step, upper half of the bins
    with torch.no_grad():
        changed = (embeddings(click) - embeddings(silence)).abs().amax(-1)[0, 2:]
    assert changed.unflatten(0, (2, 8)).nonzero().tolist() == [[1, 5]]


def test_the_clip_grid_is_time_by_height_by_width(towers):
    neuron = make_neuron("videomae", towers)
    dark, flash = torch.zeros(1, 4, 3, 16, 16), torch.zeros(1, 4, 3, 16, 16)
    flash[0, 2:4, :, 8:, :8] = 1.0  # second tubelet, bottom left
    with torch.no_grad():
        seen = (neuron.tower.embeddings(flash, None) - neuron.tower.embeddings(dark, None)).abs().amax(-1)[0]
    assert seen.unflatten(0, (2, 2, 2)).nonzero().tolist() == [[1, 1, 0]]


def test_the_mean_of_tokens_excludes_padding():
    class Tower(nn.Module):
        main_input_name = "input_ids"

        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"model_type": "words-only", "hidden_size": 4})()
            self.table = nn.Embedding(9, 4)

        def forward(self, input_ids, attention_mask=None):
            return type("Output", (), {"last_hidden_state": self.table(input_ids)})()

    spec = NeuronSpec("words", "text", "here", 4, "Tower", prompt_side="after")
    neuron = Neuron(spec, Tower(), None, None)
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    state = neuron.first_look({"input_ids": ids, "attention_mask": mask}).state
    table = neuron.tower.table.weight
    torch.testing.assert_close(state.pooler_output, torch.stack([table[[1, 2, 3]].mean(0), table[[4, 5]].mean(0)]))


def test_a_tower_is_frozen_and_stays_in_evaluation_mode(towers):
    neuron = make_neuron("bert", towers)
    assert not any(parameter.requires_grad for parameter in neuron.parameters())
    neuron.train()
    assert not neuron.tower.training
    assert not any(module.training for module in neuron.modules() if isinstance(module, nn.Dropout))
    # Activation checkpointing requires this flag.
    assert all(layer.training for layer in neuron.prompted_tower.all_layers)
    assert not any(layer.training for layer in neuron.eval().prompted_tower.all_layers)


def test_dropout_inside_layers_is_disabled_although_their_training_flag_is_set():
    """Whisper's layers call dropout with `self.training`, the flag that activation checkpointing requires."""
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    config = WhisperConfig(**sizes, num_mel_bins=8, max_source_positions=10, dropout=0.5, activation_dropout=0.5)
    spec = NeuronSpec("audio", "audio", "here", 16, "WhisperEncoder")
    neuron = Neuron(spec, WhisperEncoder(config), None, 1)
    inputs = {"input_features": torch.randn(2, 8, 20)}
    expected = neuron.eval().first_look(inputs).state
    state = neuron.train().first_look(inputs).state
    assert torch.equal(state.last_hidden_state, expected.last_hidden_state)


def test_inputs_are_cast_to_the_towers_dtype(towers):
    neuron = make_neuron("videomae", towers).to(torch.bfloat16)
    trunk = neuron.first_look(make_inputs("videomae"))
    state = trunk.state
    assert state.last_hidden_state.dtype == neuron.dtype == torch.bfloat16
    assert neuron.look_again(trunk, torch.randn(2, 3, 16)).pooler_output.dtype == torch.bfloat16


def test_a_wrong_number_of_frames_raises_for_towers_of_fixed_length(towers):
    neuron = make_neuron("videomae", towers)
    spec = NeuronSpec.from_dict({**neuron.spec.to_dict(), "num_frames": 8})
    with pytest.raises(ValueError, match=r"neuron 'n': num_frames is 8, but its tower takes 4"):
        Neuron(spec, neuron.tower, None, None)


def test_clips_without_a_time_axis_raise(towers):
    neuron = make_neuron("videomae", towers)
    with pytest.raises(
        ValueError, match=r"n_pixel_values.*\(4, 3, 16, 16\).*\(batch, time, channels, height, width\)"
    ):
        neuron.first_look({"pixel_values": torch.zeros(4, 3, 16, 16)})
