"""What a student's features, and a teacher's, pass before a Distiller compares them."""

import pytest
import torch
from harness import assert_equal, randomise
from small_students import LEVELS, Student, batch
from torch import nn
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller
from kdinpaint._core.errors import ShapeError
from kdinpaint.retrofitting import FeatureCache

X, TRUTH, MASK = batch()


def guided(student, channels=(6, 8), **options):
    teacher = randomise(AutoEncoder(3, channels, head_channels=4))
    return Distiller(student, teacher, LEVELS, **options)


def cross(guide):
    return guide(X, image=TRUTH, mask=MASK)[1]["cross"]


def test_a_readout_starts_as_the_identity():
    as_they_are = guided(Student())
    guide = Distiller(as_they_are.student, as_they_are.teacher, LEVELS, readout=True)
    assert [type(a) for a in guide.aligners] == [nn.Conv2d, nn.Conv2d]
    assert_equal(cross(guide), cross(as_they_are))


def test_a_student_may_keep_its_code():
    guide = guided(Student(), readout=True)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    shallow = guide.student.level1(X)
    targets = [shallow.detach(), torch.einsum("oc,bchw->bohw", rotation, guide.student.level2(shallow).detach())]
    before = guide(X, mask=MASK, teacher_features=targets)[1]["cross"]
    with torch.no_grad():
        guide.aligners[1].weight.copy_(rotation[:, :, None, None])
    after = guide(X, mask=MASK, teacher_features=targets)[1]["cross"]
    assert after < 1e-6 < before


def test_by_default_aligners_only_where_channels_differ():
    assert [type(a) for a in guided(Student()).aligners] == [nn.Identity, nn.Identity]
    guide = guided(Student(), (6, 10))
    assert [type(a) for a in guide.aligners] == [nn.Identity, nn.Conv2d]
    assert guide.aligners[1].weight.shape == (10, 8, 1, 1)
    assert any(p is guide.aligners[1].weight for p in guide.trainable())
    cross(guide).backward()
    assert guide.aligners[1].weight.grad.any()


class Gives(nn.Module):
    """A teacher that gives its features in a form of its own."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, image):
        return self.form(F.avg_pool2d(image, 2).repeat(1, 2, 1, 1))


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (lambda f: f, r"a float32 tensor of shape \(2, 6, 16, 16\)"),
        (lambda f: {"a": f, "b": f}, "a dict of str 'a', str 'b'"),
        (lambda f: (f, {}), r"a tuple of a float32 tensor of shape \(2, 6, 16, 16\), dict \{\}"),
        (lambda f: [f.flatten(2)], r"a list of a float32 tensor of shape \(2, 6, 256\)"),
    ],
    ids=["tensor", "dict", "tuple", "tokens"],
)
def test_teachers_that_give_no_list_of_features_are_told_so(form, what, tmp_path):
    message = rf"teacher's features are {what}; expected a list of tensors.*ModuleTeacher"
    with pytest.raises(ShapeError, match=message):
        Distiller(Student(), Gives(form), LEVELS)(X, image=TRUTH, mask=MASK)
    with pytest.raises(ShapeError, match=message):
        FeatureCache(Gives(form), tmp_path)(["a", "b"], TRUTH)
