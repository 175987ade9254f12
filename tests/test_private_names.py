"""No module uses a private name of another module; used private names of libraries are listed here with the reason."""

import ast

import pytest
from test_layout import package

LIBRARIES = {
    # Transformers
    "_attn_implementation": "the attention that a model runs with",
    "_from_config": "a model with the configuration's dtype and attention",
    "_get_default_generation_params": "what a config.json may contain",
    "_model_mapping": "the class that AutoModel builds for a configuration",
    "_hf_peft_config_loaded": "whether `save_pretrained` writes adapters alone",
    # torch
    "_compiled_call_impl": "a compiled layer whose forward is replaced for one pass",
    "_ConvNd": "convolutions of any number of dimensions",
    "_dynamo": "the limit of recompilations",
    # accelerate, datasets, argparse
    "_hf_hook": "the device of an offloaded module",
    "_fingerprint": "the identity of a data set",
    "_option_string_actions": "the options of a parser",
}


def own(tree: ast.Module) -> set[str]:
    """Private names that a file defines as functions, classes or attributes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def foreign(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
            found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - own(tree)


@pytest.mark.parametrize("name", sorted(package()))
def test_modules_use_no_private_names_except_those_listed(name):
    assert foreign(ast.parse(package()[name].read_text())) <= set(LIBRARIES)


def test_every_listed_name_is_used():
    assert set().union(*(foreign(ast.parse(path.read_text())) for path in package().values())) == set(LIBRARIES)


def test_a_private_name_of_another_module_is_detected():
    tree = ast.parse("from .neuron import _folded\ndef _mine(): ...\nself._x\nself.sen._check()\nsen._mine()\n")
    assert foreign(tree) == {"_folded", "_check"}
