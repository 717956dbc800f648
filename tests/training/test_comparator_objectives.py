"""What PC, GC, EC and PIC minimise, against the published terms written out, and who may be trained by it."""

from dataclasses import replace

import pytest
import torch
from harness import seeded
from small_comparators import WIDTHS, FewChannels, batch, small_objective
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from kdinpaint import create_model
from kdinpaint.errors import ConfigError
from kdinpaint.losses import VGGFeatures
from kdinpaint.models.comparators import Gaussian
from kdinpaint.ops import composite
from kdinpaint.training import (
    RECIPES,
    EdgeConnectObjective,
    GatedConvObjective,
    OptimConfig,
    Phase,
    PluralisticObjective,
    RuntimeConfig,
    comparator_objective,
)
from kdinpaint.training.comparators import pluralistic_kl
from kdinpaint.training.edge_connect import EC_PERCEPTUAL, EC_STYLE
from kdinpaint.training.engine import Stage, make_accelerator

CASES = [(name, phase.name) for name in WIDTHS for phase in RECIPES[name].phases]


def objective(name, phase=None, lr=None):
    torch.manual_seed(0)
    recipe, net = RECIPES[name], create_model(name, **WIDTHS[name])
    found = next(p for p in recipe.phases if phase in (None, p.name))
    found = found if lr is None else replace(found, lr=lr)
    return small_objective(net, recipe, found)


def train(stage, steps, lr=2e-3, data=None):
    """As the engine does it; returns the loss that the objective reports, adversarial terms left out."""
    data = data or batch()
    stage.train()
    optimizer = torch.optim.Adam(stage.trainable(), lr=lr, betas=stage.betas)
    history = []
    for step in range(steps):
        losses = stage(data, step / steps)
        log = stage.backward(losses, step, lambda loss: loss.backward())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append({"loss": float(losses.total.detach()), **log})
    return history


@pytest.mark.parametrize(("name", "phase"), CASES)
def test_overfits_a_batch(name, phase):
    stage = objective(name, phase, lr=1e-4)
    history = train(stage, 12, lr=5e-3)
    key = "feature_matching" if phase == "edge" else "loss"
    assert min(h[key] for h in history[-3:]) < 0.95 * history[0][key], history
    assert all(torch.isfinite(p).all() for p in stage.parameters())


@pytest.mark.parametrize(("name", "phase"), CASES)
def test_each_optimiser_trains_its_own(name, phase):
    stage = objective(name, phase)
    before = {k: p.detach().clone() for k, p in stage.named_parameters()}
    train(stage, 2)
    changed = {k.split(".")[0] for k, p in stage.named_parameters() if not torch.equal(p, before[k])}
    assert changed == ({"net"} if name == "pc" else {"net", "discriminators"})
    mine = {id(p) for p in stage.trainable()}
    assert not mine & {id(p) for k, p in stage.named_parameters() if k.startswith("discriminators")}
    if name == "ec":
        parts = {k.split(".")[1] for k, p in stage.named_parameters() if not torch.equal(p, before[k])}
        wanted = {"edge": {"edges"}, "joint": {"edges", "completion"}}.get(phase, {"completion"})
        assert parts & {"edges", "completion"} == wanted
        critics = {
            k.split(".")[1] for k, p in stage.named_parameters() if k[0] == "d" and not torch.equal(p, before[k])
        }
        assert critics == ({"edges"} if phase == "edge" else {"image"})


@pytest.mark.parametrize("name", WIDTHS)
def test_compiling_is_for_those_who_call_the_network_itself(name, tmp_path):
    stage, calls = objective(name), []
    stage.net.register_forward_hook(lambda *_: calls.append(1))
    stage(batch(), 0.0)
    assert bool(calls) == stage.calls_net == (name == "pc")
    if name == "pc":
        return
    runtime = RuntimeConfig(device="cpu", compile=True)
    accelerator = make_accelerator(runtime, "no", tmp_path)
    with pytest.raises(ConfigError, match=r"by its methods, which are not compiled; it works for .* students and pc"):
        Stage(name, stage, OptimConfig(), runtime, tmp_path, accelerator)


