"""How much memory an operation takes at most, in elements of its largest tensor."""

import torch
from torch.overrides import TorchFunctionMode


class LargestTensor(TorchFunctionMode):
    """Notes the number of elements of the largest tensor any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result
