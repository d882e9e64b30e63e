"""Domains of numeric options: every option of every class and section rejects values that can only be mistakes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import pytest
from annotated_types import Interval, Len
from pydantic import AllowInfNan, BaseModel, Field, ValidationError

from mcir import registry as registries
from mcir.config import load
from mcir.config import options as sections
from mcir.config.components import adapter_of, annotation_of, describe
from mcir.domains import MAPPINGS, SEQUENCES, UNIONS, Increasing, Probability, Range, find_problem, parts
from mcir.engine.dry_run import dry_run
from mcir.errors import ArgumentError
from mcir.registry import Registry

REGISTRIES = [value for value in vars(registries).values() if isinstance(value, Registry)]
NONSENSE = (math.nan, math.inf, -math.inf, -1, 0, 1e30)
LONG = 5000
"""Length of a list that can only be a mistake."""
UNBOUNDED = 10**20
"""Number that every domain excludes, if it has bounds."""

MEANINGFUL: dict[tuple[str, str], str] = {
    ("ahead", "0"): "CosineAnnealingLR without a shift",
    ("airlight", "0"): "black haze",
    ("alpha", "0"): "RMSprop without an average; ASGD with a constant rate",
    ("angle", "-1"): "rain from the other side",
    ("angle", "0"): "vertical rain",
    ("attn_drop_rate", "0"): "no dropout",
    ("beta", "0"): "no haze",
    ("beta2_decay", "-1"): "plain average of all squared gradients",
    ("betas", "[0, 0]"): "no averages",
    ("adamw_betas", "[0, 0]"): "no averages",
    ("adamw_weight_decay", "0"): "no weight decay",
    ("weights", "[]"): "each image equally often",
    ("crop_border", "0"): "no border is ignored",
    ("curriculum", "0"): "no curriculum",
    ("dampening", "0"): "no dampening",
    ("dec_blk_nums", "[0]"): "a level without blocks",
    ("dec_blk_nums", "[]"): "a network with one resolution, the default of the authors",
    ("decay", "0"): "a negative is the network of its last update",
    ("dense_share", "0"): "only the loss of images",
    ("density", "0"): "no rain",
    ("drop_path_rate", "0"): "no stochastic depth",
    ("drop_rate", "0"): "no dropout",
    ("ema_decay", "0"): "no moving average",
    ("enc_blk_nums", "[0]"): "a level without blocks",
    ("enc_blk_nums", "[]"): "a network with one resolution, the default of the authors",
    ("eta_min", "0"): "the learning rate ends at 0",
    ("initial_accumulator_value", "0"): "the default of Adagrad",
    ("lambd", "0"): "no decay term",
    ("layer_weights", "{'relu1_1': 0}"): "a layer is left out; the constructor rejects a loss without layers",
    ("length", "0"): "no blur; drops of rain",
    ("loss_weight", "0"): "λ = 0, the baseline of Table 8 (contrastive losses only)",
    ("lr_decay", "0"): "a constant rate",
    ("manual_seed", "0"): "a seed",
    ("middle_blk_num", "0"): "a level without blocks",
    ("milestones", "[]"): "a constant rate",
    ("momentum", "0"): "no momentum",
    ("momentum_decay", "0"): "constant momentum",
    ("momentum_iter", "0"): "constant momentum",
    ("num_block", "0"): "a network without residual blocks, as a baseline",
    ("num_gpu", "0"): "CPU, as in BasicSR",
    ("num_worker_per_gpu", "0"): "the training process loads the data",
    ("overlap", "0"): "tiles that touch",
    ("perceptual_weight", "0"): "only the style term; the constructor rejects a loss without terms",
    ("pictures", "0"): "no pictures",
    ("qk_scale", "0"): "uniform attention, as a baseline",
    ("read", "0"): "no read noise",
    ("read_share", "0"): "only shot noise",
    ("restarts", "[0]"): "the schedule starts in the first iteration",
    ("rgb_mean", "[0]"): "no normalization",
    ("rho", "0"): "no average",
    ("seed", "0"): "a seed",
    ("sharpened", "0"): "no additional positives",
    ("sharpness", "[0, 0]"): "smoothed positives",
    ("shot", "0"): "no shot noise",
    ("sigma", "0"): "no noise",
    ("start", "0"): "negatives start at the network",
    ("strength", "0"): "no rain",
    ("style_weight", "0"): "no style term",
    ("subset_seed", "0"): "a seed",
    ("t0", "0"): "averaging starts in the first iteration",
    ("threshold", "0"): "an update in every iteration",
    ("turn", "0"): "straight motion",
    ("warmup_iter", "-1"): "no warm-up",
    ("warmup_iter", "0"): "no warm-up",
    ("weight", "0"): "w = 0 of Table 9: a negative is the network of its last update",
    ("weight", "[0]"): "w = 0 of Table 9: a negative is the network of its last update",
    ("weight_decay", "0"): "no weight decay",
}
"""Unusual values that are accepted, by key and value, with the reason."""


class Option(NamedTuple):
    """A number, or a list or mapping of numbers."""

    owner: str
    key: str
    annotation: Any
    default: Any


def members(annotation: Any) -> list[Any]:
    """The types of a union, or the annotation itself."""
    bare, kind, _ = parts(annotation)
    return [inner for member in get_args(bare) for inner in members(member)] if kind in UNIONS else [annotation]


def numeric(annotation: Any) -> list[Any]:
    """The members of an annotation that are numbers, or lists or mappings of numbers."""
    found = []
    for member in members(annotation):
        bare, kind, extras = parts(member)
        is_section = any(isinstance(extra, Registry) for extra in extras)
        holds_numbers = (kind in SEQUENCES or kind in MAPPINGS) and any(map(numeric, get_args(bare)))
        if kind in (int, float) or (holds_numbers and not is_section):
            found.append(member)
    return found


def undeclared(annotation: Any) -> list[Any]:
    """The numbers and lists of an annotation that have no bounds on both sides."""
    found = []
    for member in numeric(annotation):
        bare, kind, _ = parts(member)
        if kind in (int, float):
            is_bounded = all(find_problem(member, sign * UNBOUNDED) for sign in (-1, 1))
            plain = find_problem(Annotated[kind, Interval()], UNBOUNDED) if kind is int else None
            is_bounded = is_bounded and find_problem(member, UNBOUNDED) != plain
        else:
            found += [part for item in get_args(bare) for part in undeclared(item)]
            is_bounded = kind in MAPPINGS or find_problem(member, [None] * LONG) is not None
        found += [] if is_bounded else [member]
    return found


def all_options() -> Iterator[Option]:
    for registry in REGISTRIES:
        for name in registry.names():
            for key, parameter in registry.parameters(name).items():
                yield Option(name, key, parameter.annotation, parameter.default)
    for model in vars(sections).values():
        if isinstance(model, type) and issubclass(model, BaseModel):
            for key, field in model.model_fields.items():
                yield Option(model.__name__, key, annotation_of(field), field.default)


OPTIONS = [option for option in all_options() if numeric(option.annotation)]


def nonsense(annotation: Any) -> Iterator[Any]:
    """Values of the right structure whose numbers or lengths are usually mistakes."""
    for member in numeric(annotation):
        bare, kind, _ = parts(member)
        items = get_args(bare)
        if kind in (int, float):
            yield from NONSENSE
        elif kind in MAPPINGS:
            yield from ({"relu1_1": value} for value in NONSENSE)
        else:
            fixed = len(items) if kind is tuple and items[-1] is not Ellipsis else 1
            yield from ([], [1] * LONG, [0.5] * LONG, list(range(1, LONG + 1)))
            yield from ([value] * fixed for value in NONSENSE)
            if fixed > 1:
                yield from ([0.5] * (fixed - 1), [0.5] * (fixed + 1))


def test_every_number_has_a_declared_domain():
    assert len(OPTIONS) > 250
    assert {f"{option.owner}.{option.key}" for option in OPTIONS if undeclared(option.annotation)} == set()


def test_nonsense_is_rejected_by_option_files_and_by_constructors():
    accepted, differences = set(), []
    for annotation, keys in {repr(option.annotation): (option.annotation, set()) for option in OPTIONS}.values():
        keys |= {option.key for option in OPTIONS if option.annotation == annotation}
        adapter = adapter_of(annotation)
        for value in nonsense(annotation):
            try:
                adapter.validate_python(value, context={})
            except ValidationError as error:
                if find_problem(annotation, value) is None and "expected" not in error.errors()[0]["msg"]:
                    differences.append((sorted(keys), value))
            else:
                accepted |= {(key, str(value)) for key in keys}
                if find_problem(annotation, value) is not None:
                    differences.append((sorted(keys), value))
    assert differences == []
    assert accepted - MEANINGFUL.keys() == set(), "accepted without a reason"
    assert MEANINGFUL.keys() - accepted == set(), "listed, but not accepted"


def test_the_loss_of_a_network_needs_a_weight_above_0_except_for_contrastive_losses():
    zero = {
        option.owner for option in OPTIONS if option.key == "loss_weight" and find_problem(option.annotation, 0) is None
    }
    assert zero == {
        "ContrastiveRegularization", "CurricularContrastiveRegularization", "DenseCLLoss", "PCLLoss", "PixContrastLoss",
        "ResidualContrastiveLoss", "SPNLoss", "VADeRLoss",
    }  # fmt: skip


def test_every_default_is_inside_its_domain():
    defaults = [option for option in OPTIONS if isinstance(option.default, int | float | Sequence | Mapping)]
    assert len(defaults) > 200
    assert [option for option in defaults if find_problem(option.annotation, option.default)] == []


# -- users' classes ---------------------------------------------------------------------------------------------------

GADGETS = Registry("gadget", "json")


@GADGETS.register()
class Plain:
    def __init__(self, rate: float = 1.0, count: int = 1, span: Sequence[float] = (), named: dict[str, int] = {}):  # noqa: B006
        pass


@GADGETS.register()
class Declared:
    def __init__(
        self,
        rate: Annotated[float, Field(gt=0)] = 1.0,
        drop: Probability | None = None,
        sigma: Range[Annotated[float, Interval(ge=0, le=9)]] = 1.0,
        steps: Annotated[list[int], Len(1, 3), Increasing()] = [1],  # noqa: B006
        limit: Annotated[float, AllowInfNan()] = math.inf,
        start: Literal[-1] | Annotated[int, Interval(ge=1, le=5)] = 1,
    ) -> None:
        pass


def test_a_new_class_without_domains_is_found():
    found = {name: bool(undeclared(value.annotation)) for name, value in GADGETS.parameters("Plain").items()}
    assert found == {"rate": True, "count": True, "span": True, "named": True}
    found = {name: bool(undeclared(value.annotation)) for name, value in GADGETS.parameters("Declared").items()}
    assert found == {"rate": True, "drop": False, "sigma": False, "steps": True, "limit": True, "start": False}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Plain", {"rate": math.nan}, "rate: expected a finite number, got nan."),
        ("Plain", {"rate": -math.inf}, "rate: expected a finite number, got -inf."),
        ("Plain", {"rate": 10**400}, "rate: expected a finite number, got 1000"),
        ("Plain", {"count": 2**63}, "count: expected an integer of at most 64 bits, got 9223372036854775808."),
        ("Plain", {"span": [0.0, math.inf]}, "span.1: expected a finite number, got inf."),
        ("Plain", {"named": {"a": -(10**30)}}, "named.a: expected an integer of at most 64 bits, got -1"),
        ("Declared", {"rate": -1}, "rate: expected a finite number above 0, got -1."),
        ("Declared", {"drop": 1.0}, "drop: expected a number in [0, 1), got 1.0."),
        ("Declared", {"sigma": 10}, "sigma: expected a number in [0, 9], got 10."),
        ("Declared", {"sigma": [1, 10]}, "sigma.1: expected a number in [0, 9], got 10."),
        ("Declared", {"sigma": [2, 1]}, "sigma: expected numbers in ascending order, got [2, 1]."),
        ("Declared", {"sigma": [1]}, "sigma: expected a list of 2 values, got [1]."),
        ("Declared", {"steps": [1, 1]}, "steps: expected increasing numbers, got [1, 1]."),
        ("Declared", {"steps": [1, 2, 3, 4]}, "steps: expected a list of 1 to 3 values, got [1, 2, 3, 4]."),
        ("Declared", {"start": 0}, "start: expected an integer from 1 to 5, got 0."),
    ],
)
def test_constructors_and_option_files_reject_the_same_values(name, arguments, message):
    with pytest.raises(ArgumentError) as built:
        GADGETS.build({"type": name, **arguments})
    with pytest.raises(ArgumentError) as constructed:
        GADGETS.get(name)(**arguments)
    assert str(built.value).startswith(message) and str(constructed.value) == str(built.value)
    with pytest.raises(ValidationError) as caught:
        adapter_of(Annotated[Mapping[str, Any], GADGETS]).validate_python({"type": name, **arguments}, context={})
    [detail] = caught.value.errors()
    assert f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".startswith(message.partition(", got")[0])


def test_values_inside_the_domains_are_accepted():
    GADGETS.build({"type": "Plain", "rate": -1e30, "count": -5, "span": [0, 1], "named": {"a": 3}})
    Declared(rate=1e300, drop=None, sigma=[0, 9], steps=[1, 5], limit=math.nan, start=-1)
    Declared(sigma=9, limit=-math.inf, start=5)


def test_a_subclass_checks_the_arguments_that_it_passes_on():
    class Faster(Declared):
        def __init__(self) -> None:
            super().__init__(rate=0.0)

    with pytest.raises(ArgumentError, match="rate: expected a finite number above 0"):
        Faster()


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Field(gt=0)], "an integer ≥ 1"),
        (Annotated[int, Field(lt=5)], "an integer ≤ 4"),
        (Annotated[int, Interval(ge=1, le=10**12)], "an integer ≥ 1"),
        (Annotated[float, Interval(gt=0, lt=1)], "a number in (0, 1)"),
        (Annotated[float, Field(lt=0)], "a finite number below 0"),
        (Annotated[Sequence[Probability], Len(2, 5)], "a list of 2 to 5 numbers in [0, 1)"),
        (Annotated[Sequence[Annotated[float, Field(ge=0)]], Len(1)], "a list of at least 1 finite numbers ≥ 0"),
    ],
)
def test_domains_in_words(annotation, words):
    assert describe(annotation) == words


# -- option files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1e-4", "lr: 0", "x.yml:14: train.optim_g.lr: expected a finite number above 0, got 0."),
        ("lr: 1e-4", "lr: 1e30", "x.yml:14: train.optim_g.lr: expected a number in (0, 1000], got 1e+30."),
        ("lr: 1e-4", "lr: 1e-4, eps: .inf", "x.yml:14: train.optim_g.eps: expected a number in (0, 1], got inf."),
        ("betas: [0.9, 0.99]", "betas: [0.9]",
         "x.yml:14: train.optim_g.betas: expected a list of 2 values, got [0.9]."),
        ("betas: [0.9, 0.99]", "betas: [0.9, 1]",
         "x.yml:14: train.optim_g.betas.1: expected a number in [0, 1), got 1."),
        ("L1Loss", "L1Loss, loss_weight: -1",
         "x.yml:16: train.pixel_opt.loss_weight: expected a finite number above 0, got -1."),
        ("[2000, 3000]", "[-1]", "x.yml:15: train.scheduler.milestones.0: expected an integer ≥ 1, got -1."),
        ("[2000, 3000]", "[3000, 2000]",
         "x.yml:15: train.scheduler.milestones: expected increasing numbers, got [3000, 2000]."),
        ("[2000, 3000]", "[9], gamma: .nan",
         "x.yml:15: train.scheduler.gamma: expected a number in (0, 100], got nan."),
        ("total_iter: 5e3", "total_iter: 5e3\n  grad_clip: 1e30",
         "x.yml:14: train.grad_clip: expected a number in (0, 1e+09], got 1e+30."),
        ("total_iter: 5e3", "total_iter: 5e3\n  warmup_iter: -1e6",
         "x.yml:14: train.warmup_iter: expected an integer ≥ -1, got -1000000."),
        ("HistoryNegatives", "HardNegatives, seed: -1",
         "x.yml:18: train.negatives.seed: expected an integer ≥ 0, got -1."),
        ("name: quick", "name: q\nmanual_seed: 9223372036854775808",
         "x.yml:2: manual_seed: expected an integer from 0 to 2^63 − 1, got 9223372036854775808."),
        ("name: quick", "name: q\ndist_params: {timeout_minutes: 1e30}",
         "x.yml:2: dist_params.timeout_minutes: expected a number in (0, 525600], got 1e+30."),
        ("name: quick", "name: q\nnum_gpu: 1025", "x.yml:2: num_gpu: expected an integer from 0 to 1,024, got 1025."),
        ("batch_size_per_gpu: 4", "batch_size_per_gpu: 4\n    num_worker_per_gpu: 1e9",
         "x.yml:11: datasets.train.num_worker_per_gpu: expected an integer from 0 to 1,024, got 1000000000."),
    ],
)  # fmt: skip
def test_a_value_outside_its_domain_is_reported_with_file_line_and_key(problems, good, old, new, message):
    assert old in good
    assert problems(good.replace(old, new, 1)) == [message]


COSINE = "{type: CosineAnnealingLR, T_max: 10, eta_min: 2}"
RESTARTS = "{type: CosineAnnealingRestartLR, periods: [9, 9], restart_weights: [1, 1]}"
TRUE_COSINE = "{type: TrueCosineAnnealingLR, T_max: 5}"
STAGES = ", ".join(f"{{start: {start}, gt_size: 8, batch_size_per_gpu: 1}}" for start in (9, 5000))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{type: MultiStepLR, milestones: [2000, 3000]}", COSINE, "x.yml:15: train.scheduler.eta_min: expected at most "
         "the learning rate of the optimizer, 0.0001, got 2.0."),
        ("{type: MultiStepLR, milestones: [2000, 3000]}", RESTARTS, "x.yml:15: train.scheduler.periods: expected at "
         "least total_iter, 5000, iterations in all periods, or an eta_min above 0, got 18."),
        ("{type: MultiStepLR, milestones: [2000, 3000]}", f"{TRUE_COSINE}\n  warmup_iter: 6", "x.yml:15: "
         "train.scheduler.T_max: expected at least the number of warm-up iterations, 6, got 5."),
        ("total_iter: 5e3", "total_iter: 5e3\n  warmup_iter: 5001", "x.yml:14: train.warmup_iter: expected at most "
         "total_iter, 5000, because the learning rate rises until then, got 5001."),
        ("batch_size_per_gpu: 4", f"batch_size_per_gpu: 4\n    progressive: [{STAGES}]", "x.yml:11: "
         "datasets.train.progressive.1.start: expected an iteration before total_iter, 5000, got 5000."),
        ("num_in_ch: 3", "num_in_ch: 3, rgb_mean: [0.5]", "x.yml:11: network_g.rgb_mean: expected one number per "
         "channel, got 1 for 3 input and 3 output channels."),
        ("HistoryNegatives", "HistoryNegatives, steps: [5, 5]", "x.yml:18: train.negatives.steps: expected no step "
         "twice with the same weight, got [5, 5]."),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_reported_before_data_is_read(write, good, old, new, message):
    assert old in good
    text = good.replace("type: SPNLoss", "type: SPNLoss, weights: random").replace(old, new, 1)
    with pytest.raises(ValueError) as caught:
        dry_run(load(write(text)))
    assert str(caught.value) == message


def test_unusual_options_that_do_not_contradict_each_other_are_accepted(write, good):
    text = good.replace("type: SPNLoss", "type: SPNLoss, weights: random, loss_weight: 0")
    text = text.replace("HistoryNegatives", "HistoryNegatives, steps: [5, 5], weight: [0, 0.5]")
    text = text.replace("[2000, 3000]", "[7000]").replace("total_iter: 5e3", "total_iter: 5e3\n  warmup_iter: 5000")
    dry_run(load(write(text)))