@pytest.mark.parametrize("name", WIDTHS)
def test_no_gradient_is_left_on_discriminators(name):
    stage = objective(name)
    train(stage, 1)
    critics = [p for k, p in stage.named_parameters() if k.startswith("discriminators")]
    assert all(p.grad is None and not p.requires_grad for p in critics)


def test_pc_is_the_published_sum():
    stage, data = objective("pc").eval(), batch()
    image, mask = data["image"], data["mask"]
    losses = stage(data, 0.0)
    out = stage.net(image, mask)
    pasted = image * (1 - mask) + out * mask
    error = (out - image).abs()
    vgg = FewChannels(3)

    def gram(x):
        return torch.einsum("bchw,bdhw->bcd", x, x) / x[0].numel()

    perceptual = style = 0
    for x in (out, pasted):
        for mine, theirs in zip(vgg(x), vgg(image), strict=True):
            perceptual = perceptual + F.l1_loss(mine, theirs)
            style = style + F.l1_loss(gram(mine), gram(theirs))
    near = F.max_pool2d(mask, 3, 1, 1)
    smooth = ((pasted[..., 1:] - pasted[..., :-1]).abs() * near[..., 1:] * near[..., :-1]).mean()
    smooth = smooth + ((pasted[..., 1:, :] - pasted[..., :-1, :]).abs() * near[..., 1:, :] * near[..., :-1, :]).mean()
    hole, valid = (error * mask).sum() / error.numel(), (error * (1 - mask)).sum() / error.numel()
    expected = valid + 6 * hole + 0.05 * perceptual + 120 * style + 0.1 * smooth
    torch.testing.assert_close(losses.total, expected)


def test_gc_compares_both_stages_and_judges_the_composite():
    stage, data = objective("gc"), batch()
    losses = stage(data, 0.0)
    coarse, refined = stage.net.stages(data["image"] * (1 - data["mask"]), data["mask"])
    real = 2 * data["image"] - 1
    torch.testing.assert_close(losses.total, F.l1_loss(2 * coarse - 1, real) + F.l1_loss(2 * refined - 1, real))
    kept = losses.kept
    torch.testing.assert_close(kept.fake, 2 * composite(refined, data["image"], data["mask"]) - 1)
    stage.eval()
    critic = stage.discriminators["image"]
    r, f = (critic(torch.cat([x, data["mask"]], 1))[-1] for x in (kept.real, kept.fake))
    torch.testing.assert_close(
        stage.discriminate(kept), 0.5 * ((1 - r).clamp_min(0).mean() + (1 + f).clamp_min(0).mean())
    )
    torch.testing.assert_close(stage.deceive(kept)[0], -f.mean())


def test_ec_first_phase_is_adversarial_and_matches_features():
    stage, data = objective("ec", "edge"), batch()
    losses = stage(data, 0.0)
    assert losses.total.item() == 0
    stage.eval()
    real, fake = losses.kept.pairs["edges"]
    assert real.shape[1] == 2
    assert set(real[:, 1].unique().tolist()) <= {0.0, 1.0}
    critic = stage.discriminators["edges"]
    matching = sum(F.l1_loss(a, b) for a, b in zip(critic(fake), critic(real), strict=True))
    scores = torch.sigmoid(critic(fake)[-1])
    expected = F.binary_cross_entropy(scores, torch.ones_like(scores)) + 10 * matching
    torch.testing.assert_close(stage.deceive(losses.kept)[0], expected)


def test_ec_completion_is_the_published_sum():
    stage, data = objective("ec", "completion"), batch()
    image, mask = data["image"], data["mask"]
    losses = stage(data, 0.0)
    out = stage.net.complete(image, mask, stage.net.known_edges(image))
    vgg = FewChannels(9)

    def gram(x):
        return torch.einsum("bchw,bdhw->bcd", x, x) / x[0].numel()

    perceptual = sum(F.l1_loss(a, b) for a, b in zip(vgg(out)[:5], vgg(image)[:5], strict=True))
    holes = zip(vgg(out * mask)[5:], vgg(image * mask)[5:], strict=True)
    style = sum(F.l1_loss(gram(a), gram(b)) for a, b in holes)
    expected = F.l1_loss(out, image) / mask.mean() + 0.1 * perceptual + 250 * style
    torch.testing.assert_close(losses.total, expected)
    stage.eval()
    scores = torch.sigmoid(stage.discriminators["image"](out)[-1])
    adversarial = 0.1 * F.binary_cross_entropy(scores, torch.ones_like(scores))
    torch.testing.assert_close(stage.deceive(losses.kept)[0], adversarial)


