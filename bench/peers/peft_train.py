"""Training speed of transformers + PEFT at the shapes of bench/train.ts, for a ratio on one machine.

    python3 bench/peers/peft_train.py --shape S --mode bfloat16 --threads 2 --steps 5

Random weights, LoRA r 8 alpha 16 on all seven linears, AdamW, sdpa attention, every token supervised.
Modes: float32; bfloat16 (weights bf16, adapters fp32 by PEFT's default autocast_adapter_dtype); bfloat16-adapters (both
bf16); autocast (fp32 weights under torch.autocast bf16). Prints one JSON line with the median and the best step.
"""
import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, __version__ as peft_version, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, __version__ as transformers_version

SHAPES = {
    "S": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, batch=4, length=512),
    "M": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, batch=4, length=512),
    "L": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, batch=1, length=512),
}

parser = argparse.ArgumentParser()
parser.add_argument("--shape", choices=SHAPES, required=True)
parser.add_argument("--mode", choices=["float32", "bfloat16", "bfloat16-adapters", "autocast"], required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=5)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
shape = dict(SHAPES[args.shape])
batch, length = shape.pop("batch"), shape.pop("length")
config = LlamaConfig(vocab_size=32000, max_position_embeddings=2048, attn_implementation="sdpa", tie_word_embeddings=False, **shape)
half = args.mode.startswith("bfloat16")
model = LlamaForCausalLM(config).to(torch.bfloat16 if half else torch.float32)
model.config.use_cache = False
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(model, lora, autocast_adapter_dtype=args.mode != "bfloat16-adapters")
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5, weight_decay=0.0)
ids = torch.randint(0, 32000, (batch, length))

times = []
for step in range(args.steps + 1):
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=args.mode == "autocast"):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    times.append(time.perf_counter() - start)
times = times[1:]  # the first step allocates
tokens = batch * length
print(json.dumps({
    "peer": "transformers+peft", "transformers": transformers_version, "peft": peft_version, "torch": torch.__version__,
    "shape": args.shape, "mode": args.mode, "threads": args.threads, "tokens": tokens, "loss": loss.item(),
    "step_median_s": statistics.median(times), "step_best_s": min(times),
    "tokens_per_second": tokens / statistics.median(times), "tokens_per_second_best": tokens / min(times),
}))
