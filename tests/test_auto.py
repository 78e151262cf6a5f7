"""The Auto classes of transformers load what ordtool's commands write."""

import subprocess
import sys

KINDS = ["onlstm", "ordtool_lm", "ordtool_unilm", "ordtool_ladder", "hsic_bottleneck"]
CODE = f"""
import ordtool
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
ordtool.register_models()
folder = ordtool.resolve_model("english-onlstm")
print(AutoModelForCausalLM.from_pretrained(folder).config.model_type)
print(type(AutoTokenizer.from_pretrained(folder)).__name__)
print(*[AutoConfig.for_model(kind).model_type for kind in {KINDS}])
"""


def test_own_models_load_after_one_call():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["onlstm", "OnlstmTokenizer", " ".join(KINDS)], done.stderr