def test_pic_divergences_are_those_of_torch_distributions():
    p, q = (
        Gaussian(torch.randn(2, 3, 4, 4, generator=seeded(n)), torch.rand(2, 3, 4, 4, generator=seeded(9 + n)) + 0.1)
        for n in range(2)
    )
    known = torch.tensor([0.25, 0.9])
    total = torch.zeros(())
    for b, n in enumerate((0.25, 0.9)):
        wide = 1 / (1 + torch.exp(torch.tensor(8 * (n - 0.8))))
        total += kl_divergence(Normal(torch.zeros(()), wide), Normal(p.mean[b], p.std[b])).mean() / 2
        total += kl_divergence(Normal(p.mean[b], p.std[b]), Normal(q.mean[b], q.std[b])).mean() / 2
    torch.testing.assert_close(pluralistic_kl(p, q, known), total)
    p.mean.requires_grad_()
    pluralistic_kl(p, q, known).backward()
    shift = p.mean.detach() / p.std**2 / p.mean.numel()  # of the first divergence alone
    torch.testing.assert_close(p.mean.grad, shift)


def test_pic_generative_path_answers_for_visible_pixels_only():
    stage, data = objective("pic"), batch()
    data["mask"] = torch.ones_like(data["mask"])
    losses = stage(data, 0.0)
    kept = losses.kept
    (gradient,) = torch.autograd.grad(losses.total, kept.generated, allow_unused=True)
    assert gradient is None or not gradient.any()
    assert kept.generated.shape == kept.reconstructed.shape == data["image"].shape
    assert len(stage.net.to_image) == 2


def test_recipes_are_the_published_numbers():
    pc, gc, ec, pic = (RECIPES[name] for name in ("pc", "gc", "ec", "pic"))
    assert [r.batch for r in (pc, gc, ec, pic)] == [6, 16, 8, 8]
    assert [r.betas for r in (pc, gc, ec, pic)] == [(0.9, 0.999), (0.5, 0.999), (0.0, 0.9), (0.0, 0.999)]
    assert [[p.lr for p in r.phases] for r in (pc, gc, ec, pic)] == [[2e-4, 5e-5], [1e-4], [1e-4] * 3 + [1e-6], [1e-4]]
    assert dict(pc.weights) == {"valid": 1, "hole": 6, "perceptual": 0.05, "style": 120, "tv": 0.1}
    assert dict(ec.weights) == {
        "edge_adversarial": 1,
        "feature_matching": 10,
        "l1": 1,
        "perceptual": 0.1,
        "style": 250,
        "adversarial": 0.1,
    }
    assert dict(pic.weights) == {"kl": 20, "l1": 20, "adversarial": 1, "feature_matching": 1}
    assert ec.discriminator_lr == 0.1
    assert objective("ec").adam.param_groups[0]["lr"] == pytest.approx(1e-5)
    assert all(sum(p.share for p in r.phases) == pytest.approx(1) for r in RECIPES.values())


def test_budget():
    recipe = RECIPES["ec"].with_budget(steps=7, batch=2, ema_decay=0.9)
    assert [p.steps for p in recipe.phases] == [2, 2, 2, 1]
    optim = recipe.optim(recipe.phases[0])
    assert (optim.batch, optim.ema_decay, optim.clip_norm, optim.schedule) == (2, 0.9, None, "cosine")
    with pytest.raises(ConfigError, match="has 4 phases to share it"):
        RECIPES["ec"].with_budget(steps=3)
    with pytest.raises(ConfigError, match="batch is 0"):
        RECIPES["gc"].with_budget(batch=0)


