"""A chat model that is saved with its code answers without the package."""

import pytest
import torch
from random_chat import make_chat, make_language_model, prompt
from random_sen import random_inputs, random_weights
from safetensors.torch import load_file, save_file
from test_remote_code import run_isolated

from modeling_sen.upload_files import add_code

LOAD = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_sen":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
inputs = load_file({work!r} + "/inputs.safetensors")
ids = inputs.pop("ids")
found = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False, **inputs)
save_file({{"found": found}}, {work!r} + "/found.safetensors")
model.save_pretrained({work!r} + "/again", include_neurons=True)
again = AutoModel.from_pretrained({work!r} + "/again", trust_remote_code=True)
assert torch.equal(again.generate(input_ids=ids, max_new_tokens=5, do_sample=False, **inputs), found)
"""


@pytest.mark.slow
def test_a_chat_model_saved_with_code_works_without_the_package(make_sen, tmp_path):
    model = make_chat(random_weights(make_sen()), make_language_model())
    model.save_pretrained(tmp_path / "chat", include_neurons=True)
    add_code(model, tmp_path / "chat")
    ids, inputs = prompt(model), random_inputs(1)
    save_file({"ids": ids, **inputs}, tmp_path / "inputs.safetensors")
    run_isolated(LOAD.format(folder=str(tmp_path / "chat"), work=str(tmp_path)), tmp_path)
    expected = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False, **inputs)
    assert torch.equal(load_file(tmp_path / "found.safetensors")["found"], expected)
