r"""Writes the cards of sen-tiny and its heads: `python -m recipes.sen_tiny.card`, from weights and what is beside them.

New weights need new figures first; `card/limits.md` and `card/measured_towers.md` have some in their words. Of a run of
`sen eval` only `results.json` is kept:

python benchmarks/world_zero_shot.py --card modeling_sen/sen_tiny/card
python benchmarks/world_zero_shot.py --card modeling_sen/sen_tiny/card --split unseen_pairs --num 500
sen eval sen-tiny "world:test?num=1000&seed=11&num_objects=1" "world:test?num=1000&seed=12&num_objects=1" \
    "world:test?num=1000&seed=13&num_objects=1" --output modeling_sen/sen_tiny/evaluation/one_object
"""

from pathlib import Path
from typing import Any

from modeling_sen import (
    SEN_TINY,
    SEN_TINY_CHAT,
    SEN_TINY_EDITING,
    SEN_TINY_TRACKING,
    SENForConditionalGeneration,
    SENForVideoEditing,
    SENForVideoTracking,
    SENModel,
)
from modeling_sen.model_card import model_card
from modeling_sen.publishing import card_entries

CARD = Path(__file__).parents[2] / "model_cards" / "sen-tiny.md"
TRACKING_CARD = CARD.with_name("sen-tiny-tracking.md")
CHAT_CARD = CARD.with_name("sen-tiny-chat.md")
EDITING_CARD = CARD.with_name("sen-tiny-edit.md")


def card_text() -> str:
    return _card(SENModel.from_pretrained(SEN_TINY), "sen-tiny", SEN_TINY, "modeling_sen.SEN_TINY")


def tracking_card_text() -> str:
    model = SENForVideoTracking.from_pretrained(SEN_TINY_TRACKING)
    return _card(model, "sen-tiny-tracking", SEN_TINY_TRACKING, "modeling_sen.SEN_TINY_TRACKING")


def chat_card_text() -> str:
    model = SENForConditionalGeneration.from_pretrained(SEN_TINY_CHAT)
    return _card(model, "sen-tiny-chat", SEN_TINY_CHAT, "modeling_sen.SEN_TINY_CHAT")


def editing_card_text() -> str:
    model = SENForVideoEditing.from_pretrained(SEN_TINY_EDITING)
    return _card(model, "sen-tiny-edit", SEN_TINY_EDITING, "modeling_sen.SEN_TINY_EDITING")


def _card(model: Any, name: str, folder: str, location: str) -> str:
    """Where there is no repository, the example names the folder inside the package by its `location`."""
    results = card_entries(model, Path(folder))
    return str(model_card(model, model.base_model.config, name, Path(folder), results, location=location))


if __name__ == "__main__":
    cards = {
        CARD: card_text,
        TRACKING_CARD: tracking_card_text,
        CHAT_CARD: chat_card_text,
        EDITING_CARD: editing_card_text,
    }
    for path, text in cards.items():
        path.write_text(text())
        print(path)
