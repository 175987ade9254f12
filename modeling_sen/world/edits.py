"""Edits of a scene: a sentence such as "make the red circle a blue square", and the scene in which just that is so."""

from dataclasses import dataclass, replace

from modeling_sen.world.scene import IntegerStream, Scene
from modeling_sen.world.truth import caption
from modeling_sen.world.vocabulary import COLOURS, HELD_OUT_PAIRS, SHAPES


@dataclass(frozen=True)
class Edit:
    """What to change and the outcome. `scene` differs from its source in the colour or shape of sprite `sprite`."""

    source_prompt: str
    edit_prompt: str
    target_prompt: str
    sprite: int
    scene: Scene


def edit(scene: Scene) -> Edit:
    """Change the colour, the shape or both of one sprite; everything else stays, the texture and the way it moves too.

    The new colour and shape are those of no other sprite, as long as there are any left, and the pair is one that the
    split allows (in `unseen_pairs` both change, since it allows one shape a colour).
    """
    draws = IntegerStream((scene.background.texture, 7))
    number = draws.below(len(scene.sprites))
    sprite = scene.sprites[number]
    before = (sprite.colour, sprite.shape)
    others = [other for other in scene.sprites if other is not sprite]
    colours = {other.colour for other in others}
    shapes = {other.shape for other in others}
    allowed = [
        (colour, shape)
        for colour in COLOURS
        for shape in SHAPES
        if (colour, shape) != before and ((colour, shape) in HELD_OUT_PAIRS) == (scene.split == "unseen_pairs")
    ]
    pairs = [pair for pair in allowed if pair[0] not in colours and pair[1] not in shapes] or allowed
    kinds: dict[tuple[bool, bool], list[tuple[str, str]]] = {}
    for pair in pairs:
        kinds.setdefault((pair[0] == before[0], pair[1] == before[1]), []).append(pair)
    kind = list(kinds.values())[draws.below(len(kinds))]
    colour, shape = kind[draws.below(len(kind))]
    sprites = list(scene.sprites)
    sprites[number] = replace(sprite, colour=colour, shape=shape)
    edited = replace(scene, sprites=tuple(sprites))
    return Edit(
        source_prompt=caption(scene),
        edit_prompt=f"make the {sprite.colour} {sprite.shape} a {colour} {shape}",
        target_prompt=caption(edited),
        sprite=number,
        scene=edited,
    )
