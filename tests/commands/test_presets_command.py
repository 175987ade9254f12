"""`sen presets`."""

import json

from modeling_sen import PRESETS
from modeling_sen.commands.presets import presets


def test_every_preset_is_listed_with_what_it_needs(capsys):
    presets(as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(PRESETS)
    row = rows["clip-videomae-ast"]
    aligned = {neuron["hub_id"]: neuron["aligned"] for neuron in row["neurons"]}
    assert aligned["openai/clip-vit-base-patch16"]
    assert not aligned["MCG-NJU/videomae-base"]
    assert row["text_tower"]["hub_id"] == "openai/clip-vit-base-patch16"
    licences = {neuron["hub_id"]: neuron["licence"] for neuron in row["neurons"]}
    assert licences["MCG-NJU/videomae-base"] == "cc-by-nc-4.0"
    assert licences["openai/clip-vit-base-patch16"] is None
    towers = sum(neuron["parameters"] for neuron in [*row["neurons"], row["text_tower"]])
    assert row["parameters"] == towers + row["trainable_parameters"]
    assert row["weight_memory"] == 4 * row["parameters"]
    assert row["peak_memory"] == PRESETS["clip-videomae-ast"].peak_memory
    assert rows["imagebind"]["conversion"].startswith("sen convert imagebind imagebind_huge.pth")
    presets()
    text = capsys.readouterr().out
    for part in (
        "openai/clip-vit-base-patch16",
        "shares the text space",
        "class texts",
        "bsd-3-clause",
        "unknown",
        "modeling-sen[pe]",
        "made by sen convert",
    ):
        assert part in text
    assert all(name in text for name in PRESETS)
