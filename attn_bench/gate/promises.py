"""The promises of a model's plugin, and how each is checked.

``attn-bench check`` runs the checks for authors of plugins; a test runs them for the built-in models.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_bench.analysis.scaling import EXPONENTS, TOLERANCE
from attn_bench.format import clean
from attn_bench.gate.outcome import Outcome
from attn_bench.gate.subject import Broken, Subject, described, on
from attn_bench.plugin import Model, Problem, Unsupported
from attn_bench.running.measure.flops import count_flops
from attn_bench.running.measure.torch_state import Keeper

# How much a token may change earlier outputs, relative to its largest change: rounding, e.g. of an FFT.
LEAK = 1e-4
# Noise added to the parameters, as parameters that start at zero could hide a dependence.
NOISE = 0.05
# How much a sample's output may differ without the rest of its batch, relative to the largest output: more is not
# explained by the convergence of an iteration, and less than the second number is rounding.
SEEN, ROUNDING = 0.02, 1e-4
LISTED = 4
# The promise that is checked last, of all that was done before.
STATE = "global state"


class DoesNotApply(Exception):
    """A promise does not apply to the plugin; the message says why."""


def outcomes(
    model: Model,
    options: Mapping[str, Any],
    *,
    device: str = "cpu",
    compiled: bool = False,
    keeper: Keeper | None = None,
) -> Iterator[Outcome]:
    """Check every promise of a plugin and yield the outcomes one by one.

    Args:
        options: of the model, by name; the others have their defaults.
        device: ``"cpu"`` or ``"cuda"``.
        compiled: check causality under torch.compile, too.
        keeper: the keeper that observed the import of the plugin, if any.
    """
    with _one_thread():
        keeper = keeper or Keeper(0)
        subject = Subject(model, options, device, keeper)
        promises = _promises(compiled)
        runs = True
        for name, check in promises.items():
            with keeper.stage(name):
                outcome = _outcome(name, check, subject) if runs else Outcome(name, None, "not checked")
            yield outcome
            runs = runs and not (check is _shapes and outcome.holds is False)
        changed = keeper.changed_by_model()
        yield Outcome(STATE, not changed, "; ".join(changed) or "unchanged")


def names(*, compiled: bool = False) -> list[str]:
    """Return the promises that :func:`outcomes` checks, in order."""
    return [*_promises(compiled), STATE]


def _promises(compiled: bool) -> Mapping[str, Callable[[Subject], str]]:
    return {**PROMISES, **({"causality, compiled": _causality_compiled} if compiled else {})}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, which is fastest for small problems."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _outcome(name: str, check: Callable[[Subject], str], subject: Subject) -> Outcome:
    try:
        if not subject.problems and check is not _shapes:
            raise DoesNotApply("no problem is supported on this device")
        return Outcome(name, True, check(subject))
    except DoesNotApply as reason:
        return Outcome(name, None, str(reason))
    except Broken as reason:
        return Outcome(name, False, str(reason))
    except Exception as error:
        return Outcome(name, False, clean(f"{type(error).__name__}: {error}"))


def _shapes(subject: Subject) -> str:
    for problem in subject.problems.values():
        module = subject.module(problem)
        subject.output(module.train(), problem, subject.inputs(problem))
    refused = [f"{kind} is unsupported ({reason})" for kind, reason in subject.refused.items()]
    served = [*map(described, subject.problems.values()), *refused]
    if not subject.problems:
        raise DoesNotApply(", ".join(served))
    return ", ".join(served)


def _batch_of_one(subject: Subject) -> str:
    most = 0.0
    for problem in subject.problems.values():
        module, three = subject.module(problem), subject.inputs(problem, 3)
        single, together = (subject.output(module, problem, x) for x in (three[1:2], three))
        differ = float((single - together[1:2]).abs().max() / together.abs().max().clamp_min(1e-30))
        if differ > SEEN:
            raise Broken(
                f"{described(problem)}: a sample by itself and in a batch differ by {differ:.0%} of the largest output"
            )
        most = max(most, differ)
    return (
        "the output does not depend on the batch"
        if most <= ROUNDING
        else f"the output depends on the batch: {most:.1%} of its size"
    )


def _other_grids(subject: Subject) -> str:
    problem, served = subject.problems.get("field"), []
    if problem is None:
        raise DoesNotApply("applies only to models for fields")
    module, x = subject.module(problem), subject.inputs(problem)
    before, shapes = subject.output(module, problem, x), _shapes_of(module)
    for grid in _others(problem):
        other = on(problem, *grid)
        try:
            subject.output(module, other, subject.inputs(other))
            served.append(_size(grid))
        except Unsupported as reason:
            served.append(f"{_size(grid)} raises Unsupported ({reason})")
    if _shapes_of(module) != shapes:
        raise Broken("a call on another grid changes the parameters")
    _close(subject.output(module, problem, x), before, "the outputs before and after a call on another grid")
    return f"built for {_size(problem.grid)}: {', '.join(served)}"


def _awkward_grids(subject: Subject) -> str:
    notes: list[str] = []
    for problem in subject.problems.values():
        n = problem.grid[0]
        for grid in ((n + 5,), (2 * n - 1,)) if len(problem.grid) == 1 else ((n + 1, n + 1), (n, n + 5), (n + 8, n)):
            other = on(problem, *grid)
            reason = subject.reason(other)
            if reason is None:
                subject.module(other)
            notes.append(f"{described(other)} is unsupported ({reason})" if reason else _size(grid))
    return ", ".join(dict.fromkeys(notes))


def _gradients(subject: Subject) -> str:
    without: list[str] = []
    trained = False
    for problem in subject.problems.values():
        gradients = dict(subject.gradients(problem))
        trained |= bool(gradients)
        for name, gradient in gradients.items():
            _finite(problem, name, gradient)
        none = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
        if gradients and len(none) == len(gradients):
            raise Broken(f"{described(problem)}: no parameter has a gradient")
        without += [f"{name} ({problem.kind})" for name in none]
    if not trained:
        raise DoesNotApply("no parameter is trainable")
    return f"finite; no gradient for {_listed(without)}" if without else "finite, for every parameter"


def _bf16(subject: Subject) -> str:
    for problem in subject.problems.values():
        subject.output(subject.module(problem), problem, subject.inputs(problem), "bf16")
        for name, gradient in subject.gradients(problem, "bf16"):
            _finite(problem, name, gradient)
    return "runs under autocast, outputs and gradients finite"


def _state_dict(subject: Subject) -> str:
    for problem in subject.problems.values():
        saved, loaded, x = subject.module(problem, 0), subject.module(problem, 1), subject.inputs(problem)
        loaded.load_state_dict(saved.state_dict())
        one, other = (subject.output(module, problem, x) for module in (saved, loaded))
        _close(one, other, f"{described(problem)}: the outputs of a network and of one that loads its state")
    return "a network that loads another's state gives the same output"


def _seeds(subject: Subject) -> str:
    if subject.model.reference:
        raise DoesNotApply("a constant predictor is the same for every seed")
    for problem in subject.problems.values():
        one, again, other = (list(subject.module(problem, seed).parameters()) for seed in (0, 0, 1))
        if not one:
            raise DoesNotApply("no parameters")
        if not _equal(one, again):
            raise Broken(f"{described(problem)}: the same seed gives different networks")
        if _equal(one, other):
            raise Broken(f"{described(problem)}: different seeds give the same network; build ignores torch's seed")
    return "different seeds give different networks, the same seed gives the same network"


def _effective(subject: Subject) -> str:
    found: dict[str, Any] = {}
    for problem in subject.problems.values():
        found |= subject.model.effective(subject.module(problem), problem)
    return json.dumps(found) if found else "no setting differs from the options"


def _flops(subject: Subject) -> str:
    notes = []
    for problem in subject.problems.values():
        module, x = subject.module(problem), subject.inputs(problem, 1)
        with torch.no_grad():
            counted = count_flops(lambda: module(x))  # noqa: B023
        if counted.unknown:
            raise Broken(
                f"{described(problem)}: no FLOP rule for {_listed(counted.unknown)} "
                "(torch.utils.flop_counter.register_flop_formula adds one)"
            )
        if not counted.total and list(module.parameters()):
            raise Broken(f"{described(problem)}: no operator was counted; the model computes outside torch's operators")
        notes.append(f"{described(problem)}: {counted.total:,}")
    return ", ".join(notes)


def _complexity(subject: Subject) -> str:
    claim = subject.model.growth(subject.model.options(**subject.options))
    if claim is None:
        raise DoesNotApply("the model does not claim one")
    found = []
    # One kind on a grid and one on a sequence are enough: within them the same module mixes tokens.
    for problem in {len(problem.grid): problem for problem in subject.problems.values()}.values():
        grids = ((512,), (2048,)) if len(problem.grid) == 1 else ((n := max(problem.grid[0], 32), n), (2 * n, 2 * n))
        sizes = [on(problem, *grid) for grid in grids]
        if any(subject.reason(size) for size in sizes):
            continue
        small, large = (_operations(subject, size) for size in sizes)
        if not small:
            continue
        exponent = math.log(large / small) / math.log(sizes[1].tokens / sizes[0].tokens)
        grown = f"FLOPs grow as n^{exponent:.2f} from {described(sizes[0])} to {described(sizes[1])}"
        if exponent > EXPONENTS[claim] + TOLERANCE:
            raise Broken(f"{grown}; it claims {claim}")
        found.append(grown)
    return f"{claim}; {'; '.join(found)}" if found else f"{claim}; could not be checked"


def _operations(subject: Subject, problem: Problem) -> int:
    module, x = subject.module(problem), subject.inputs(problem, 1)
    with torch.no_grad():
        return int(count_flops(lambda: module(x)).total)


def _causality(subject: Subject, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> str:
    problem = subject.problems.get("causal-text")
    if problem is None:
        raise DoesNotApply("the model does not support causal text")
    module, tokens, n = subject.module(problem), subject.inputs(problem, 1), problem.grid[0]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                NOISE * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype).to(parameter)
            )
    module = wrap(module)
    before = subject.output(module, problem, tokens)
    for i in (1, n // 3, n // 2, n - 2, n - 1):
        other = tokens.clone()
        other[0, i] = (tokens[0, i] + 1) % problem.inputs
        change = (subject.output(module, problem, other) - before).abs().amax((0, 2))
        early = (change[:i] > LEAK * change.max()).nonzero().flatten()
        if len(early):
            raise Broken(f"token {i} of {n} changes the earlier output {int(early[0])}")
    return "no output depends on later tokens"


def _causality_compiled(subject: Subject) -> str:
    return _causality(subject, lambda module: torch.compile(module, dynamic=False))  # type: ignore[arg-type,return-value]


PROMISES: Mapping[str, Callable[[Subject], str]] = {
    "shapes": _shapes,
    "batch of one": _batch_of_one,
    "other grids": _other_grids,
    "odd and non-square grids": _awkward_grids,
    "gradients": _gradients,
    "bf16": _bf16,
    "state_dict": _state_dict,
    "seeds": _seeds,
    "effective settings": _effective,
    "FLOPs": _flops,
    "complexity": _complexity,
    "causality": _causality,
}


def _others(problem: Problem) -> Iterator[tuple[int, ...]]:
    n = problem.grid[0]
    yield (2 * n, 2 * n)
    yield (n + 1, 2 * n - 3)


def _size(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def _shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _equal(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _finite(problem: Problem, name: str, gradient: Tensor | None) -> None:
    if gradient is not None and not gradient.isfinite().all():
        raise Broken(f"{described(problem)}: the gradient of {name} is not finite")


def _close(one: Tensor, other: Tensor, what: str) -> None:
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max())):
        raise Broken(f"{what} differ by {float((one - other).abs().max()):.2g}")


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED} more" if len(every) > LISTED else "")
