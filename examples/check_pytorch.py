"""Check the gradient that PyTorch computes for a module, in five lines."""

import torch

import fastbp

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
X, labels = torch.randn(16, 4, dtype=torch.float64), torch.randint(0, 3, (16,))


# The check:
def f(p):
    w = {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}
    loss = torch.nn.functional.cross_entropy(torch.func.functional_call(net, w, X), labels)
    return loss, dict(zip(p, torch.autograd.grad(loss, list(w.values())), strict=True))


report = fastbp.gradcheck(f, dict(net.named_parameters()))

if __name__ == "__main__":
    print(report)
    assert report.ok
