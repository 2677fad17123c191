"""torch tensors on the CPU; where torch is installed."""

from __future__ import annotations

import pytest

from .conftest import Moved

pytest.importorskip("torch")


def test_tensors_modules_and_optimizers_go_on_training(moved: Moved) -> None:
    moved.kernel.run(
        "import torch\ntorch.manual_seed(3)\nwhole = torch.arange(100_000.)\nview = whole[10:20]\n"
        "turned = torch.arange(6).reshape(2, 3).t()\nbrain = torch.ones(3, dtype=torch.bfloat16)\n"
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)\n"
        "        self.b.weight = self.a.weight\n"
        "    def forward(self, x):\n        return self.b(self.a(x))\n"
        "net = Net()\noptimizer = torch.optim.Adam(net.parameters())\n"
        "net(torch.ones(1, 4)).sum().backward()\noptimizer.step()\ncomputed = net.a.weight * 2\n"
        "import numpy as np\nlent = torch.from_numpy(np.ones(3))"
    )
    step = (
        "(whole.sum().item(), view.data_ptr() - whole.data_ptr(), turned.stride(), brain.dtype,"
        " net.b.weight is net.a.weight, net.a.weight.grad.tolist(), net(torch.ones(1, 4)).tolist(),"
        " optimizer.param_groups[0]['params'][0] is net.a.weight, len(optimizer.state),"
        " torch.get_rng_state().sum().item())"
    )
    before = moved.kernel.value(step)
    report = moved.move()
    assert moved.kernel.value(step) == before
    # Without its past a computed tensor must not pretend that gradients flow through it.
    assert sorted(report.named("degraded")) == ["computed", "lent"]
    assert moved.kernel.value("computed.requires_grad") == "False"
    moved.kernel.run(
        "net(torch.ones(1, 4)).sum().backward(); optimizer.step(); whole.resize_(9**6)"
    )


def test_one_element_of_a_large_tensor_costs_one_block(moved: Moved) -> None:
    moved.kernel.run("import torch\nlarge = torch.rand(4_000_000)")
    moved.kernel.dump(moved.directory)
    moved.kernel.run("large[2_000_000] = 7")
    moved.kernel.dump(moved.directory)
    written = (moved.directory / "report.json").read_text().split('"written": ')[1]
    assert int(written.split(",")[0].split("}")[0]) < 300_000
