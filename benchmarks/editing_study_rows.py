"""The rows of the editing study: how each makes a video editor of one base model, and what its edits are worth.

All rows have the same base model, scheduler, prompts, steps and guidance. Adapters of one seed have the same initial weights
where they have the same parts.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.editing_tower import EditingTower, tower_encoder
from modeling_sen.configuration_sen import SENConfig
from modeling_sen.editing.base_parts import BaseParts, load_base_parts
from modeling_sen.editing.edit_adapter import SENEditAdapter
from modeling_sen.evaluation.editing_alignment import alignment_metrics
from modeling_sen.evaluation.editing_fidelity import psnr_outside_mask
from modeling_sen.evaluation.editing_warp import warp_errors
from modeling_sen.evaluation.editing_world import world_edit_metrics
from modeling_sen.modeling_sen import SENModel
from modeling_sen.modeling_sen_editing import SENForVideoEditing
from modeling_sen.pipelines.sen_video_editing import SENVideoEditingPipeline
from modeling_sen.whole_file import whole_file
from modeling_sen.world import EDITED_ATTRIBUTES, Edit, Scene, caption, edit_attribute, make_scene, render
from recipes.sen_tiny.editing_batches import drawn_caption, over_background

TEST_SEED = 91_001  # of the clips that are edited; no training of this repository has it
PRETRAIN_SEED = 91_002  # of the clips of pre-training
# In a clip. With three the base model of sen-tiny-edit gives colours to the wrong object, whatever edits it.
OBJECTS = (1, 2)
FRAMES = tuple(range(0, 16, 2))
READ = ("image", "video")  # neurons; a clip without sound and depth has inputs for no others
PRETRAIN_CLIPS = 4  # in a batch


@dataclass(frozen=True)
class Row:
    """One way to edit.

    Attributes:
        words: what the row is called in tables.
        rounds: of association, of the SEN whose features the adapter reads; 0 for the tokens of its frozen towers, `None` for
            an adapter that reads none.
        tuned: whether the adapter is tuned on the clip.
        per_frame: whether each frame is edited as a clip of its own.
        other_clip: whether the features are those of another clip.
        shown: `"exact"` for the exact edits, `"copy"` for the source, in place of edits of a model.
    """

    words: str
    rounds: int | None = None
    tuned: bool = True
    per_frame: bool = False
    other_clip: bool = False
    shown: str | None = None

    @property
    def trains_modulation(self) -> bool:
        """Whether pre-training reaches the modulation of tokens, by which alone association changes what an adapter reads.

        Until it is trained it changes nothing: the features of all rounds are the frozen tokens then.
        """
        return bool(self.rounds)


REFERENCES = {
    "exact": Row("the exact edit", tuned=False, shown="exact"),
    "copy": Row("a copy of the source", tuned=False, shown="copy"),
}
UNTUNED = {
    "per_frame": Row("base model, frame by frame", tuned=False, per_frame=True),
    "cross_frame": Row("cross-frame attention, not tuned", tuned=False),
}
TUNED = {
    "tune_a_video": Row("Tune-A-Video"),
    "sen_0": Row("SEN, frozen tokens", rounds=0),
    "sen_1": Row("SEN, K = 1", rounds=1),
    "sen_2": Row("SEN, K = 2", rounds=2),
    "sen_3": Row("SEN, K = 3", rounds=3),
    "control": Row("SEN, K = 3, features of another clip", rounds=3, other_clip=True),
}
ROWS = REFERENCES | UNTUNED | TUNED


@dataclass(frozen=True)
class StudyClip:
    """A clip of the world with its edits, one of each kind. All prompts name the background, so that one tuning and one
    inversion, under `prompt`, serve them all."""

    scene: Scene

    @classmethod
    def at(cls, index: int) -> "StudyClip":
        return cls(make_scene("test", TEST_SEED, index, num_objects=OBJECTS))

    @cached_property
    def frames(self) -> np.ndarray:
        """(8, 64, 64, 3) uint8."""
        return render(self.scene, FRAMES).frames

    @property
    def prompt(self) -> str:
        return over_background(caption(self.scene), self.scene)

    @cached_property
    def edits(self) -> dict[str, Edit]:
        """Kind -> edit, whose `target_prompt` is the prompt."""
        found = {}
        for kind in EDITED_ATTRIBUTES:
            change = edit_attribute(self.scene, kind)
            found[kind] = replace(change, target_prompt=over_background(caption(change.scene), change.scene))
        return found


@dataclass(frozen=True)
class Base:
    """What all rows share: a checkpoint of a [`SENForVideoEditing`] and the parts of its base model."""

    model: SENForVideoEditing
    parts: BaseParts

    @classmethod
    def load(cls, checkpoint: str | Path) -> "Base":
        model = SENForVideoEditing.from_pretrained(checkpoint)
        model.sen.ensure_loaded()
        assert model.base_source is not None
        return cls(model, load_base_parts(model.base_source))


def build_model(base: Base, row: Row, seed: int) -> SENForVideoEditing:
    """The model of a row with an untrained adapter of a seed. It takes the UNet from the model that had it before.

    Its SEN is the checkpoint's with as many rounds as the row has, and modulation that changes nothing until it is trained.
    """
    if base.model.adapter.unet is not None:
        base.model.adapter.detach()
    rounds, names = row.rounds, list(READ)
    settings = base.model.sen.config.to_dict()
    settings |= {"num_rounds": rounds or 0, "dense_neurons": None}
    torch.manual_seed(seed)
    sen = SENModel(SENConfig.from_dict(settings))
    sen.neurons.share(base.model.sen.neurons)
    sen.load_state_dict(base.model.sen.state_dict(), strict=False)  # without further rounds
    read = names if rounds is not None else []
    model = SENForVideoEditing.from_base(base.model.unet, sen, read_neurons=read, num_frames=len(FRAMES))
    widths = {name: model.sen.specs[name].hidden_size for name in read}
    torch.manual_seed(seed)  # whatever parts came before
    model.attach_adapter(SENEditAdapter.from_unet(model.unet, "residual", widths))
    model.sen.requires_grad_(False)
    model.sen.modulation.requires_grad_(row.trains_modulation)
    return model.eval()


class Trained(nn.Module):
    """What pre-training trains of a model, and what a row starts from: its adapter, and the modulation of what it reads."""

    def __init__(self, model: SENForVideoEditing, row: Row):
        super().__init__()
        self.adapter = model.adapter
        self.modulation = model.sen.modulation if row.trains_modulation else None

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as unfinished:
            save_file({name: weight.contiguous() for name, weight in self.state_dict().items()}, unfinished)

    def load(self, file: Path) -> None:
        self.load_state_dict(load_file(file))


class Pretraining(Trained):
    """Called on a batch of [`pretraining_batch`] it returns the loss, as tuning has it; the UNet is frozen."""

    accepts_loss_kwargs = False  # a mean over values, whatever the Trainer counts

    def __init__(self, model: SENForVideoEditing, row: Row, parts: BaseParts):
        super().__init__(model, row)
        self.row = row
        self._model, self._parts = (model,), (parts,)  # in tuples they are no children, whose weights would be saved

    def forward(self, frames: Tensor, input_ids: Tensor, timesteps: Tensor, noise: Tensor) -> dict[str, Tensor]:
        (model,), (parts,) = self._model, self._parts
        scheduler, batch = parts.scheduler, len(frames)
        with torch.no_grad():
            pixels = frames.flatten(0, 1).movedim(-1, 1).float() / 127.5 - 1
            latents = parts.vae.encode(pixels).latent_dist.mode() * parts.vae.config.scaling_factor
            latents = latents.unflatten(0, (batch, -1)).transpose(1, 2)  # (clips, channels, frames, h, w)
            text_states = parts.text_encoder(input_ids).last_hidden_state
        noisy = scheduler.add_noise(latents, noise, timesteps)
        velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
        with torch.set_grad_enabled(self.row.trains_modulation and self.training):
            # The SEN reads windows of 8 frames, so that clips one after the other are read each by itself.
            features = model.video_features(frames.flatten(0, 1).numpy())
        features = {name: values.unflatten(1, (batch, -1))[0] for name, values in features.items()}
        if self.row.other_clip:
            features = {name: values.roll(1, dims=0) for name, values in features.items()}
        found = model.predict(noisy, timesteps, text_states, features)
        return {"loss": nn.functional.mse_loss(found.float(), target)}


def pretraining_batch(parts: BaseParts, seed: int, step: int) -> dict[str, Tensor]:
    """Clips of the split `train` with captions, one of ten of them empty, for guidance.

    Returns:
        `frames` (4, 8, 64, 64, 3) uint8, `input_ids` (4, 77) int64, `timesteps` (4,) int64, `noise` (4, channels, 8, h, w).
    """
    random = np.random.default_rng([PRETRAIN_SEED, seed, step])
    first = (seed * 1_000_000 + step) * PRETRAIN_CLIPS
    scenes = [
        make_scene("train", PRETRAIN_SEED, index, num_objects=OBJECTS)
        for index in range(first, first + PRETRAIN_CLIPS)
    ]
    frames = np.stack([render(scene, FRAMES).frames for scene in scenes])
    words = [drawn_caption(random, scene) for scene in scenes]
    limit = parts.text_encoder.config.max_position_embeddings
    ids = parts.tokenizer(words, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    total = parts.scheduler.config.num_train_timesteps
    places = (random.permutation(len(scenes)) + random.random(len(scenes))) / len(scenes)
    factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    channels, side = parts.vae.config.latent_channels, frames.shape[2] // factor
    shape = (len(scenes), channels, len(FRAMES), side, side)
    return {
        "frames": torch.from_numpy(frames),
        "input_ids": ids["input_ids"],
        "timesteps": torch.from_numpy((places * total).astype(np.int64)),
        "noise": torch.from_numpy(random.standard_normal(shape, dtype=np.float32)),
    }


def read_instead(model: SENForVideoEditing, clip: np.ndarray, other: np.ndarray) -> None:
    """Makes features of `clip` those of another clip, and of the mirrored clip those of the other one mirrored."""
    read = model.video_features

    def features(frames: np.ndarray, prompt: str | None = None) -> dict[str, Tensor]:
        mirrored = not np.array_equal(frames, clip)
        return read(np.ascontiguousarray(other[:, :, ::-1]) if mirrored else other, prompt)

    model.video_features = features  # type: ignore[method-assign]


def make_pipeline(base: Base, model: SENForVideoEditing) -> SENVideoEditingPipeline:
    parts = base.parts
    return SENVideoEditingPipeline(model, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler)


def edit_clip(
    pipe: SENVideoEditingPipeline, row: Row, clip: StudyClip, steps: int, guidance: float
) -> dict[str, np.ndarray]:
    """Kind -> edited frames."""
    prompts = [change.target_prompt for change in clip.edits.values()]
    found = [
        pipe.edit(frames, prompts, clip.prompt, num_inference_steps=steps, guidance_scale=guidance)
        for frames in _parts(row, clip)
    ]
    edited = (np.concatenate([each.frames for each in parts]) for parts in zip(*found, strict=True))
    return dict(zip(clip.edits, edited, strict=True))


def reconstruct(pipe: SENVideoEditingPipeline, row: Row, clip: StudyClip, steps: int) -> np.ndarray:
    """The clip, inverted and sampled under its own prompt without guidance."""
    found = [
        pipe.edit(frames, clip.prompt, clip.prompt, num_inference_steps=steps, guidance_scale=1.0)
        for frames in _parts(row, clip)
    ]
    return np.concatenate([each.frames for each in found])


def _parts(row: Row, clip: StudyClip) -> list[np.ndarray]:
    """What is edited at once."""
    return np.split(clip.frames, len(clip.frames)) if row.per_frame else [clip.frames]


def shown_edits(row: Row, clip: StudyClip) -> dict[str, np.ndarray]:
    """Of a row without a model."""
    exact = {kind: render(change.scene, FRAMES).frames for kind, change in clip.edits.items()}
    return exact if row.shown == "exact" else dict.fromkeys(exact, clip.frames)


def scores(clip: StudyClip, kind: str, edited: np.ndarray, tower: EditingTower) -> dict[str, float]:
    """All measures of one edited clip. The mask is where the exact edit differs from the source."""
    change = clip.edits[kind]
    mask = (render(change.scene, FRAMES).frames != clip.frames).any(axis=-1)
    aligned = alignment_metrics(clip.frames, edited, clip.prompt, change.target_prompt, tower_encoder(tower))
    return {
        **aligned,
        **world_edit_metrics(edited, clip.scene, change, tower, FRAMES),
        "psnr_outside_mask": psnr_outside_mask(clip.frames, edited, mask),
        **warp_errors(clip.frames, edited),
    }


def parameter_counts(model: SENForVideoEditing, row: Row) -> tuple[int, int]:
    """Parameters that tuning trains, and those that pre-training trains."""
    adapter, modulation = (
        sum(each.numel() for each in part.parameters()) for part in (model.adapter, model.sen.modulation)
    )
    return adapter, adapter + (modulation if row.trains_modulation else 0)
