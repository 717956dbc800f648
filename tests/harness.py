"""One contract for every public symbol: a subclass says what to build and what to feed, the tests come with it.

Write `class TestFillerBlock(ModuleContract)`, override `build`, `inputs`, `sizes` and `oracle`, list what must
fail in `errors`, and add the tests that belong to this symbol alone. A test that cannot apply is named in
`without`, with the reason.
"""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

SEEDS = st.integers(0, 2**31 - 1)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that tests do not depend on each other."""
    return torch.Generator().manual_seed(seed)


def randomise(module: nn.Module, *, scale: float = 0.2, seed: int = 1) -> nn.Module:
    """Fill all parameters with small random numbers: a module that has left its initial state."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def random_mask(batch: int, height: int, width: int, seed: int = 2, *, share: float = 0.4) -> Tensor:
    """A bool mask (B, 1, H, W) with at least one hole and, if it has room, one known cell each."""
    mask = torch.rand(batch, 1, height, width, generator=seeded(seed)) < share
    mask[..., 0, 0], mask[..., -1, -1] = False, True
    return mask


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for branch in tree for t in tensors(branch)] if isinstance(tree, list | tuple) else []


def map_tensors(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same nest of tuples and lists with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(change, branch) for branch in tree)
    return tree


def assert_equal(actual: Any, expected: Any) -> None:
    """Bit for bit, NaN equal to NaN."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


class Contract:
    """What every symbol promises. `Contract` tests functions; `ModuleContract` adds what modules promise."""

    without: ClassVar[dict[str, str]] = {}
    """Tests that do not apply, with the reason."""
    errors: ClassVar[dict[str, tuple[type[Exception], str, Callable[[Any], Any]]]] = {}
    """Each documented error: class, what its message says, and a call (given the test) that must raise it."""
    smallest: ClassVar[int] = 1
    """The smallest height and width that the symbol takes."""
    per_sample: ClassVar[bool] = True
    """Permuting the batch permutes the result; False where the result is a mean over the batch."""

    def __init_subclass__(cls) -> None:
        for name, reason in cls.without.items():
            if not hasattr(cls, f"test_{name}") or len(reason) < 12:
                raise TypeError(f"{cls.__name__}: there is no test_{name}, or its reason is missing")
            setattr(cls, f"test_{name}", None)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "documented" in metafunc.fixturenames:
            metafunc.parametrize("documented", list(self.errors.values()), ids=list(self.errors))

    def make(self, dtype: torch.dtype = torch.float32) -> Callable[..., Any]:
        """What is tested."""
        raise NotImplementedError

    def inputs(
        self, batch: int = 2, height: int = 6, width: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[Any, ...]:
        """Its arguments. Masks are bool, so that no gradient is asked for; the batch comes first everywhere."""
        raise NotImplementedError

    def sizes(self, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
        """The shapes of its results for such inputs."""
        raise NotImplementedError

    def oracle(self, subject: Callable[..., Any], *inputs: Any) -> Any:
        """The result by an independent way, in float64."""
        raise NotImplementedError

    def wanted(self, *inputs: Any) -> list[Tensor]:
        """The inputs that gradients flow to; all floating-point ones by default."""
        return [t for t in tensors(inputs) if t.is_floating_point()]

    def trains(self, name: str) -> bool:
        """Whether gradients flow to this parameter of a module."""
        return True

    def test_smoke(self) -> None:
        subject, inputs = self.make(), self.inputs()
        kept = copy.deepcopy(inputs)
        results = tensors(subject(*inputs))
        assert results
        assert all(bool(torch.isfinite(r).all()) for r in results)
        assert_equal(inputs, kept)

    @given(batch=st.integers(1, 3), more_rows=st.integers(0, 7), more_columns=st.integers(0, 7), seed=SEEDS)
    def test_shapes(self, batch: int, more_rows: int, more_columns: int, seed: int) -> None:
        height, width = self.smallest + more_rows, self.smallest + more_columns
        results = tensors(self.make()(*self.inputs(batch, height, width, seed=seed)))
        assert [tuple(r.shape) for r in results] == self.sizes(batch, height, width)
        assert all(bool(torch.isfinite(r).all()) for r in results)

    def test_error(self, documented: tuple[type[Exception], str, Callable[[Any], Any]]) -> None:
        error, message, call = documented
        with pytest.raises(error, match=message):
            call(self)

    def test_oracle(self) -> None:
        subject, inputs = self.make(torch.float64), self.inputs(dtype=torch.float64)
        torch.testing.assert_close(subject(*inputs), self.oracle(subject, *inputs), rtol=1e-9, atol=1e-10)

    @given(batch=st.integers(2, 4), seed=SEEDS)
    def test_batch_permutation(self, batch: int, seed: int) -> None:
        subject, inputs = self.make(torch.float64), self.inputs(batch, dtype=torch.float64, seed=seed)
        order = torch.randperm(batch, generator=seeded(seed))
        moved = subject(*map_tensors(lambda t: t[order], inputs))
        plain = subject(*inputs)
        torch.testing.assert_close(moved, map_tensors(lambda t: t[order], plain) if self.per_sample else plain)

    def _few(self) -> tuple[int, int]:
        return self.smallest + 1, self.smallest + 2

    def _differentiable(self) -> tuple[Callable[..., Any], list[Tensor]]:
        """The subject as a function of everything that gradients flow to: inputs, and parameters of a module."""
        subject, inputs = self.make(torch.float64), self.inputs(1, *self._few(), dtype=torch.float64)
        wanted = self.wanted(*inputs)
        names = [n for n, _ in subject.named_parameters() if self.trains(n)] if isinstance(subject, nn.Module) else []
        values = [subject.get_parameter(n).detach() for n in names] if isinstance(subject, nn.Module) else []

        def run(*leaves: Tensor) -> Any:
            given = {id(old): new for old, new in zip(wanted, leaves, strict=False)}
            arguments = map_tensors(lambda t: given.get(id(t), t), inputs)
            if isinstance(subject, nn.Module):
                result = functional_call(subject, dict(zip(names, leaves[len(wanted) :], strict=True)), arguments)
            else:
                result = subject(*arguments)
            return tuple(r for r in tensors(result) if r.requires_grad)

        return run, [t.detach().clone().requires_grad_() for t in [*wanted, *values]]

    def test_gradients(self) -> None:
        run, leaves = self._differentiable()
        assert gradcheck(run, leaves, fast_mode=True)

    def test_second_gradients(self) -> None:
        run, leaves = self._differentiable()
        assert gradgradcheck(run, leaves, fast_mode=True)

    def test_compiled(self) -> None:
        # aot_eager traces forward and backward and runs every kernel as it is: all that kdinpaint can get wrong.
        # Inductor would add a C++ compiler, minutes of its own work, and rounding that differs by platform.
        torch.compiler.reset()
        subject = self.make()
        compiled = torch.compile(lambda *inputs: subject(*inputs), fullgraph=True, backend="aot_eager")
        for height, width in ((self.smallest + 5, self.smallest + 7), (self.smallest + 8, self.smallest + 6)):
            gradients, results = [], []
            for run in (subject, compiled):
                inputs = self.inputs(2, height, width)
                wanted = [t.requires_grad_() for t in self.wanted(*inputs)]
                results.append(run(*inputs))
                scalar = sum((r.square().sum() for r in tensors(results[-1]) if r.requires_grad), torch.zeros(()))
                needed = scalar.requires_grad and bool(wanted)
                gradients.append(torch.autograd.grad(scalar, wanted, allow_unused=True) if needed else ())
            torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)

    @pytest.mark.gpu
    def test_on_gpu(self) -> None:
        subject, inputs = self.make(), self.inputs()
        expected = subject(*inputs)
        moved = copy.deepcopy(subject).cuda() if isinstance(subject, nn.Module) else subject
        actual = moved(*map_tensors(lambda t: t.cuda(), inputs))
        assert all(t.is_cuda for t in tensors(actual))
        torch.testing.assert_close(map_tensors(lambda t: t.cpu(), actual), expected, rtol=1e-2, atol=1e-3)


class ModuleContract(Contract):
    """What every module promises beside: it is a pure function of inputs and state, and travels well."""

    without: ClassVar[dict[str, str]] = {"second_gradients": "takes seconds; modules compose operators that pass it"}

    def build(self, **factory: Any) -> nn.Module:
        """A fresh module; `factory` is device and dtype."""
        raise NotImplementedError

    def function(self, module: Any, *inputs: Any) -> Any:
        """The same result from functions on tensors and the module's state."""
        raise NotImplementedError

    def make(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        return randomise(self.build(dtype=dtype))

    def test_module_equals_function(self) -> None:
        module, inputs = self.make(torch.float64), self.inputs(dtype=torch.float64)
        torch.testing.assert_close(module(*inputs), self.function(module, *inputs), rtol=1e-12, atol=1e-12)

    def test_state_round_trip(self) -> None:
        module, inputs = self.make(), self.inputs()
        other = randomise(self.build(), seed=99)
        other.load_state_dict(module.state_dict())
        assert_equal(other(*inputs), module(*inputs))

    @pytest.mark.parametrize("travel", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
    def test_travels(self, travel: Callable[[nn.Module], nn.Module]) -> None:
        module, inputs = self.make(), self.inputs()
        arrived = travel(module)
        assert repr(arrived) == repr(module)
        assert_equal(arrived(*inputs), module(*inputs))
        randomise(arrived, seed=98)
        assert_equal(module.state_dict(), self.make().state_dict())

    def test_train_and_eval_agree(self) -> None:
        module, inputs = self.make(), self.inputs()
        assert_equal(module.eval()(*inputs), module.train()(*inputs))

    def test_factory_arguments(self) -> None:
        module = self.build(device=torch.device("meta"), dtype=torch.float64)
        state: Sequence[Tensor] = [*module.parameters(), *module.buffers()]
        assert all(t.is_meta for t in state)
        assert all(p.dtype == torch.float64 for p in module.parameters())
