"""What the fused ops share."""

import torch

from stylenerf.kernels.base.register import differentiable_gradients


def test_partial_gradients_where_one_input_is_made_of_another() -> None:
    # y = x^2 = 9 at x = 3: the partial derivatives of x y are (y, x) = (9, 3); the total one along x would be 27
    x = torch.tensor(3.0, requires_grad=True)
    y = x**2
    grads = differentiable_gradients(lambda x, y: x * y, (x, y), (torch.tensor(1.0),))
    assert [g.item() for g in grads if g is not None] == [9.0, 3.0]
    # and they still know where they come from: d/dx (9 + 3) = d/dx (x^2 + x) = 7
    (again,) = torch.autograd.grad([g for g in grads if g is not None], x)
    assert again.item() == 7.0
