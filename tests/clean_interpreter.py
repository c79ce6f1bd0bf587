"""Loads exported folders where importing hf_jepa raises; called with the path of a list of what to load.

An item of the list: `folder`, `auto` (an Auto class, or file and class in the folder), `case` (a file with `inputs`
and the tensors `expected` of the output, see `record`), `code` (whether classes come from the folder) and `again` (a
folder to save to and load from).
Prints one line for each item: what was loaded, or what is wrong.
"""

import sys


def tensors_of(output) -> dict:
    """Name -> tensor of all that a model puts out, tuples and lists taken apart."""
    import torch

    found, waiting = {}, list(output.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found[name] = value.detach()
        elif isinstance(value, dict):
            waiting += [(f"{name}.{key}", each) for key, each in value.items()]
        elif isinstance(value, (tuple, list)):
            waiting += [(f"{name}.{i}", each) for i, each in enumerate(value)]
    return found


def computed(model, inputs: dict) -> dict:
    """What a model computes from inputs, the same in every process."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        return tensors_of((model.eval() if isinstance(model, torch.nn.Module) else model)(**inputs))


def record(model, inputs: dict, path) -> None:
    """Write the case of an item."""
    import torch

    torch.save({"inputs": inputs, "expected": computed(model, inputs)}, path)


def verdict(item: dict) -> str:
    """What was loaded, or what is wrong."""
    import torch
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    if "." in item["auto"]:
        auto = get_class_from_dynamic_module(item["auto"], item["folder"])
    else:
        auto = getattr(transformers, item["auto"])
    options = {"trust_remote_code": True} if item["code"] and "." not in item["auto"] else {}
    model = auto.from_pretrained(item["folder"], **options)
    if type(model).__module__.startswith("transformers_modules.") != item["code"]:
        return f"{type(model)} is not where it should be from"
    case = torch.load(item["case"], weights_only=True)
    models = {"": model}
    if item.get("again"):
        model.save_pretrained(item["again"])
        models[" saved again"] = auto.from_pretrained(item["again"], **options)
    for what, each in models.items():
        if item["code"] and hasattr(each, "config") and not isinstance(each.config, each.config_class):
            return f"the config{what} is a {type(each.config)}, not a {each.config_class}"
        found = computed(each, case["inputs"])
        if not item["code"]:  # a stock class may have random parts on top, as the pooler of texts
            found = {name: value for name, value in found.items() if name != "pooler_output"}
            case["expected"].pop("pooler_output", None)
        if found.keys() != case["expected"].keys() or not found:
            return f"outputs{what} are {sorted(found)}, not {sorted(case['expected'])}"
        unlike = [name for name, value in case["expected"].items() if not torch.equal(value, found[name])]
        if unlike:
            return f"outputs{what} differ: {unlike}"
    return f"loaded {type(model).__name__}"


def main(path: str) -> None:
    sys.modules["hf_jepa"] = None  # importing it raises
    import json
    import traceback
    from pathlib import Path

    import torch

    torch.set_num_threads(1)
    for item in json.loads(Path(path).read_text()):
        try:
            line = verdict(item)
        except Exception:
            line = traceback.format_exc()
        print(json.dumps(line))
    loaded = [name for name in sys.modules if name.startswith("hf_jepa.")]
    assert not loaded, loaded


if __name__ == "__main__":
    main(sys.argv[1])