def test_discriminators_follow_the_schedule():
    stage = objective("ec", "edge")
    losses = stage(batch(), 0.999999)
    stage.backward(losses, 0, lambda loss: loss.backward())
    assert stage.adam.param_groups[0]["lr"] == pytest.approx(1e-6, rel=1e-3)  # a tenth of 0.1 * 1e-4


@pytest.mark.parametrize("name", ["gc", "pic"])
def test_discriminators_pass_over_steps_that_are_not_finite(name):
    stage, data = objective(name), batch()
    before = {key: value.clone() for key, value in stage.discriminators.named_parameters()}
    stage.backward(stage({**data, "image": data["image"] * float("inf")}, 0.0), 0, lambda loss: None)
    assert all(torch.equal(value, before[key]) for key, value in stage.discriminators.named_parameters())
    stage.backward(stage(data, 0.0), 1, lambda loss: None)
    assert not all(torch.equal(value, before[key]) for key, value in stage.discriminators.named_parameters())
    assert all(torch.isfinite(value).all() for value in stage.discriminators.parameters())


def test_gradients_of_discriminators_are_averaged_over_processes(monkeypatch):
    class ThreeProcesses:
        """Stands for torch.distributed in one of three processes that hold 1, 2 and 3 times the gradient."""

        is_available = is_initialized = staticmethod(lambda: True)
        get_world_size = staticmethod(lambda: 3)
        all_reduce = staticmethod(lambda gradient: gradient.mul_(6))

    gradients = []
    for several in (False, True):
        stage, data = objective("gc"), batch()
        if several:
            monkeypatch.setattr("kdinpaint.training.adversarial.distributed", ThreeProcesses)
        critics = list(stage.discriminators.parameters())
        monkeypatch.setattr(stage.adam, "step", lambda seen=gradients, p=critics: seen.append([x.grad for x in p]))
        stage.backward(stage(data, 0.0), 0, lambda loss: None)
    for alone, averaged in zip(*gradients, strict=True):
        torch.testing.assert_close(averaged, 2 * alone)


def test_the_published_sizes_are_built_for_networks(monkeypatch):
    made = {}
    real = VGGFeatures.__init__

    def spy(self, layers, **options):
        made.update(layers=tuple(layers), **options)
        real(self, ["relu1_1"], weights="random")

    monkeypatch.setattr(VGGFeatures, "__init__", spy)
    with torch.device("meta"):
        net = create_model("pc")
    comparator_objective(net, RECIPES["pc"], RECIPES["pc"].phases[0])
    assert made == {"layers": ("pool1", "pool2", "pool3"), "arch": "vgg16", "weights": "imagenet"}
    stage = comparator_objective(
        create_model("ec", **WIDTHS["ec"]), RECIPES["ec"], RECIPES["ec"].phases[1], vgg="f.pth"
    )
    assert made["layers"] == EC_PERCEPTUAL + EC_STYLE
    assert (made["arch"], made["weights"], made["normalise"]) == ("vgg19", "f.pth", False)
    assert isinstance(stage, EdgeConnectObjective)
    for name, kind in (("gc", GatedConvObjective), ("pic", PluralisticObjective)):
        made.clear()
        built = comparator_objective(create_model(name, **WIDTHS[name]), RECIPES[name], RECIPES[name].phases[0])
        assert isinstance(built, kind)
        assert not made
    with pytest.raises(ConfigError, match="expected one of the networks pc, gc, ec and pic"):
        comparator_objective(create_model("kdinpaint_tiny"), RECIPES["gc"], RECIPES["gc"].phases[0])
    with pytest.raises(ConfigError, match="phase is 'warm'"):
        EdgeConnectObjective(
            create_model("ec", **WIDTHS["ec"]), RECIPES["ec"], Phase("warm", 1, 1.0, 1e-4), vgg=FewChannels(9)
        )


def test_empty_holes_give_finite_losses():
    for name in WIDTHS:
        stage, data = objective(name), batch()
        data["mask"] = torch.zeros_like(data["mask"])
        history = train(stage, 1, data=data)
        assert all(value == value and abs(value) < 1e6 for value in history[0].values()), name
