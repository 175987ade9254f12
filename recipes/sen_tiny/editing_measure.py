"""What the evaluation tower sees in frames that were generated from captions: are the objects and the background there?"""

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.editing_tower import EditingTower
from modeling_sen.editing.pixel_unshuffle import PixelUnshuffle
from modeling_sen.world import BACKGROUNDS, COLOURS, SHAPES, Scene, caption, make_scene, render
from recipes.sen_tiny.editing_batches import over_background, token_ids
from recipes.sen_tiny.editing_network import LATENT_SHAPE, EditingBase, make_scheduler, to_frames

PLACES = 3  # of the tower's 16 x 16, that a colour must fill to be an object; the smallest sprites fill about 6
MIDDLE_FRAME = 8  # in which every sprite is in sight
AT_ONCE = 32  # frames


@torch.no_grad()
def generate(
    base: EditingBase,
    vae: PixelUnshuffle,
    captions: Sequence[str],
    guidance: float = 2.0,
    steps: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Frames (captions, 64, 64, 3) uint8, by deterministic DDIM with classifier-free guidance."""
    generator = torch.Generator().manual_seed(seed)
    scheduler, frames = make_scheduler(), []
    scheduler.set_timesteps(steps)
    for start in range(0, len(captions), AT_ONCE):
        some = list(captions[start : start + AT_ONCE])
        states = base.text_states(token_ids([""] * len(some) + some))
        latents = torch.randn(len(some), *LATENT_SHAPE, generator=generator)
        for timestep in scheduler.timesteps:
            without, given = base.predict(torch.cat([latents, latents]), timestep, states).chunk(2)
            latents = scheduler.step(without + guidance * (given - without), timestep, latents).prev_sample
        frames.append(to_frames(vae, latents))
    return torch.cat(frames).numpy()


@torch.inference_mode()
def read_frames(tower: EditingTower, frames: np.ndarray) -> list[tuple[dict[str, str], str]]:
    """({colour: shape} of the objects, the largest first; background) of each frame of (N, 64, 64, 3) uint8."""
    there, colour, shape, background = tower(torch.from_numpy(frames))
    found = []
    for is_there, colours, shapes, kind in zip(
        there[:, 0] > 0, colour.argmax(1), shape, background.argmax(1), strict=True
    ):
        regions = {name: is_there & (colours == number) for number, name in enumerate(COLOURS)}
        sizes = {name: int(region.sum()) for name, region in regions.items()}
        objects = {
            name: SHAPES[int(shapes[:, regions[name]].sum(1).argmax())]
            for name in sorted(sizes, key=sizes.__getitem__, reverse=True)
            if sizes[name] >= PLACES
        }
        found.append((objects, BACKGROUNDS[int(kind)]))
    return found


def accuracy(tower: EditingTower, frames: np.ndarray, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of what scenes hold that their frames show.

    Returns:
        `colour`, `shape` (of the object of that colour), both over objects, among the largest objects of a frame, as many as
        are asked for (noise holds every colour); `background`; `all`, frames that show just the objects and the background.
    """
    colours, shapes, backgrounds, exact = [], [], [], []
    for (objects, background), scene in zip(read_frames(tower, frames), scenes, strict=True):
        asked = {sprite.colour: sprite.shape for sprite in scene.sprites}
        largest = dict(list(objects.items())[: len(asked)])
        colours += [colour in largest for colour in asked]
        shapes += [largest.get(colour) == shape for colour, shape in asked.items()]
        backgrounds.append(background == scene.background.kind)
        exact.append(backgrounds[-1] and objects == asked)
    found = {"colour": colours, "shape": shapes, "background": backgrounds, "all": exact}
    return {name: float(np.mean(values)) for name, values in found.items()}


def asked_scenes(num: int, num_objects: int, split: str = "validation") -> list[Scene]:
    return [make_scene(split, 0, index, num_objects=num_objects) for index in range(num)]


def generated_accuracy(
    base: EditingBase, vae: PixelUnshuffle, tower: EditingTower, scenes: Sequence[Scene], guidance: float = 2.0
) -> dict[str, float]:
    """[`accuracy`] of frames that are generated from the scenes' captions with their backgrounds."""
    captions = [over_background(caption(scene), scene) for scene in scenes]
    return accuracy(tower, generate(base, vae, captions, guidance), scenes)


def real_accuracy(tower: EditingTower, scenes: Sequence[Scene]) -> dict[str, float]:
    """[`accuracy`] of the scenes' own frames, which bounds what the tower can say."""
    frames = np.concatenate([render(scene, [MIDDLE_FRAME]).frames for scene in scenes])
    return accuracy(tower, frames, scenes)


__all__ = ["accuracy", "asked_scenes", "generate", "generated_accuracy", "read_frames", "real_accuracy"]
