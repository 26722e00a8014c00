"""What happens at import time, each case in an interpreter of its own."""

import copy
import json
import os
import pickle
import textwrap

import torch
from peft import PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

import rocket_hub.moe
from rocket_hub.moe.collapsing import collapse_to_lora
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.model import RocketMoeModel
from tests.helping import ROOT, run


def run_script(script, *arguments, path=None):
    """Run a script in a fresh interpreter with warnings as errors of the script's own making only."""
    search = os.pathsep.join(str(entry) for entry in (path, ROOT) if entry)
    return run("-c", textwrap.dedent(script), *arguments, env=os.environ | {"PYTHONPATH": search})


def test_member_is_a_real_one():
    member = PeftType.ROCKET_MOE
    assert member is PeftType("ROCKET_MOE") is PeftType["ROCKET_MOE"]
    assert member in PeftType and member == "ROCKET_MOE" and str(member) == "PeftType.ROCKET_MOE"
    assert pickle.loads(pickle.dumps(member)) is member and copy.deepcopy(member) is member
    assert json.dumps(member) == '"ROCKET_MOE"' and (member.name, member.value) == ("ROCKET_MOE", "ROCKET_MOE")


def test_registration_is_idempotent():
    before = list(PeftType)
    rocket_hub.moe.register()
    rocket_hub.moe.register()
    assert list(PeftType) == before and before.count("ROCKET_MOE") == 1
    assert PEFT_TYPE_TO_CONFIG_MAPPING["ROCKET_MOE"] is RocketMoeConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["ROCKET_MOE"] is RocketMoeModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING["ROCKET_MOE"] == "rocket_moe_"


def test_a_fresh_process_needs_only_import_rocket_hub(tiny_model, routed, fresh_base, ids, tmp_path):
    with torch.no_grad():
        expected = PeftModel.from_pretrained(fresh_base(), routed)(input_ids=ids).logits
    torch.save({"ids": ids, "logits": expected}, tmp_path / "expected.pt")
    script = """
        import sys
        import rocket_hub
        heavy = {"torch", "transformers", "peft", "trl", "datasets", "numpy"} & set(sys.modules)
        assert not heavy, heavy
        import importlib.util
        assert importlib.util.find_spec("peft") is not None      # finds, does not run
        assert "peft" not in sys.modules

        import torch
        from peft import AutoPeftModelForCausalLM, PeftModel
        from transformers import AutoModelForCausalLM
        base, routed, expected = sys.argv[1], sys.argv[2], torch.load(sys.argv[3])
        assert "rocket_hub.moe" in sys.modules
        assert not [finder for finder in sys.meta_path if type(finder).__module__ == "rocket_hub.autoload"]
        for model in (
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), routed),
            AutoPeftModelForCausalLM.from_pretrained(routed),
            AutoModelForCausalLM.from_pretrained(routed),
        ):
            with torch.no_grad():
                error = (model.eval()(input_ids=expected["ids"]).logits - expected["logits"]).abs().max()
            assert error == 0.0, (type(model), error)
        print("same")
    """
    assert run_script(script, tiny_model, routed, tmp_path / "expected.pt").endswith("same\n")


def test_stock_peft_loads_a_collapsed_adapter_and_rocket_hub_may_come_later(
    tiny_model, routed, fresh_base, tokenizer, tmp_path
):
    texts = ["what is 1 plus 2 ? the answer is 3 ."]
    collapse = collapse_to_lora(PeftModel.from_pretrained(fresh_base(), routed), tokenizer, texts, tmp_path)
    script = """
        import sys
        from peft import AutoPeftModelForCausalLM, PeftConfig, PeftType
        from transformers import AutoTokenizer
        base, routed, plain, text = sys.argv[1:]
        ids = AutoTokenizer.from_pretrained(base)(text, return_tensors="pt").input_ids
        print(AutoPeftModelForCausalLM.from_pretrained(plain).eval()(input_ids=ids, labels=ids).loss.item())
        assert "rocket_hub" not in sys.modules
        assert "ROCKET_MOE" not in PeftType.__members__

        import rocket_hub
        assert PeftConfig.from_pretrained(routed).peft_type is PeftType.ROCKET_MOE
    """
    measured = float(run_script(script, tiny_model, routed, tmp_path, texts[0]))
    assert abs(measured - collapse.collapsed_nll) < 1e-6


def test_importing_the_room_itself_registers_once():
    script = """
        import rocket_hub.moe                   # imports peft, whose finder imports rocket_hub.moe
        from peft import PeftType
        assert list(PeftType).count("ROCKET_MOE") == 1
        assert rocket_hub.RocketMoeConfig is rocket_hub.moe.RocketMoeConfig
        print(rocket_hub.RocketMoeConfig().peft_type.value)
    """
    assert run_script(script) == "ROCKET_MOE\n"


def test_a_peft_that_cannot_be_extended_is_still_imported(tmp_path):
    """A stand-in for a broken or foreign `peft`: the first import fails, the second works but has no PeftType."""
    (tmp_path / "peft.py").write_text("import flag\nif flag.down: raise ImportError('down')\nanswer = 42\n")
    (tmp_path / "flag.py").write_text("down = True\n")
    script = """
        import sys, warnings
        import rocket_hub, flag
        try:
            import peft
        except ImportError as error:
            assert str(error) == "down"
        flag.down = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import peft
        assert peft.answer == 42 and type(peft.__spec__.loader).__name__ == "SourceFileLoader"
        assert "ROCKET_MOE adapters will not load" in str(caught[-1].message), caught
        print("imported")
    """
    assert run_script(script, path=tmp_path) == "imported\n"


def test_public_names_are_lazy():
    assert rocket_hub.RocketMoeModel is RocketMoeModel
    assert not hasattr(rocket_hub, "no_such_name")
