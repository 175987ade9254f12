"""Edits of a scene: an instruction such as "make the red circle a blue square", and the exactly edited scene."""

from dataclasses import dataclass, replace

from modeling_sen.world.scene import IntegerStream, Scene
from modeling_sen.world.truth import caption
from modeling_sen.world.vocabulary import BACKGROUNDS, COLOURS, HELD_OUT_PAIRS, SHAPES

EDITED_ATTRIBUTES = ("colour", "shape", "background")


@dataclass(frozen=True)
class Edit:
    """An instruction and its exact result.

    Attributes:
        source_prompt: description of the source.
        edit_prompt: the instruction.
        target_prompt: description of the result.
        sprite: number of the changed sprite; `None` for a change of the background.
        scene: the result. It differs from the source in the colour or shape of the sprite, or in the background's pattern.
    """

    source_prompt: str
    edit_prompt: str
    target_prompt: str
    sprite: int | None
    scene: Scene


def edit(scene: Scene) -> Edit:
    """Changes the colour, the shape or both of one sprite, and nothing else; its texture and motion stay the same.

    The new colour and shape differ from those of all other sprites if possible, and their pair is allowed in the split. In
    `unseen_pairs` both change, because it allows one shape per colour.
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


def edit_attribute(scene: Scene, attribute: str) -> Edit:
    """Changes one attribute and nothing else: the colour or the shape of one sprite, or the pattern of the background.

    The new colour or shape differs from those of all other sprites if possible, and the resulting pair is allowed in the
    split. Prompts of a background edit name the backgrounds: `"a red circle moving left over a striped background"`.

    Args:
        scene: the source.
        attribute: one of `EDITED_ATTRIBUTES`.

    Raises:
        ValueError: another attribute; or colour or shape in the split `unseen_pairs`, which allows one shape per colour.
    """
    if attribute not in EDITED_ATTRIBUTES:
        raise ValueError(f"attribute is {attribute!r}: expected one of {', '.join(EDITED_ATTRIBUTES)}")
    draws = IntegerStream((scene.background.texture, 8 + EDITED_ATTRIBUTES.index(attribute)))
    if attribute == "background":
        kinds = [kind for kind in BACKGROUNDS if kind != scene.background.kind]
        kind = kinds[draws.below(len(kinds))]
        words = caption(scene)
        return Edit(
            source_prompt=f"{words} over a {scene.background.kind} background",
            edit_prompt=f"make the background {kind}",
            target_prompt=f"{words} over a {kind} background",
            sprite=None,
            scene=replace(scene, background=replace(scene.background, kind=kind)),
        )
    if scene.split == "unseen_pairs":
        raise ValueError(
            f"attribute is {attribute!r}: the split unseen_pairs has one shape per colour, so both must change"
        )
    number = draws.below(len(scene.sprites))
    sprite = scene.sprites[number]
    taken = {getattr(other, attribute) for other in scene.sprites}
    if attribute == "colour":
        others = [replace(sprite, colour=colour) for colour in COLOURS if colour != sprite.colour]
    else:
        others = [replace(sprite, shape=shape) for shape in SHAPES if shape != sprite.shape]
    allowed = [changed for changed in others if (changed.colour, changed.shape) not in HELD_OUT_PAIRS]
    free = [changed for changed in allowed if getattr(changed, attribute) not in taken] or allowed
    changed = free[draws.below(len(free))]
    sprites = (*scene.sprites[:number], changed, *scene.sprites[number + 1 :])
    edited = replace(scene, sprites=sprites)
    return Edit(
        source_prompt=caption(scene),
        edit_prompt=f"make the {sprite.colour} {sprite.shape} a {changed.colour} {changed.shape}",
        target_prompt=caption(edited),
        sprite=number,
        scene=edited,
    )
