"""Distiller with other forms of the loss, and with methods of the meta-learner that evaluate the task themselves."""

import pytest
import torch
from harness import assert_equal
from small_students import LEVELS, Student, batch
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, MetaLearner
from kdinpaint._core.errors import ConfigError


@pytest.mark.parametrize("method", ["align", "lookahead", "l2t"])
def test_meta_step_by_evaluating_the_task(method):
    torch.manual_seed(0)
    x, truth, mask = batch()
    student = Student(norm=True, dropout=0.3)
    guide = Distiller(student, AutoEncoder.for_levels(LEVELS), LEVELS, cross=0.5, self_distill=0.1)
    meta = MetaLearner(guide.predictors(), method=method, every=1, lr=0.05)
    guide(x, image=truth, mask=mask)
    own = [p.detach().clone() for p in guide.trainable()]
    kept, random = {name: value.clone() for name, value in student.state_dict().items()}, torch.get_rng_state()
    given = {"image": truth, "mask": mask}
    with pytest.raises(ConfigError, match="pass task="):
        guide.meta_step(meta, None, x, **given)
    assert guide.meta_step(meta, None, x, **given, task=lambda out: F.l1_loss(out, truth)) is not None
    assert_equal(dict(student.state_dict()), kept)
    assert_equal([p.detach() for p in guide.trainable()], own)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in guide.parameters())
    assert all(bool(p.any()) and not p.requires_grad for p in guide.predictors())


def test_the_form_of_cross_distillation():
    x, truth, mask = batch()
    student, teacher = Student(), AutoEncoder.for_levels(LEVELS)
    form = {"distance": "smooth_l1", "region": "all", "rim": 2.0, "low_pass": 2}
    guide, plain = (Distiller(student, teacher, LEVELS, **options) for options in (form, {}))
    assert {name: getattr(guide.cross, name) for name in form} == form
    found, usual = (one(x, image=truth, mask=mask)[1]["cross"] for one in (guide, plain))
    assert not torch.equal(found, usual)
