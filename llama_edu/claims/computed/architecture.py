"""Experiments on the parts of a block, for sentences about what they do and what they cost."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ...family.releases import release
from ...layers import FeedForward, RMSNorm, attend, attend_fused, causal_mask
from ...losses import next_token
from ...model import Llama
from ...training_loop import initialise
from .shapes import SMALL


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- the norm ----------------------------------------------------------------------------------

def stored_by_the_norm() -> list[str]:
    """The numbers that an RMSNorm keeps, by name: what it could know of the training data."""
    return list(RMSNorm(8, eps=1e-5).state_dict())


@torch.no_grad()
def mean_after_norm() -> float:
    """The mean of the features of a token after RMSNorm, when it was about 1 before."""
    return RMSNorm(4096, eps=1e-5)(_random(4096) + 1).mean().item()


@torch.no_grad()
def distance_from_written_norm() -> float:
    """How far RMSNorm is from x / sqrt(mean(x^2) + eps) * gain, term by term."""
    norm, x = RMSNorm(8, eps=1e-5), _random(8)
    norm.weight.copy_(_random(8, seed=1))
    root = (sum(value * value for value in x.tolist()) / 8 + 1e-5) ** 0.5
    written = [value / root * gain for value, gain in zip(x.tolist(), norm.weight.tolist(),
                                                         strict=True)]
    return max(abs(a - b) for a, b in zip(norm(x).tolist(), written, strict=True))


# -- the feed-forward layer --------------------------------------------------------------------

def silu_apart_from_its_definition() -> float:
    """The most by which PyTorch's SiLU differs from x / (1 + e^-x)."""
    x = torch.linspace(-20, 20, 10_001, dtype=torch.float64)
    return (F.silu(x) - x / (1 + torch.exp(-x))).abs().max().item()


def lowest_point_of_silu() -> list[float]:
    """Where SiLU is lowest, and how low it is there."""
    x = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    y = F.silu(x)
    return [x[y.argmin()].item(), y.min().item()]


def distance_of_the_mixture_from_x() -> float:
    """The most by which x s(bx) + (1 - s(bx)) x differs from x, for b from 0.1 to 10."""
    x = torch.linspace(-50, 50, 10_001, dtype=torch.float64)
    gates = [torch.sigmoid(beta * x) for beta in (0.1, 1.0, 1.702, 10.0)]
    return max((x * gate + (1 - gate) * x - x).abs().max().item() for gate in gates)


@torch.no_grad()
def distance_from_written_feed_forward() -> float:
    """How far the layer is from (SiLU(x W1) * x W3) W2, with SiLU written as x times a sigmoid."""
    layer = FeedForward(SMALL.dim, SMALL.hidden_dim)
    initialise(layer, std=0.5, generator=torch.Generator().manual_seed(0))
    x = _random(3, SMALL.dim)
    gate = x @ layer.w1.weight.T
    written = (gate * torch.sigmoid(gate) * (x @ layer.w3.weight.T)) @ layer.w2.weight.T
    return (layer(x) - written).abs().max().item()


def width_of_the_layer(id: str) -> float:
    """The feed-forward width of a release as a multiple of its dim."""
    return release(id).config.hidden_dim / release(id).config.dim


def rounded_width(id: str, *, of: int) -> int:
    """Two thirds of so many times dim, rounded up as a release rounds its feed-forward width."""
    r = release(id)
    return -(-2 * of * r.config.dim // 3 // r.multiple_of) * r.multiple_of


# -- attention ---------------------------------------------------------------------------------

def _mixing_flops(n_heads: int, n_kv_heads: int, head_dim: int) -> int:
    """Operations of scores and mixing over 64 tokens, counted on shapes without data."""
    q = torch.empty(1, n_heads, 64, head_dim, device="meta")
    k = torch.empty(1, n_kv_heads, 64, head_dim, device="meta")
    with FlopCounterMode(display=False) as count:
        attend(q, k, k, causal_mask(64, 64, device="meta"))
    return count.get_total_flops()


def work_left_by_sharing(id: str) -> list[float]:
    """What sharing heads leaves of the work: of the four projections, and of scores and mixing."""
    c = release(id).config
    projections = (2 * c.n_heads + 2 * c.n_kv_heads) / (4 * c.n_heads)
    mixing = (_mixing_flops(c.n_heads, c.n_kv_heads, c.head_dim)
              / _mixing_flops(c.n_heads, c.n_heads, c.head_dim))
    return [projections, mixing]


def score_matrices_kept() -> list[int]:
    """Tensors of tokens times tokens that are kept for the backward pass: by hand, fused."""
    return [_squares_kept(attend), _squares_kept(lambda q, k, v, _: attend_fused(q, k, v, None))]


def _squares_kept(kernel) -> int:
    tokens, kept = 96, []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.shape)
        return saved

    q, k, v = (_random(1, 2, tokens, 16, seed=i).requires_grad_() for i in range(3))
    with saved_tensors_hooks(keep, lambda saved: saved):
        kernel(q, k, v, causal_mask(tokens, tokens))
    return sum(shape[-2:] == (tokens, tokens) and shape.numel() > tokens * tokens
               for shape in kept)


def loss_apart_with_fused_attention() -> float:
    """The most by which the losses of 50 steps differ between attention by hand and fused."""
    by_hand, fused = _losses(attend), _losses(attend_fused)
    return max(abs(a - b) for a, b in zip(by_hand, fused, strict=True))


def _losses(kernel) -> list[float]:
    q, k, v, target = _random(4, 1, 4, 8, 16)
    q, found = q.clone().requires_grad_(), []
    for _ in range(50):
        loss = (kernel(q, k, v, causal_mask(8, 8)) - target).square().mean()
        (slope,) = torch.autograd.grad(loss, q)
        q.data -= 10 * slope
        found.append(loss.item())
    return found


# -- training ----------------------------------------------------------------------------------

def tensors_outside_the_layers() -> list[str]:
    """The tensors of a Llama that are in none of its layers, by name."""
    return [name for name in Llama(SMALL).state_dict() if not name.startswith("layers.")]


def shapes_survive_tuning() -> bool:
    """Whether a model has the same tensors, by name and shape, after it was tuned on an answer."""
    model = Llama(SMALL)
    initialise(model, std=0.5, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learn = torch.arange(8)[None] > 4       # the answer begins after the fifth token
    next_token(model, {"tokens": torch.arange(8)[None], "learn": learn}).total.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = model.state_dict()
    changed = any(not torch.equal(before[name], after[name]) for name in before)
    return changed and {n: v.shape for n, v in before.items()} == {
        n: v.shape for n, v in after.items()}


def reward_in_the_end(*, minimised: bool) -> float:
    """The mean reward of a policy over three answers worth 0, 1 and 2, after 200 steps.

    minimised: whether the expected reward itself is taken for the loss; otherwise its negative.
    """
    rewards, logits = torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3, requires_grad=True)
    for _ in range(200):
        expected = logits.softmax(-1) @ rewards
        (slope,) = torch.autograd.grad(expected if minimised else -expected, logits)
        logits.data -= slope
    return (logits.softmax(-1) @ rewards).item()
