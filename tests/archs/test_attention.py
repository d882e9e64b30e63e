import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mcir.archs import attention
from mcir.archs.attention import (
    attend,
    from_windows,
    join_heads,
    relative_position_index,
    shifted_window_mask,
    split_heads,
    to_windows,
    window_mask_index,
)

SIZES = [(8, 12, 4, 2), (4, 4, 4, 2), (4, 12, 4, 1), (14, 7, 7, 3), (20, 16, 4, 3)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def queries_keys_values(windows: int = 6, heads: int = 2, tokens: int = 5, channels: int = 3) -> list[Tensor]:
    return [random(windows, heads, tokens, channels, seed=seed) for seed in range(3)]


def reference(query: Tensor, key: Tensor, value: Tensor, biases: Tensor, scale: float) -> Tensor:
    """Compute attention for one query at a time, with a bias (heads, N, N) per window."""
    output = torch.zeros_like(value)
    windows, heads, tokens, _ = query.shape
    for window in range(windows):
        for head in range(heads):
            for token in range(tokens):
                scores = [
                    scale * float(query[window, head, token] @ key[window, head, other])
                    + float(biases[window, head, token, other])
                    for other in range(tokens)
                ]
                weights = [math.exp(score) for score in scores]
                for other in range(tokens):
                    output[window, head, token] += weights[other] / sum(weights) * value[window, head, other]
    return output


def biases_of(kind: str, windows: int = 6) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return a bias, its mask index, and the bias of each window."""
    if kind == "shared":
        bias = random(2, 5, 5, seed=7)
        return bias, None, bias.expand(windows, -1, -1, -1)
    if kind == "per window":
        bias = random(3, 2, 5, 5, seed=8)
        return bias, None, bias.repeat(windows // 3, 1, 1, 1)
    bias, mask_index = random(4, 2, 5, 5, seed=9), torch.tensor([3, 0, 1])
    return bias, mask_index, bias[mask_index].repeat(windows // 3, 1, 1, 1)


BIASES = ["shared", "per window", "mask_index"]


@pytest.fixture(params=["one chunk", "several chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "several chunks":  # four windows per chunk, so that the last chunk is smaller
        monkeypatch.setattr(attention, "SCORES_PER_CHUNK", 4 * 2 * 5 * 5 // torch.get_num_threads())
        monkeypatch.setattr(attention, "MAX_MATRICES", 4 * 2)


@pytest.mark.parametrize("kind", BIASES)
def test_equals_the_equation(kind: str, chunks: None) -> None:
    bias, mask_index, biases = biases_of(kind)
    expected = reference(*queries_keys_values(), biases, 0.7)
    torch.testing.assert_close(attend(*queries_keys_values(), bias, mask_index, 0.7), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("function", [attention._attend_fused, attention._attend_directly])
def test_the_implementations_for_other_devices_are_equal(function, kind: str, chunks: None) -> None:
    bias, mask_index, biases = biases_of(kind)
    if kind == "per window":
        mask_index = torch.arange(3)
    output = function(*queries_keys_values(), bias, mask_index, 0.7)
    torch.testing.assert_close(output, reference(*queries_keys_values(), biases, 0.7), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", BIASES)
def test_gradients(kind: str, chunks: None) -> None:
    bias, mask_index, _ = biases_of(kind)
    inputs = [each.requires_grad_() for each in (*queries_keys_values(), bias)]
    assert torch.autograd.gradcheck(lambda *tensors: attend(*tensors, mask_index, 0.7), inputs)


@pytest.mark.parametrize("layout", ["tokens first", "channels first"])
def test_the_memory_layout_does_not_matter(layout: str) -> None:
    def change_layout(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2) if layout == "tokens first" else x.mT.contiguous().mT

    bias, mask_index, _ = biases_of("mask_index")
    plain, other = [
        [change(each).requires_grad_() for each in queries_keys_values()]
        for change in (lambda each: each.contiguous(), change_layout)
    ]
    results = [attend(*inputs, bias, mask_index) for inputs in (plain, other)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    gradients = [
        torch.autograd.grad(result.square().sum(), inputs)
        for result, inputs in zip(results, (plain, other), strict=True)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_the_scores_of_many_windows_are_not_stored_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES_PER_CHUNK", 2 * 2 * 32 * 32 // torch.get_num_threads())
    query, key, value = (each.requires_grad_() for each in queries_keys_values(windows=6, tokens=32))
    stored: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x):
        attend(query, key, value, torch.zeros(2, 32, 32, dtype=torch.float64))
    assert stored and max(stored) < 6 * 2 * 32 * 32


def test_half_precision_is_computed_in_float32() -> None:
    half = [x.bfloat16().requires_grad_() for x in queries_keys_values()]
    full = [x.detach().float().requires_grad_() for x in half]
    bias = random(2, 5, 5).float()
    output, expected = attend(*half, bias), attend(*full, bias)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.bfloat16())
    output.float().sum().backward()
    expected.sum().backward()
    for one, other in zip(half, full, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=1e-2, atol=1e-3)


def test_autocast_does_not_change_the_result() -> None:
    inputs = [each.bfloat16().requires_grad_() for each in queries_keys_values()]
    bias = random(2, 5, 5).float().requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = attend(*inputs, bias)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), [*inputs, bias])))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_fake_tensors_are_not_cached() -> None:
    with FakeTensorMode():
        attention.relative_position_index(3)
        attention.window_mask_index(6, 6, 3, "cpu")
    for table in (attention.relative_position_index(3), attention.window_mask_index(6, 6, 3, "cpu")):
        assert not isinstance(table, FakeTensor)
    with FakeTensorMode():
        assert isinstance(attention.relative_position_index(3), FakeTensor)


@pytest.mark.parametrize("parts", [1, 3])
def test_splitting_and_joining_heads_equals_linear_layers(parts: int) -> None:
    torch.manual_seed(0)
    layer, windows = nn.Linear(6, 6 * parts).double(), random(4, 9, 6).requires_grad_()
    expected = layer(windows).view(4, 9, parts, 2, 3)
    parts_of_windows = split_heads(windows, layer, 2)
    assert len(parts_of_windows) == parts
    for index, part in enumerate(parts_of_windows):
        torch.testing.assert_close(part, expected[:, :, index].transpose(1, 2), rtol=0, atol=1e-12)
    last = nn.Linear(6, 6).double()
    joined, literal = join_heads(parts_of_windows[0], last), last(expected[:, :, 0].flatten(2))
    torch.testing.assert_close(joined, literal, rtol=0, atol=1e-12)
    inputs = [windows, *layer.parameters(), *last.parameters()]
    gradients = [torch.autograd.grad(y.square().sum(), inputs) for y in (joined, literal)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_windows_are_split_in_raster_order_and_joined() -> None:
    image = torch.arange(2 * 6 * 9 * 2).view(2, 6, 9, 2)
    windows = to_windows(image, 3)
    assert windows.shape == (2 * 2 * 3, 9, 2)
    for batch in range(2):
        for y in range(6):
            for x in range(9):
                window = batch * 6 + y // 3 * 3 + x // 3
                assert torch.equal(windows[window, y % 3 * 3 + x % 3], image[batch, y, x])
    assert torch.equal(from_windows(windows, 6, 9), image)


@pytest.mark.parametrize("window", [1, 2, 7])
def test_relative_position_index(window: int) -> None:
    index = relative_position_index(window)
    assert index.shape == (window**2, window**2) and index.dtype == torch.int64
    for query in range(window**2):
        for key in range(window**2):
            down, right = query // window - key // window, query % window - key % window
            assert index[query, key] == (down + window - 1) * (2 * window - 1) + right + window - 1


@pytest.mark.parametrize(("height", "width", "window", "shift"), SIZES)
def test_tokens_of_different_regions_are_masked(height: int, width: int, window: int, shift: int) -> None:
    """Two tokens belong to the same region if they are in the same cell of the shifted grid."""
    position = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    cells = (position - shift).div(window, rounding_mode="floor")
    cells = to_windows(cells.roll((-shift, -shift), (0, 1))[None], window)
    masked = (cells[:, :, None] != cells[:, None, :]).any(-1)
    mask = shifted_window_mask(height, width, window, shift, "cpu")
    assert torch.equal(mask, torch.where(masked, -100.0, 0.0))
    assert masked.any()


@pytest.mark.parametrize(("height", "width", "window", "shift"), SIZES)
def test_four_masks_are_enough_for_every_size(height: int, width: int, window: int, shift: int) -> None:
    four = shifted_window_mask(2 * window, 2 * window, window, shift, "cpu")
    mask_index = window_mask_index(height, width, window, "cpu")
    assert torch.equal(four[mask_index], shifted_window_mask(height, width, window, shift, "cpu"))


def test_tables_are_cached_and_usable_in_training_after_inference() -> None:
    device = torch.device("cpu")
    with torch.inference_mode():
        first = window_mask_index(36, 44, 4, device)
    assert window_mask_index(36, 44, 4, device) is first
    assert not first.is_inference()
    assert window_mask_index(44, 36, 4, device) is not first


@pytest.mark.parametrize("kind", BIASES)
def test_dropout_of_attention_weights(kind: str) -> None:
    bias, mask_index, biases = biases_of(kind)
    query, key, value = queries_keys_values()
    torch.manual_seed(0)
    output = attend(query, key, value, bias, mask_index, 0.7, dropout=0.25)
    torch.manual_seed(0)
    weights = nn.functional.dropout((0.7 * query @ key.mT + biases).softmax(-1), 0.25)
    torch.testing.assert_close(output, weights @ value, rtol=0, atol=1e-12)


def test_splitting_heads_without_bias() -> None:
    layer, windows = nn.Linear(6, 18, bias=False).double(), random(4, 8, 6)
    expected = layer(windows).view(4, 8, 3, 2, 3)
    for index, part in enumerate(split_heads(windows, layer, 2)):
        torch.testing.assert_close(part, expected[:, :, index].transpose(1, 2), rtol=0, atol=1e-12)
