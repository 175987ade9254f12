"""Trains sen-tiny's recursive association over its frozen towers: the second stage of `train_tiny`.

Clips of one object are to be described; of several, the object that sounds: its colour is heard, its shape is seen in the
image with that colour, its motion in the grey video with that shape, so that knowledge must cross the towers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from modeling_sen.configuration_sen import SENConfig
from modeling_sen.modeling_sen import SENModel
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.training.trainer import SENTrainingArguments
from modeling_sen.world.scene import Scene, make_scene
from modeling_sen.world.vocabulary import all_descriptions
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers
from recipes.sen_tiny.tiny_batches import IGNORED, MIDDLE_FRAME, clip_tensors, scene_attributes
from recipes.sen_tiny.tiny_towers import (
    DEPTH_MEAN,
    DEPTH_STD,
    EMBEDDING,
    PICTURE_MEAN,
    PICTURE_STD,
    as_colour,
    normalise,
)

NEURONS = ("image", "video", "audio", "depth")
TEMPLATES = ("{}", "a video of {}", "a clip of {}", "this is {}", "there is {}")
SEVERAL = (2, 4)  # objects in the clips of several
DEPTH_GIVEN, SOUND_GIVEN = 0.3, 0.95  # share of one-object clips that come with them


def tiny_config(prefix: str = "builtin:") -> SENConfig:
    """sen-tiny's configuration, its towers at `{prefix}{name}`."""
    common = {"hub_id": "", "dtype": "float32", "aligned": True}  # stored in float16, run in float32
    towers = {
        "image": {"class_name": "CLIPVisionModelWithProjection", "hidden_size": 128, "num_frames": 1},
        "video": {"class_name": "VideoMAEModel", "hidden_size": 128, "num_frames": 8, "preprocessing": {"gray": True}},
        "audio": {"class_name": "ASTModel", "hidden_size": 96},
        "depth": {"class_name": "CLIPVisionModelWithProjection", "hidden_size": 96, "num_frames": 1},
    }
    neurons = []
    for name, tower in towers.items():
        projected = tower["class_name"] == "CLIPVisionModelWithProjection"
        cut = {"submodule": "vision_model", "projection": "visual_projection"} if projected else {}
        neurons.append(
            {
                "name": name,
                "modality": name,
                **common,
                "hub_id": f"{prefix}{name}",
                **(cut or {"projection": "projection.safetensors"}),
                **tower,
            }
        )
    text = {
        "name": "class_text",
        "modality": "text",
        **common,
        "hub_id": f"{prefix}text",
        "class_name": "CLIPTextModelWithProjection",
        "submodule": "text_model",
        "projection": "text_projection",
        "hidden_size": 128,
    }
    return SENConfig(neurons=neurons, text_tower=text, hidden_size=128, bottleneck_size=16, projection_dim=EMBEDDING)


@dataclass
class AssociationBatches:
    """`AssociationBatches(...)(step)` is the batch of a step: inputs of a [`SENModel`], and `labels` into the descriptions.

    The first half holds clips of one object, sometimes without sound or depth; the second clips of several objects of
    which one sounds, without depth.
    """

    seed: int
    batch_size: int
    split: str = "train"

    def __call__(self, step: int) -> dict[str, Tensor]:
        random = np.random.default_rng([self.seed, step])
        half = self.batch_size // 2
        scenes, given = [], []
        for number in range(self.batch_size):
            index = step * self.batch_size + number
            several = number >= half
            hops = 2 if several else None  # with hops, some object always sounds
            scenes.append(make_scene(self.split, self.seed, index, num_objects=SEVERAL if several else 1, hops=hops))
            has_sound = several or random.random() < SOUND_GIVEN
            given.append((True, True, has_sound, not several and random.random() < DEPTH_GIVEN))
        batch = model_inputs(scenes)
        batch["neuron_mask"] = torch.tensor(given) & batch["neuron_mask"]
        return batch


def model_inputs(scenes: list[Scene]) -> dict[str, Tensor]:
    """Inputs of sen-tiny as its processor makes them, straight from scenes; `labels` (B,) is the sounding or only object."""
    clips = [clip_tensors(scene, MIDDLE_FRAME, purity=0.5) for scene in scenes]
    joined = {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in clips[0]}
    sounds = joined["sounding"] != IGNORED
    return {
        "image_pixel_values": normalise(joined["image"].movedim(-1, 1), PICTURE_MEAN, PICTURE_STD)[:, None],
        "video_pixel_values": normalise(as_colour(joined["grey"]), PICTURE_MEAN, PICTURE_STD),
        "audio_input_features": joined["log_mel"],
        "depth_pixel_values": normalise(as_colour(joined["depth"]), DEPTH_MEAN, DEPTH_STD)[:, None],
        "neuron_mask": torch.stack(
            [sounds.new_ones(len(scenes)), sounds.new_ones(len(scenes)), sounds, sounds | True], 1
        ),
        "labels": torch.tensor([description_number(scene) for scene in scenes]),
    }


