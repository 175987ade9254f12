"""Forward passes of ImageBind's towers, written out by hand."""

import torch
from family_inputs import Family, Outputs, frames_of, sound_of, words_of


def _class_token(tower, hidden) -> Outputs:
    return hidden, tower.post_layernorm(hidden[:, 0])


def _vision(tower, inputs, through) -> Outputs:
    pixels = inputs["pixel_values"]  # (batch, 4, channels, height, width)
    pairs = [torch.stack([clip[first], clip[first + 1]], dim=1) for clip in pixels for first in (0, 2)]
    return _class_token(tower, through(tower.layers, tower.embeddings(torch.stack(pairs))))


def _picture(tower, inputs, through) -> Outputs:
    return _class_token(tower, through(tower.layers, tower.embeddings(inputs["pixel_values"][:, 0].unsqueeze(1))))


def _sound(tower, inputs, through) -> Outputs:
    clips = torch.cat(list(inputs["input_features"]))  # (batch * clips, 1, mel bins, frames)
    return _class_token(tower, through(tower.layers, tower.embeddings(clips)))


def _sensors(tower, inputs, through) -> Outputs:
    return _class_token(tower, through(tower.layers, tower.embeddings(inputs["imu_values"])))


def _text(tower, inputs, through) -> Outputs:
    hidden = through(tower.layers, tower.embeddings(inputs["input_ids"]))
    ends = [row.tolist().index(513) for row in inputs["input_ids"]]
    return hidden, tower.post_layernorm(torch.stack([row[end] for row, end in zip(hidden, ends, strict=True)]))


def _sensor_values(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
    return {"imu_values": torch.randn(batch, 6, 32, generator=generator)}


def _of(modality: str) -> dict[str, str]:
    return {"name": "n", "modality": modality}


IMAGEBIND_FAMILIES = {
    "imagebind_vision_model": Family("imagebind", frames_of(4), _vision, _of("video")),
    "imagebind_text_model": Family("imagebind", words_of(500, 513), _text, {}, "text_tower", causal=True),
    "imagebind_audio_model": Family("imagebind", sound_of(3, 1, 16, 20), _sound, _of("audio")),
    "imagebind_depth_model": Family("imagebind", frames_of(2), _picture, _of("depth")),
    "imagebind_thermal_model": Family("imagebind", frames_of(2), _picture, _of("thermal")),
    "imagebind_imu_model": Family("imagebind", _sensor_values, _sensors, _of("imu")),
}
