"""`sen info`."""

import json

from modeling_sen.commands.info import info
from modeling_sen.cost import describe


def test_it_prints_a_table_or_json(sen_folder, capsys):
    info(str(sen_folder))
    text = capsys.readouterr().out
    for part in ("./neuron_image", "from layer 3 of 4", "class texts", "trainable", "times that with 3 rounds"):
        assert part in text
    info(str(sen_folder), as_json=True)
    assert json.loads(capsys.readouterr().out) == describe(str(sen_folder))
    info("clip-videomae-ast")
    text = capsys.readouterr().out
    assert "MIT/ast-finetuned-audioset-10-10-0.4593" in text
    assert "unknown    image: " in text
