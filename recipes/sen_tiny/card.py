r"""Writes sen-tiny's model card: `python -m recipes.sen_tiny.card`, from the weights and what stands beside them.

New weights need new figures first; `card/limits.md` and `card/measured_towers.md` have some in their words. Of a run of
`sen eval` only `results.json` is kept:

python benchmarks/world_zero_shot.py --card modeling_sen/sen_tiny/card
python benchmarks/world_zero_shot.py --card modeling_sen/sen_tiny/card --split unseen_pairs --num 500
sen eval sen-tiny "world:test?num=1000&seed=11&num_objects=1" "world:test?num=1000&seed=12&num_objects=1" \
    "world:test?num=1000&seed=13&num_objects=1" --output modeling_sen/sen_tiny/evaluation/one_object
"""

from pathlib import Path

from modeling_sen import SEN_TINY, SENModel
from modeling_sen.model_card import model_card
from modeling_sen.publishing import card_entries

CARD = Path(__file__).parents[2] / "model_cards" / "sen-tiny.md"


def card_text() -> str:
    model = SENModel.from_pretrained(SEN_TINY)
    # Where there is no repository, the example names the folder inside the package.
    results, location = card_entries(model, Path(SEN_TINY)), "modeling_sen.SEN_TINY"
    return str(model_card(model, model.config, "sen-tiny", Path(SEN_TINY), results, location=location))


if __name__ == "__main__":
    CARD.write_text(card_text())
    print(CARD)