def description_number(scene: Scene, sprite: int | None = None) -> int:
    """Index into `all_descriptions()` of a sprite: by default the one that sounds, or the only one."""
    if sprite is None:
        sounding = scene.sounding_sprite
        sprite = 0 if sounding is None else scene.sprites.index(sounding)
    colour, shape, motion, _ = scene_attributes(scene)[sprite]
    return 64 * colour + 8 * shape + motion


def description_embeds(model: SENModel, tokenizer, templates: tuple[str, ...] = TEMPLATES) -> Tensor:
    """(templates, 512, embedding) of all descriptions."""
    embeds: list[Tensor] = []
    for template in templates:
        texts = [template.replace("{}", text) for text in all_descriptions()]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        features = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        embeds.append(features["pooler_output"])
    return torch.stack(embeds)


class TinyAssociation(nn.Module):
    """A SEN and the texts it is trained with, in one template a batch; called on a batch it returns the loss."""

    accepts_loss_kwargs = False  # a mean over clips, whatever the Trainer counts
    embeds: Tensor  # (templates, 512, embedding)

    def __init__(self, model: SENModel, embeds: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("embeds", embeds, persistent=False)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        template = torch.randint(len(self.embeds), ())
        return {"loss": self.model(**batch, text_embeds=self.embeds[template]).loss}


def association_arguments(output: Path, seed: int, steps: int = 900, **changes: Any) -> SENTrainingArguments:
    """Arguments of the stage `association`: about 15 minutes on two cores."""
    own = {"learning_rate": 2e-3, "warmup_steps": 100, "seed": seed, "bf16": True, "dataloader_num_workers": 1}
    often = {"eval_strategy": "steps", "eval_steps": 250, "save_steps": 250}
    return numbered_arguments(output / "training" / "association", steps, **{**own, **often, **changes})


def train_association(
    output: Path, arguments: SENTrainingArguments, batch_size: int = 32, num_validation_clips: int = 256
) -> SENModel:
    """Trains over the towers in `output` and saves the SEN there; a second call resumes."""
    torch.manual_seed(arguments.seed)
    towers = tiny_config(prefix=f"{output.resolve()}/")
    # The CPU's fused attention is the slower one backwards, by far, on few tokens.
    plain = {name: {"attn_implementation": "eager"} for name in NEURONS}
    model = SENModel(towers).load_neurons(plain).eval()
    tokenizer = AutoTokenizer.from_pretrained(output / "text")
    trained = TinyAssociation(model, description_embeds(model, tokenizer))

    def measure(module: nn.Module) -> dict[str, float]:
        save_tiny(model, output)
        return validate(model, trained.embeds[0], num_validation_clips)

    batches = AssociationBatches(arguments.seed, batch_size)
    keep_record(train_on_numbers(trained, batches, arguments, measure), output, "association")
    return model


def save_tiny(model: SENModel, output: Path) -> None:
    """Writes config.json, processor_config.json and the association's weights (in float16), with builtin towers."""
    model.save_pretrained(output, state_dict={name: value.half() for name, value in model.state_dict().items()})
    config = tiny_config()
    config.architectures, config.dtype = model.config.architectures, model.config.dtype
    config.save_pretrained(output)
    SENProcessor(config).save_pretrained(output)


def mixtures(scene: Scene) -> list[int]:
    """Indices of all descriptions made of colours, shapes and motions that occur in the clip: n objects give n ** 3, and
    only knowing what belongs to what tells the n true ones among them."""
    present = scene_attributes(scene)
    colours, shapes, motions = ({facts[part] for facts in present} for part in range(3))
    return [64 * colour + 8 * shape + motion for colour in colours for shape in shapes for motion in motions]


def validate(model: SENModel, embeds: Tensor, count: int = 256) -> dict[str, float]:
    """Shares of validation clips described rightly.

    Returns:
        `one`: clips of one object, of 512 descriptions. `three`: clips of three objects of which one sounds, of 512;
        `three_mixtures`: the same, of the 27 mixtures of what occurs (see `mixtures`). With `_frozen`: for the frozen mean.
    """
    results: dict[str, list[bool]] = {}
    for name, objects in (("one", 1), ("three", 3)):
        hops = 2 if objects > 1 else None
        for start in range(0, count, 32):
            numbers = range(start, min(start + 32, count))
            scenes = [make_scene("validation", 0, index, num_objects=objects, hops=hops) for index in numbers]
            batch = model_inputs(scenes)
            batch["neuron_mask"][:, NEURONS.index("depth")] = False  # an mp4 brings no depth
            labels = batch.pop("labels").tolist()
            rounds = model(**batch, output_all_rounds=True).all_rounds
            frozen = torch.stack(list(rounds[0].neuron_embeds.values())).sum(0)
            for suffix, fused in (("", rounds[-1].fused_embeds), ("_frozen", frozen)):
                scores = fused @ embeds.T  # (clips, 512)
                for scene, score, label in zip(scenes, scores, labels, strict=True):
                    results.setdefault(f"{name}{suffix}", []).append(int(score.argmax()) == label)
                    if objects > 1:
                        candidates = mixtures(scene)
                        best = candidates[int(score[candidates].argmax())]
                        results.setdefault(f"{name}_mixtures{suffix}", []).append(best == label)
    return {name: float(np.mean(right)) for name, right in results.items()}
