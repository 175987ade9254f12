"""Trains sen-tiny from nothing: `python -m recipes.sen_tiny.train_tiny OUT`.

Stage `towers` trains the five towers together and exports them to OUT each time it validates; `video` trains the video
tower on; `association` the recursive association over them; `image_128` the image tower for larger pictures. Each stage
resumes where it was interrupted.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from modeling_sen.training.trainer import SENTrainingArguments
from modeling_sen.world.vocabulary import all_descriptions
from recipes.sen_tiny.numbered_batches import keep_record, numbered_arguments, train_on_numbers
from recipes.sen_tiny.tiny_batches import IGNORED, TinyBatches, validation_clips
from recipes.sen_tiny.tiny_image_128 import SIZE, LargeImageTower
from recipes.sen_tiny.tiny_towers import (
    TinyTowers,
    export_towers,
    exported_pictures,
    picture_processor,
    save_tower,
)
from recipes.sen_tiny.tiny_video import LongerVideo
from recipes.sen_tiny.train_tiny_association import association_arguments, train_association

SEED = 20250607
BATCH_SIZE = 32  # clips
# Which of colour, shape, motion a tower can see of a clip of one object.
SEEN = {"image": (0, 1), "video": (1, 2), "depth": (1,), "audio": (0,)}


def stage_arguments(output: Path, stage: str, steps: int, **changes: Any) -> SENTrainingArguments:
    """Arguments of a stage that trains towers."""
    common = {"weight_decay": 0.05, "seed": SEED, "dataloader_num_workers": 1, "eval_strategy": "steps"}
    return numbered_arguments(output / "training" / stage, steps, **{**common, **changes})


def towers_arguments(output: Path, steps: int = 2600, **changes: Any) -> SENTrainingArguments:
    """Arguments of the stage `towers`: about 35 minutes on two cores."""
    own = {"warmup_steps": 150, "eval_steps": 300, "save_steps": 300}
    return stage_arguments(output, "towers", steps, **{**own, **changes})


def train_towers(
    output: Path, arguments: SENTrainingArguments, batch_size: int = BATCH_SIZE, num_validation_clips: int = 512
) -> TinyTowers:
    """Trains the towers and writes them to `output`; a second call resumes, or loads what is finished."""
    torch.manual_seed(arguments.seed)
    steps = arguments.max_steps
    batches = TinyBatches(arguments.seed, batch_size, masked_steps=steps * 8 // 10, dense_steps=steps * 6 // 10)
    towers = TinyTowers(batches.tokenizer)
    validate = TowerValidation(batches, num_validation_clips)

    def measure(model: torch.nn.Module) -> dict[str, float]:
        export_towers(towers, batches.tokenizer, output)
        return validate(towers)

    keep_record(train_on_numbers(towers, batches, arguments, measure), output, "towers")
    return towers


def video_arguments(output: Path, steps: int = 900, **changes: Any) -> SENTrainingArguments:
    """Arguments of the stage `video`: about 9 minutes on two cores."""
    own = {"warmup_steps": 50, "eval_steps": 300, "save_steps": 150}
    return stage_arguments(output, "video", steps, **{**own, **changes})


def train_video(
    output: Path,
    towers: TinyTowers,
    arguments: SENTrainingArguments,
    batch_size: int = BATCH_SIZE,
    num_validation_clips: int = 512,
) -> None:
    """Trains the video tower on, in place, and writes the towers again."""
    torch.manual_seed(arguments.seed)
    # a seed of its own: other clips than the towers saw
    batches = TinyBatches(arguments.seed + 2, batch_size, masked_steps=arguments.max_steps * 6 // 10)
    validate = TowerValidation(batches, num_validation_clips)

    def measure(model: torch.nn.Module) -> dict[str, float]:
        export_towers(towers, batches.tokenizer, output)
        return validate(towers)

    keep_record(train_on_numbers(LongerVideo(towers), batches, arguments, measure), output, "video")


def image_128_arguments(output: Path, steps: int = 800, **changes: Any) -> SENTrainingArguments:
    """Arguments of the stage `image_128`: about 4 minutes on two cores."""
    own = {"warmup_steps": 50, "eval_steps": 400, "save_steps": 200}
    return stage_arguments(output, "image_128", steps, **{**own, **changes})


def train_image_128(
    output: Path,
    folder: Path,
    arguments: SENTrainingArguments,
    batch_size: int = BATCH_SIZE,
    num_validation_clips: int = 256,
) -> LargeImageTower:
    """Trains the image tower for 128 pixels on from that in `folder`, against the text tower there; writes it to `output`."""
    torch.manual_seed(arguments.seed)
    # a seed of its own: other clips than the towers saw
    batches = TinyBatches(arguments.seed + 1, batch_size, size=SIZE, pictures_only=True)
    tower = LargeImageTower(exported_pictures(folder, batches.tokenizer))
    validate = TowerValidation(batches, num_validation_clips)
    trainer = train_on_numbers(tower, batches, arguments, lambda model: validate(tower))
    save_tower(tower.image, output / "image_128", {}, picture_processor("CLIPImageProcessor", SIZE))
    keep_record(trainer, output, "image_128")
    return tower


class TowerValidation:
    """Measures towers on clips of the validation split.

    `*_top1`: share of one-object clips whose true description ranks first of 512, for each tower and for the mean of
    their embeddings. `*_seen`: the same for those attributes that the tower can see. Dense heads by their names:
    share of the patches well inside objects that are named right.
    """

    def __init__(self, batches: TinyBatches, num_clips: int):
        self.one = validation_clips(1, num_clips, batches.size, batches.pictures_only)
        self.many = validation_clips(5, num_clips // 2, batches.size, batches.pictures_only)
        self.ids = batches.tokenize(all_descriptions())

    def __call__(self, towers: TinyTowers | LargeImageTower) -> dict[str, float]:
        device = next(towers.parameters()).device
        texts = towers.encode_text(self.ids.to(device))  # (512, 128)
        parts = [towers.encode(batch)[0] for batch in in_parts(self.one, device)]
        embeddings = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        embeddings["mean"] = torch.stack(list(embeddings.values())).mean(0)
        truth = self.one["attributes"][:, :3].to(device)
        results = {}
        for name, embedding in embeddings.items():
            best = (embedding @ texts.T).argmax(1)  # 64 * colour + 8 * shape + motion
            right = torch.stack([best // 64, best // 8 % 8, best % 8], dim=1) == truth
            results[f"{name}_top1"] = right.all(1).float().mean().item()
            if name in SEEN:
                rows = right[self.one["sounding"].to(device) != IGNORED] if name == "audio" else right
                results[f"{name}_seen"] = rows[:, SEEN[name]].all(1).float().mean().item()
        counts = {name: torch.zeros(2) for name in towers.dense_heads}
        for batch in in_parts(self.many, device):
            tokens = towers.encode(batch)[1]
            for name, head in towers.dense_heads.items():
                inside = batch[name] > 0
                named = head(tokens[name.partition("_")[0]]).argmax(-1)
                counts[name] += torch.tensor([((named == batch[name]) & inside).sum(), inside.sum()])
        return results | {name: (right / every).item() for name, (right, every) in counts.items()}


def in_parts(clips: dict[str, torch.Tensor], device: torch.device, size: int = 64) -> list[dict[str, torch.Tensor]]:
    """Cuts a dict of tensors into batches."""
    count = len(next(iter(clips.values())))
    return [
        {name: value[start : start + size].to(device) for name, value in clips.items()}
        for start in range(0, count, size)
    ]


STAGES = ("towers", "video", "association", "image_128")


def main(
    output: Annotated[Path, typer.Argument(help="folder of sen-tiny")],
    stage: Annotated[
        str, typer.Option(help=f"{', '.join(STAGES)} or all; what is finished is not trained again")
    ] = "all",
) -> None:
    """Train sen-tiny. Run again after an interruption: it goes on where it was."""
    if stage not in (*STAGES, "all"):
        raise typer.BadParameter(f"{stage!r}: expected {', '.join(STAGES)} or all", param_hint="--stage")
    torch.set_num_threads(2)
    if stage != "image_128":  # which starts from the towers that were written
        towers = train_towers(output, towers_arguments(output))
        if stage != "towers":
            train_video(output, towers, video_arguments(output))
    if stage in ("association", "all"):
        train_association(output, association_arguments(output, SEED))
    if stage in ("image_128", "all"):
        train_image_128(output, output, image_128_arguments(output))


if __name__ == "__main__":
    typer.run(main)
