"""The Auto classes of transformers load what ordtool's commands write."""

import subprocess
import sys

import pytest

KINDS = ["onlstm", "ordtool_lm", "ordtool_unilm", "ordtool_ladder", "hsic_bottleneck"]
CODE = f"""
IMPORTS
folder = ordtool.resolve_model("english-onlstm")
print(AutoModelForCausalLM.from_pretrained(folder).config.model_type)
print(type(AutoTokenizer.from_pretrained(folder)).__name__)
print(*[AutoConfig.for_model(kind).model_type for kind in {KINDS}])
"""


ORDTOOL = "import ordtool, sys; assert not {'torch', 'transformers'} & set(sys.modules) or len(sys.argv) > 1"
TRANSFORMERS = "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer"


@pytest.mark.parametrize(
    "imports", [[ORDTOOL, TRANSFORMERS], [TRANSFORMERS, ORDTOOL]], ids=["before", "after"]
)
def test_own_models_load_wherever_ordtool_is_imported(imports, launcher, tmp_path):
    code = CODE.replace("IMPORTS", "\n".join(imports))
    if imports[0] == TRANSFORMERS:
        done = launcher.run(["-c", code, "transformers first"], cwd=tmp_path)
    else:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    printed = done.stdout.decode().splitlines()
    assert printed == ["onlstm", "OnlstmTokenizer", " ".join(KINDS)], done.stderr.decode()
