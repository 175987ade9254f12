"""`sen neurons`."""

import json

from modeling_sen import list_neurons
from modeling_sen.commands.neurons import neurons


def test_every_registered_type_is_listed(capsys):
    neurons(as_json=True)
    rows = {row["model_type"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == list_neurons()
    expected = {"model_type": "xclip_vision_model", "modality": "video", "prompt_side": "suffix", "grid": "image"}
    expected["queries"] = False
    assert rows["xclip_vision_model"] == expected
    neurons()
    text = capsys.readouterr().out
    assert all(model_type in text for model_type in list_neurons())
