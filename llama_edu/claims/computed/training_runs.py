"""What the published training runs come to: days, steps, speed, tokens for each parameter."""

from datetime import date, datetime, timedelta, timezone
from math import log10

from ...family import hardware
from ...family.accounting import parameters, tflops_per_gpu, training_flops
from ...family.releases import A100, H100, RELEASES, release
from ...training_loop import cosine

# Tokens a second on each GPU, and GPUs: Touvron et al. 2023a, section 2.4.
THROUGHPUT = {"llama-1-65b": (380, 2048)}
# Operations a second on each GPU of the largest Llama 3 runs (10**12), and tokens at which Meta
# sees the Chinchilla optimum of an 8B: announcement of Llama 3, 18 April 2024.
BLOG_TFLOPS, BLOG_OPTIMUM = 400, 200e9
# Tokens for each parameter: 200 billion for 10 billion, as Touvron et al. 2023a quote Hoffmann et
# al. 2022 in section 1.
CHINCHILLA = 200 / 10
# E, A, alpha, B, beta of L = E + A / N**alpha + B / D**beta: Hoffmann et al. 2022, section D.3.
LOSS = (1.69, 406.4, 0.34, 410.7, 0.28)
PACIFIC, BEIJING = timezone(timedelta(hours=-7)), timezone(timedelta(hours=8))     # in summer


def months_between(first: str, second: str) -> float:
    """Months from one release to another, at 365.25 / 12 days."""
    return (release(second).released - release(first).released).days / (365.25 / 12)


def day_in_beijing(id: str, *, hour: int) -> date:
    """The date in Beijing when it is this hour in California, in summer, on the day of release."""
    day = release(id).released
    moment = datetime(day.year, day.month, day.day, hour, tzinfo=PACIFIC)
    return moment.astimezone(BEIJING).date()


def family_gpu_hours(family: str) -> float:
    """GPU hours of all models of a family together, the withheld one too."""
    return sum(r.training.gpu_hours for r in RELEASES if r.family == family)


def days_at_published_speed(id: str) -> float:
    """Days that the tokens of a run take at the speed that its paper names."""
    speed, gpus = THROUGHPUT[id]
    return release(id).training.tokens / (speed * gpus) / 86_400


def tflops_at_published_speed(id: str) -> float:
    """Operations a second on each GPU (10**12): six for each parameter and token."""
    speed, _ = THROUGHPUT[id]
    return training_flops(parameters(release(id).config).total, speed) / 1e12


def tflops_by_the_card(id: str) -> float:
    """Operations a second on each GPU (10**12) that tokens and hours of the card amount to."""
    run = release(id).training
    flops = training_flops(parameters(release(id).config).total, run.tokens)
    return tflops_per_gpu(flops, gpu_hours=run.gpu_hours)


def share_of_peak(tflops: float, *, gpu: str) -> float:
    """How much of what this GPU could do at most, dense and in bfloat16."""
    return tflops / hardware.gpu(gpu).tflops


def gain_in_peak() -> float:
    """How much faster an H100 is on paper than an A100."""
    return hardware.gpu(H100).tflops / hardware.gpu(A100).tflops


def blog_tflops() -> int:
    """What Meta's announcement of Llama 3 says of each GPU, in 10**12 operations a second."""
    return BLOG_TFLOPS


def blog_orders_of_magnitude(id: str) -> float:
    """Powers of ten between the announcement's optimum for an 8B and the tokens of a run."""
    return log10(release(id).training.tokens / BLOG_OPTIMUM)


def optimiser_steps(id: str) -> float:
    """Steps of a run: tokens divided by tokens in a batch."""
    run = release(id).training
    return run.tokens / run.batch_tokens


def tokens_per_parameter(id: str) -> float:
    """Tokens that a run showed for each parameter."""
    return release(id).training.tokens / parameters(release(id).config).total


def chinchilla_tokens(id: str) -> float:
    """Tokens (10**9) that Chinchilla's rule has for a model of this size."""
    return CHINCHILLA * parameters(release(id).config).total / 1e9


def tokens_served_for_training(id: str) -> float:
    """Tokens (10**12) whose generation costs as much arithmetic as the training did.

    Two operations for each parameter and token; attention is not counted on either side.
    """
    run, size = release(id).training, parameters(release(id).config).total
    return training_flops(size, run.tokens) / (2 * size) / 1e12


def last_share_of_rate(id: str) -> float:
    """What Llama's schedule, in this package's form, leaves of the peak rate at the last step."""
    run, steps = release(id).training, round(optimiser_steps(id))
    rate = cosine(run.max_lr, warmup=run.warmup_steps, steps=steps)
    return rate(steps - 1) / run.max_lr


def loss_by_the_fit(parameters: float, tokens: float) -> float:
    """Chinchilla's fit of the loss, in nats for each token of its data."""
    floor, a, alpha, b, beta = LOSS
    return floor + a / parameters**alpha + b / tokens**beta


def loss_if_shrunk(id: str, *, times: float) -> float:
    """Change of the fitted loss for a model so many times smaller, on as many times more tokens.

    The arithmetic of training stays the same.
    """
    size, tokens = parameters(release(id).config).total, release(id).training.tokens
    return loss_by_the_fit(size / times, tokens * times) - loss_by_the_fit(size, tokens)
