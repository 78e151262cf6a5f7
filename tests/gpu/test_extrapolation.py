"""On a card long texts are attended to by compiled kernels, which give what the loop gives."""

import pytest
import torch

from ordtool.extrapolation import patch
from ordtool.extrapolation.blockwise import region_attention
from ordtool.extrapolation.flex import FlexRegions
from ordtool.extrapolation.regions import dca_regions, rerope_regions, self_extend_regions
from ordtool.lm.rotary import apply_rotary, inverse_frequencies, rotary_cos_sin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
REGIONS = {
    "rerope": rerope_regions(300),
    "self-extend": self_extend_regions(300, 5),
    "dca": dca_regions(300, 400),
}
LENGTH = 2100


def rotate(states, positions):
    if positions is None:
        return states
    angles = rotary_cos_sin(positions[None, None], inverse_frequencies(states.shape[-1]), states.dtype)
    return apply_rotary(states, *angles)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("name", REGIONS)
@torch.inference_mode()
def test_compiled_regions_are_those_of_the_loop(name, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    states = [
        torch.randn(1, heads, LENGTH, 64, generator=generator, dtype=torch.float64) for heads in (6, 2, 2)
    ]
    wanted = region_attention(*states, REGIONS[name], rotate, scaling=0.1)
    there = [tensor.to("cuda", dtype) for tensor in states]
    found = FlexRegions(REGIONS[name])(*there, rotate, scaling=0.1)
    assert found.dtype == dtype
    error = (found.cpu().double() - wanted).norm() / wanted.norm()
    assert error < tolerance


@torch.inference_mode()
def test_a_model_reads_on_a_card_as_on_the_cpu(recwarn):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=331,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 331, (1, LENGTH))
    logits = []
    for device in ("cpu", "cuda"):
        model.to(device)
        with patch.context_extension(model, "rerope"):
            logits.append(model(tokens.to(device), use_cache=False).logits.cpu())
    assert not [warning for warning in recwarn if "compiled" in str(warning.message)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
