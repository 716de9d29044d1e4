"""Draws weights and inputs, holds outputs against each other, and writes what a block makes of them as a fixture."""

import pathlib

import torch
from safetensors.torch import save_file

FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"
STEPS = 50


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw(shapes, seed):
    """Weights of these shapes: as wide as Xavier's, those of norms around 1, biases and bias tables well off 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1 + 0.3 * value
        elif len(shape) == 2:
            value = value * (2 / sum(shape)) ** 0.5
        else:
            value = 0.3 * value
        weights[name] = value
    return weights


def linears(**sizes):
    """`name=(out, in)` with `__` for dots, each with a bias."""
    shapes = {}
    for name, (n_out, n_in) in sizes.items():
        shapes[name.replace("__", ".") + ".weight"] = (n_out, n_in)
        shapes[name.replace("__", ".") + ".bias"] = (n_out,)
    return shapes


def agree(what, ours, theirs, tolerance=2e-6):
    off = (ours - theirs).abs().max().item()
    print(f"    {what}: off by {off:.1e}")
    assert off <= tolerance * max(1.0, theirs.abs().max().item()), f"{what} is off by {off}"


def save(name, tensors):
    """Returns the size of the file."""
    file = FIXTURES / f"{name}.safetensors"
    save_file({key: tensors[key].contiguous() for key in sorted(tensors)}, file)
    file.chmod(0o644)
    assert file.stat().st_size < 200_000, name
    return file.stat().st_size


def write(name, forward, weights, inputs, config, seed, trained=None, target=True, wrong=None, free=()):
    """`forward(weights, inputs)` is the block; `trained` the names that Adagrad moves, all weights unless given."""
    leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
    given = {key: value.clone() for key, value in inputs.items()}
    floats = [key for key, value in given.items() if value.is_floating_point() and key not in free]
    for key in floats:
        given[key].requires_grad_()
    out = forward(leaves, given)
    r = normal(seed, *out.shape)
    (out * r).sum().backward()
    tensors = {"in." + key: value.detach() for key, value in given.items()}
    tensors |= {key: value.detach() for key, value in leaves.items()}
    tensors |= {"config." + key: torch.tensor(float(value)) for key, value in config.items()}
    tensors |= {"out": out.detach(), "r": r}
    grads = {key: leaves[key].grad for key in leaves} | {"in." + key: given[key].grad for key in floats}
    for key, grad in grads.items():
        assert grad is not None and grad.abs().max() > 0, f"{name}: nothing reaches {key}"
        tensors["grad." + key] = grad
    tensors |= {"wrong." + key: value.detach() for key, value in (wrong or {}).items()}
    for key, value in (wrong or {}).items():
        off = (value - out).abs().max().item()
        print(f"    {name}: {key} would be off by {off:.2g}")
        assert off > 1e-2

    moved = {key: value.detach().clone().requires_grad_() for key, value in leaves.items()}
    fixed = {key: value.detach().clone() for key, value in given.items()}
    for key in floats:
        fixed[key].requires_grad_("in." + key in (trained or ()))
    both = moved | {"in." + key: fixed[key] for key in floats}
    trained = list(weights) if trained is None else trained
    if target:
        # Some way from the output, so that there is something to learn, and two of them, so that something is left.
        tensors["target"] = out.detach() + 2 * out.detach().std() * normal(seed + 1, 2, *out.shape)
    optimizer = torch.optim.Adagrad([both[key] for key in trained], lr=0.03, eps=1e-8, initial_accumulator_value=0.0)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        y = forward(moved, fixed)
        loss = (y - tensors["target"][step % 2]).square().mean() if target else y.sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    tensors["loss"] = torch.stack(losses).flatten()
    tensors |= {"trained." + key: torch.tensor(1.0) for key in trained}
    assert all(bool(value.isfinite().all()) for value in tensors.values()), name
    size = save(name, tensors)
    print(f"{name}: out {tuple(out.shape)}, loss {losses[0]:.5f} -> {losses[-1]:.5f}, {size} bytes")
    assert losses[-2] < 0.95 * losses[0] and losses[-2] > 1e-2 * losses[0], name
