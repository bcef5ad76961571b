"""TRM and HRM a second time: plain functions over a dictionary of weights, float64, no code of `models/`.

The tests' other route. It is written for reading, not for speed: attention with an explicit softmax, rotary
positions as complex products, losses and halting row by row.
"""

import math
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Rows = dict[str, Tensor]

DEFAULTS: dict[str, Any] = {
    "puzzle_emb_ndim": 0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "mlp_t": False,
    "expansion": 4,
}
IGNORED = -100


def complete(options: dict[str, Any]) -> dict[str, Any]:
    """Official options with what the official classes leave to defaults."""
    by_kind = {
        "trm": {"puzzle_emb_len": 16, "no_ACT_continue": True},
        "hrm": {"puzzle_emb_len": 0, "no_ACT_continue": False},
    }
    return DEFAULTS | by_kind[options["kind"]] | options


def prefix_length(o: dict[str, Any]) -> int:
    if o["puzzle_emb_ndim"] == 0:
        return 0
    return o["puzzle_emb_len"] or math.ceil(o["puzzle_emb_ndim"] / o["hidden_size"])


def swiglu_width(o: dict[str, Any], size: int) -> int:
    return math.ceil(round(o["expansion"] * size * 2 / 3) / 256) * 256


def weight_shapes(options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a state dict, parameters and buffers."""
    o = complete(options)
    size, length = o["hidden_size"], prefix_length(o) + o["seq_len"]
    shapes: dict[str, tuple[int, ...]] = {
        "H_init": (size,),
        "L_init": (size,),
        "embed_tokens.embedding_weight": (o["vocab_size"], size),
        "lm_head.weight": (o["vocab_size"], size),
        "q_head.weight": (2, size),
        "q_head.bias": (2,),
    }
    if o["puzzle_emb_ndim"]:
        shapes["puzzle_emb.weights"] = (o["num_puzzle_identifiers"], o["puzzle_emb_ndim"])
    if o["pos_encodings"] == "learned":
        shapes["embed_pos.embedding_weight"] = (length, size)
    depths = {"L_level": o["L_layers"]} | ({"H_level": o["H_layers"]} if o["kind"] == "hrm" else {})
    for level, depth in depths.items():
        for layer in range(depth):
            name = f"{level}.layers.{layer}"
            mixers = {"mlp": size} | ({"mlp_t": length} if o["mlp_t"] else {})
            for mixer, axis in mixers.items():
                width = swiglu_width(o, axis)
                shapes[f"{name}.{mixer}.gate_up_proj.weight"] = (2 * width, axis)
                shapes[f"{name}.{mixer}.down_proj.weight"] = (axis, width)
            if not o["mlp_t"]:
                shapes[f"{name}.self_attn.qkv_proj.weight"] = (3 * size, size)
                shapes[f"{name}.self_attn.o_proj.weight"] = (size, size)
    return shapes


BUFFERS = ("H_init", "L_init", "puzzle_emb.weights")


def random_weights(options: dict[str, Any], generator: torch.Generator) -> Weights:
    """Weights of float32 precision in float64; the halting head is wide enough that some rows halt."""
    weights = {}
    for name, shape in weight_shapes(options).items():
        scale = shape[-1] ** -0.5
        if name in (*BUFFERS, "q_head.bias"):
            scale = 1.0
        weights[name] = (scale * torch.randn(shape, generator=generator)).double()
        weights[name].requires_grad_(name not in BUFFERS)
    return weights


def rms(x: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt()


def swiglu(w: Weights, name: str, x: Tensor) -> Tensor:
    both = x @ w[f"{name}.gate_up_proj.weight"].T
    half = both.shape[-1] // 2
    gate, up = both[..., :half], both[..., half:]
    return (gate / (1 + (-gate).exp()) * up) @ w[f"{name}.down_proj.weight"].T


def rotate(x: Tensor, theta: float) -> Tensor:
    """x (B, L, head_dim): channel i and channel i + head_dim/2 are one complex number, turned by position."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1)


def attention(w: Weights, o: dict[str, Any], name: str, x: Tensor) -> Tensor:
    size, heads = o["hidden_size"], o["num_heads"]
    head_dim = size // heads
    q, k, v = (x @ part.T for part in w[f"{name}.qkv_proj.weight"].split(size))
    outs = []
    for head in range(heads):
        channels = slice(head * head_dim, (head + 1) * head_dim)
        a, b, c = q[..., channels], k[..., channels], v[..., channels]
        if o["pos_encodings"] == "rope":
            a, b = rotate(a, o["rope_theta"]), rotate(b, o["rope_theta"])
        scores = a @ b.transpose(1, 2) / math.sqrt(head_dim)
        outs.append(torch.softmax(scores, dim=-1) @ c)
    return torch.cat(outs, dim=-1) @ w[f"{name}.o_proj.weight"].T


def stack(w: Weights, o: dict[str, Any], level: str, x: Tensor) -> Tensor:
    for layer in range(o["H_layers" if level == "H_level" else "L_layers"]):
        name, eps = f"{level}.layers.{layer}", o["rms_norm_eps"]
        if o["mlp_t"]:
            tokens_last = x.transpose(1, 2)
            x = rms(tokens_last + swiglu(w, f"{name}.mlp_t", tokens_last), eps).transpose(1, 2)
        else:
            x = rms(x + attention(w, o, f"{name}.self_attn", x), eps)
        x = rms(x + swiglu(w, f"{name}.mlp", x), eps)
    return x


def embed(w: Weights, o: dict[str, Any], inputs: Tensor, rows: Tensor | None) -> Tensor:
    """Input embeddings; `rows` (B, ndim) are the gathered puzzle rows."""
    x = w["embed_tokens.embedding_weight"][inputs.long()]
    if rows is not None:
        prefix = torch.zeros(len(rows), prefix_length(o) * o["hidden_size"], dtype=torch.float64)
        prefix = torch.cat((rows, prefix[:, rows.shape[1] :]), dim=1)
        x = torch.cat((prefix.reshape(len(rows), prefix_length(o), o["hidden_size"]), x), dim=1)
    if o["pos_encodings"] == "learned":
        x = 0.707106781 * (x + w["embed_pos.embedding_weight"])
    return math.sqrt(o["hidden_size"]) * x


def recurse(w: Weights, o: dict[str, Any], z_H: Tensor, z_L: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One supervision step; what lies before the gradient's start is cut off by detaching."""
    upper = "H_level" if o["kind"] == "hrm" else "L_level"
    for cycle in range(o["H_cycles"]):
        last_cycle = cycle == o["H_cycles"] - 1
        for inner in range(o["L_cycles"]):
            cut = not last_cycle if o["kind"] == "trm" else not (last_cycle and inner == o["L_cycles"] - 1)
            z_L = stack(w, o, "L_level", z_L + z_H + x)
            z_L = z_L.detach() if cut else z_L
        z_H = stack(w, o, upper, z_H + z_L)
        z_H = z_H if last_cycle else z_H.detach()
    return z_H, z_L


def read_out(w: Weights, o: dict[str, Any], z_H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = z_H[:, prefix_length(o) :] @ w["lm_head.weight"].T
    q = (z_H[:, 0] @ w["q_head.weight"].T + w["q_head.bias"]).float()
    return logits, q[:, 0], q[:, 1]


def fresh_carry(o: dict[str, Any], batch: Rows) -> Rows:
    """Every row halted; the rest is never read."""
    size = len(batch["inputs"])
    shape = (size, prefix_length(o) + o["seq_len"], o["hidden_size"])
    empty = torch.full(shape, torch.nan, dtype=torch.float64)
    return {
        "z_H": empty,
        "z_L": empty,
        "steps": torch.full((size,), 77),
        "halted": torch.ones(size, dtype=torch.bool),
        **{key: torch.zeros_like(value) for key, value in batch.items()},
    }


def act_step(
    w: Weights, o: dict[str, Any], carry: Rows, batch: Rows, training: bool, minimum: Tensor | None = None
) -> tuple[Rows, Rows, Tensor | None]:
    """(carry, outputs, gathered puzzle rows: a leaf of the graph) of one call of the ACT wrapper."""
    size = len(batch["inputs"])
    data = {key: batch[key].clone() for key in ("inputs", "labels", "puzzle_identifiers")}
    z_H = w["H_init"].expand(carry["z_H"].shape).clone()
    z_L = w["L_init"].expand(carry["z_L"].shape).clone()
    steps = torch.zeros(size, dtype=torch.int64)
    for row in range(size):
        if not carry["halted"][row]:
            z_H[row], z_L[row], steps[row] = carry["z_H"][row], carry["z_L"][row], carry["steps"][row]
            for key in data:
                data[key][row] = carry[key][row]
    rows = None
    if o["puzzle_emb_ndim"]:
        rows = w["puzzle_emb.weights"][data["puzzle_identifiers"].long()].clone().requires_grad_(training)
    x = embed(w, o, data["inputs"], rows)
    z_H, z_L = recurse(w, o, z_H, z_L, x)
    logits, q_halt, q_continue = read_out(w, o, z_H)
    out = {"logits": logits, "q_halt_logits": q_halt, "q_continue_logits": q_continue}
    steps = steps + 1
    halted = torch.zeros(size, dtype=torch.bool)
    for row in range(size):
        at_end = bool(steps[row] >= o["halt_max_steps"])
        stop = at_end
        if training and o["halt_max_steps"] > 1:
            threshold = 0.0 if o["no_ACT_continue"] else q_continue[row].item()
            stop = stop or q_halt[row].item() > threshold
            if minimum is not None:
                stop = stop and bool(steps[row] >= minimum[row])
        halted[row] = stop
    if training and o["halt_max_steps"] > 1 and not o["no_ACT_continue"]:
        with torch.no_grad():
            _, next_halt, next_continue = read_out(w, o, recurse(w, o, z_H, z_L, x)[0])
            ahead = [
                next_halt[row] if steps[row] >= o["halt_max_steps"] else max(next_halt[row], next_continue[row])
                for row in range(size)
            ]
            out["target_q_continue"] = 1 / (1 + (-torch.stack(ahead)).exp())
    return {"z_H": z_H.detach(), "z_L": z_L.detach(), "steps": steps, "halted": halted, **data}, out, rows


def token_losses(logits: Tensor, labels: Tensor, loss_type: str) -> Tensor:
    """(B, S); the softmax in float32 and the stablemax in float64, as the official heads compute them."""
    if loss_type == "softmax_cross_entropy":
        log_p = torch.log_softmax(logits.float(), dim=-1)
    else:
        score = torch.stack([torch.where(v >= 0, v + 1, 1 / (1 - v.clamp(max=0))) for v in logits.unbind(-1)], -1)
        log_p = (score / score.sum(dim=-1, keepdim=True)).log()
    picked = log_p.gather(-1, labels.clamp(min=0).long()[..., None])[..., 0]
    return -picked * (labels != IGNORED)


# The library's function: q is float32, and at 1e-8 another formula's rounding would show in the gradients.
binary_cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits


def loss_and_metrics(out: Rows, carry: Rows, loss_type: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The ACT loss of a step, summed over rows, row by row; the metric sums."""
    lm = torch.zeros((), dtype=torch.float64)
    q_halt = torch.zeros(())
    q_continue = torch.zeros(())
    totals = dict.fromkeys(("count", "accuracy", "exact_accuracy", "q_halt_accuracy", "steps"), 0.0)
    losses = token_losses(out["logits"], carry["labels"], loss_type)
    for row, labels in enumerate(carry["labels"]):
        scored = labels != IGNORED
        hits = (out["logits"][row].argmax(dim=-1) == labels)[scored]
        number = len(hits)
        exact = bool(hits.all())
        lm = lm + losses[row].sum() / max(number, 1)
        q_halt = q_halt + binary_cross_entropy(out["q_halt_logits"][row], torch.tensor(float(exact)))
        if "target_q_continue" in out:
            q_continue = q_continue + binary_cross_entropy(out["q_continue_logits"][row], out["target_q_continue"][row])
        if carry["halted"][row] and number:
            totals["count"] += 1
            totals["accuracy"] += hits.double().mean().item()
            totals["exact_accuracy"] += exact
            totals["q_halt_accuracy"] += (out["q_halt_logits"][row].item() >= 0) == exact
            totals["steps"] += carry["steps"][row].item()
    metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in totals.items()}
    metrics |= {"lm_loss": lm.detach(), "q_halt_loss": q_halt.detach()}
    if "target_q_continue" in out:
        metrics["q_continue_loss"] = q_continue.detach()
    return lm + 0.5 * (q_halt + q_continue), metrics
