"""The losses against the formulas: golden numbers, gradients in fp64, and properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likelier.objectives import losses, ratio_losses, reference_free_losses

# Worked by hand from the formulas: p_w=-20, p_l=-24, r_w=-22, r_l=-23, n_w=10, n_l=8, so Dw=2, Dl=-1.
DW, DL = torch.tensor([2.0], dtype=torch.double), torch.tensor([-1.0], dtype=torch.double)
PW, PL = torch.tensor([-20.0], dtype=torch.double), torch.tensor([-24.0], dtype=torch.double)
NW, NL = torch.tensor([10]), torch.tensor([8])
UP, DOWN = torch.tensor([True]), torch.tensor([False])

GOLDEN = {
    "dpo": (lambda: losses.dpo_loss(DW, DL, beta=0.1), 0.554355),
    "cdpo": (lambda: losses.dpo_loss(DW, DL, beta=0.1, label_smoothing=0.1), 0.584355),
    "robust": (lambda: losses.robust_dpo_loss(DW, DL, beta=0.1, flip_probability=0.1), 0.516855),
    "hinge": (lambda: losses.hinge_loss(DW, DL, beta=0.1), 0.7),
    "ipo sum": (lambda: losses.ipo_loss(DW, DL, NW, NL, tau=0.1, length_normalize=False), 4.0),
    "ipo mean": (lambda: losses.ipo_loss(DW, DL, NW, NL, tau=0.1), 21.855625),
    "simpo": (lambda: losses.simpo_loss(PW, PL, NW, NL, beta=2.0, gamma_beta_ratio=0.25), 0.201413),
    "sigmoid_norm .1": (lambda: losses.sigmoid_norm_loss(DW, DL, NW, NL, beta=0.1), 0.677029),
    "sigmoid_norm 5": (lambda: losses.sigmoid_norm_loss(DW, DL, NW, NL, beta=5.0), 0.179745),
    "apo_zero": (lambda: losses.apo_zero_loss(DW, DL, beta=0.1), 0.925187),
    "apo_down": (lambda: losses.apo_down_loss(DW, DL, beta=0.1), 0.975391),
    "dpop, the chosen answer rises": (lambda: losses.dpop_loss(DW, DL, beta=0.1, penalty=5.0), 0.554355),
    # Dw = -2, Dl = -5: 0.1 (3 - 5 * 2) = -0.7, and ln(1 + e^0.7).
    "dpop, it falls": (lambda: losses.dpop_loss(-DW, 5 * DL, beta=0.1, penalty=5.0), 1.103186),
    "nll": (lambda: losses.nll_loss(PW, NW), 2.0),
    "kto desirable": (lambda: losses.kto_loss(DW, UP, 0.5, beta=0.1), 0.462570),
    "exo": (lambda: ratio_losses.exo_loss(DW, DL, beta=0.1, label_smoothing=1e-3), 2.258199),
    "nca": (lambda: ratio_losses.nca_loss(DW, DL, beta=0.1), 1.319407),
    "sppo, the mean of its code": (lambda: ratio_losses.sppo_loss(DW, DL, beta=0.1), 12.5),
    "discopop, tau of the paper": (lambda: ratio_losses.discopop_loss(DW, DL, beta=0.1, discopop_tau=0.05), 0.740357),
    "discopop, tau 1": (lambda: ratio_losses.discopop_loss(DW, DL, beta=0.1, discopop_tau=1.0), 0.661468),
    "discopop, tau as beta": (lambda: ratio_losses.discopop_loss(DW, DL, beta=0.1, discopop_tau=0.1), 0.731975),
    "f_dpo forward kl": (lambda: ratio_losses.f_dpo_loss(DW, DL, beta=0.1, divergence="forward-kl"), 0.572316),
    "f_dpo js": (lambda: ratio_losses.f_dpo_loss(DW, DL, beta=0.1, divergence="js"), 0.635589),
    **{
        f"f_dpo alpha {alpha}": (
            lambda alpha=alpha: ratio_losses.f_dpo_loss(DW, DL, beta=0.1, divergence="alpha", alpha=alpha),
            expected,
        )
        for alpha, expected in ((0.25, 0.566800), (0.5, 0.573243), (0.75, 0.574839))
    },
    "cal_dpo": (lambda: ratio_losses.cal_dpo_loss(DW, DL, beta=0.1), 0.804355),
    "cpo, its preference term": (lambda: reference_free_losses.cpo_loss(PW, PL, beta=0.1), 0.513015),
    "orpo, its log-odds": (lambda: reference_free_losses.log_odds(PW / NW, PL / NL), 1.094344),
    "orpo": (lambda: reference_free_losses.orpo_loss(PW, PL, NW, NL, odds_weight=0.1), 2.028875),
    "alphapo": (
        lambda: reference_free_losses.alpha_po_loss(PW, PL, NW, NL, beta=2.5, gamma_beta_ratio=0.1, alpha=0.25),
        0.011811,
    ),
    "alphapo at 0 is simpo": (
        lambda: reference_free_losses.alpha_po_loss(PW, PL, NW, NL, beta=2.0, gamma_beta_ratio=0.25, alpha=0.0),
        0.201413,
    ),
    # Means -2 and -3 a token, collisions of 1.5 and 2.5: e^(-0.5 - 0.5), and e^0 of what is above 1.
    "wpo, its weight": (lambda: ratio_losses.wpo_weights(PW, PL, 0.75 * -PW, -PL * 5 / 6, NW, NL), 0.367879),
    "wpo, its limit": (lambda: ratio_losses.wpo_weights(PW, PL, -2 * PW, -PL, NW, NL), 1.0),
    "bco_pair without d, as TRL has it": (lambda: ratio_losses.bco_pair_loss(DW, DL, 0.0, beta=0.1), 1.242536),
    "bco_pair, d the mean reward": (lambda: ratio_losses.bco_pair_loss(DW, DL, 0.05, beta=0.1), 1.241914),
    "beta_dpo": (
        lambda: losses.dpo_loss(
            DW, DL, beta=float(ratio_losses.dynamic_beta(0.1 * (DW - DL), 0.1, beta=0.1, beta_scaling=0.6))
        ),
        0.539193,
    ),
    # max(0, 5 - 4) + 0.1 * 20
    "slic": (lambda: reference_free_losses.slic_loss(PW, PL, delta=5.0, likelihood_weight=0.1), 3.0),
    # The same value on the other side: D - z0 = -1.5 for an undesirable row.
    "kto undesirable": (lambda: losses.kto_loss(DL, DOWN, 0.5, beta=0.1), 0.462570),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name: str) -> None:
    compute, expected = GOLDEN[name]
    assert compute().item() == pytest.approx(expected, abs=5e-7)


def test_simpo_with_dpos_beta_starts_near_0_974() -> None:
    equal = torch.zeros(1)
    value = losses.simpo_loss(equal, equal, torch.ones(1), torch.ones(1), beta=0.1, gamma_beta_ratio=5.0)
    assert value.item() == pytest.approx(0.974, abs=1e-3)


def _pairwise(number: int) -> list:
    return [
        lambda w, x: losses.dpo_loss(w, x, beta=0.3),
        lambda w, x: losses.dpo_loss(w, x, beta=0.3, label_smoothing=0.2),
        lambda w, x: losses.robust_dpo_loss(w, x, beta=0.3, flip_probability=0.2),
        lambda w, x: losses.ipo_loss(w, x, torch.full((number,), 5), torch.full((number,), 3), tau=0.4),
        lambda w, x: losses.hinge_loss(w, x, beta=0.3),
        lambda w, x: losses.sigmoid_norm_loss(w, x, torch.full((number,), 5), torch.full((number,), 3), beta=2.0),
        lambda w, x: losses.simpo_loss(
            w, x, torch.full((number,), 5), torch.full((number,), 3), beta=2.0, gamma_beta_ratio=0.3
        ),
        lambda w, x: losses.apo_zero_loss(w, x, beta=0.3),
        lambda w, x: losses.apo_down_loss(w, x, beta=0.3),
        lambda w, x: losses.dpop_loss(w, x, beta=0.3, penalty=5.0) + 0.5 * losses.nll_loss(w, torch.full((number,), 5)),
        lambda w, x: ratio_losses.exo_loss(w, x, beta=0.3, label_smoothing=0.01),
        lambda w, x: ratio_losses.nca_loss(w, x, beta=0.3),
        lambda w, x: ratio_losses.sppo_loss(w, x, beta=0.3),
        lambda w, x: ratio_losses.discopop_loss(w, x, beta=0.3, discopop_tau=0.5),
        lambda w, x: ratio_losses.f_dpo_loss(w, x, beta=0.3, divergence="forward-kl"),
        lambda w, x: ratio_losses.f_dpo_loss(w, x, beta=0.3, divergence="js"),
        lambda w, x: ratio_losses.f_dpo_loss(w, x, beta=0.3, divergence="alpha", alpha=0.3),
        lambda w, x: ratio_losses.cal_dpo_loss(w, x, beta=0.3),
        lambda w, x: ratio_losses.bco_pair_loss(w, x, 0.2, beta=0.3),
        lambda w, x: ratio_losses.bco_loss(torch.cat([w, x]), torch.arange(2 * number) < number, 0.2, beta=0.3),
        lambda w, x: reference_free_losses.cpo_loss(w, x, beta=0.3),
        lambda w, x: reference_free_losses.slic_loss(w, x, delta=1.0, likelihood_weight=0.1),
        lambda w, x: reference_free_losses.alpha_po_loss(
            w, x, torch.full((number,), 5), torch.full((number,), 3), beta=2.0, gamma_beta_ratio=0.3, alpha=0.25
        ),
    ]


@pytest.mark.parametrize("number", range(len(_pairwise(1))))
def test_gradients_in_fp64(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    chosen, rejected = (torch.randn(6, dtype=torch.double, generator=generator, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(_pairwise(6)[number], (chosen, rejected))


def test_kto_gradient_in_fp64() -> None:
    ratios = torch.randn(6, dtype=torch.double, requires_grad=True)
    desirable = torch.tensor([True, False] * 3)
    assert torch.autograd.gradcheck(
        lambda x: losses.kto_loss(x, desirable, 0.4, beta=0.3, undesirable_weight=2), (ratios,)
    )


# The sign of the gradient with respect to the chosen and the rejected side that each paper states.
SIGNS = {0: (-1, 1), 1: (-1, 1), 2: (-1, 1), 5: (-1, 1), 6: (-1, 1), 7: (-1, 1)}


@pytest.mark.parametrize("number", SIGNS)
@given(chosen=st.floats(-5, 5), rejected=st.floats(-5, 5))
def test_chosen_is_pushed_up_and_rejected_down(number: int, chosen: float, rejected: float) -> None:
    if number == 1 and chosen - rejected > 3:  # conservative DPO pulls a margin beyond its target back
        return
    sides = [torch.tensor([value], dtype=torch.double, requires_grad=True) for value in (chosen, rejected)]
    _pairwise(1)[number](*sides).sum().backward()
    signs = tuple(math.copysign(1, float(side.grad)) for side in sides)  # type: ignore[arg-type]
    assert signs == SIGNS[number]


def test_apo_down_lowers_the_chosen_answer_at_the_start() -> None:
    chosen, rejected = (torch.zeros(1, dtype=torch.double, requires_grad=True) for _ in range(2))
    losses.apo_down_loss(chosen, rejected, beta=0.1).sum().backward()
    # The first term falls with a lower chosen answer as fast as the second rises; only the rejected is pushed down.
    assert chosen.grad.item() == pytest.approx(0, abs=1e-12)  # type: ignore[union-attr]
    assert rejected.grad.item() > 0  # type: ignore[union-attr]


@given(margin=st.floats(-8, 8), flip=st.floats(0, 0.45))
def test_robust_dpo_is_unbiased_under_flips(margin: float, flip: float) -> None:
    clean = losses.dpo_loss(torch.tensor(margin).double(), torch.zeros(()).double(), beta=0.3)
    kept = losses.robust_dpo_loss(
        torch.tensor(margin).double(), torch.zeros(()).double(), beta=0.3, flip_probability=flip
    )
    flipped = losses.robust_dpo_loss(
        torch.zeros(()).double(), torch.tensor(margin).double(), beta=0.3, flip_probability=flip
    )
    assert ((1 - flip) * kept + flip * flipped).item() == pytest.approx(clean.item(), abs=1e-12)


def test_soft_labels_are_one_value_a_pair() -> None:
    smoothing = torch.tensor([0.0, 0.5])
    values = losses.dpo_loss(torch.tensor([2.0, 2.0]), torch.tensor([-1.0, -1.0]), beta=0.1, label_smoothing=smoothing)
    tie = 0.5 * (losses.dpo_loss(DW, DL, beta=0.1) + losses.dpo_loss(DL, DW, beta=0.1))
    assert values[0].item() == pytest.approx(0.554355, abs=1e-6)
    assert values[1].item() == pytest.approx(tie.item(), abs=1e-6)


@given(ratios=st.lists(st.floats(-20, 20), min_size=2, max_size=10))
def test_kto_with_equal_weights_and_no_baseline_is_apo_zero(ratios: list[float]) -> None:
    chosen = torch.tensor(ratios, dtype=torch.double)
    rejected = chosen.flip(0)
    rows = torch.cat([chosen, rejected])
    desirable = torch.arange(len(rows)) < len(chosen)
    kto = losses.kto_loss(rows, desirable, 0.0, beta=0.2)
    torch.testing.assert_close(kto.sum(), losses.apo_zero_loss(chosen, rejected, beta=0.2).sum())


@pytest.mark.parametrize("magnitude", [0.0, 1e4, 1e8])
def test_no_loss_or_gradient_is_ever_nan(magnitude: float) -> None:
    for loss in _pairwise(2):
        for sign in (1, -1):
            chosen = torch.tensor([sign * magnitude, 0.0], requires_grad=True)
            value = loss(chosen, -chosen)
            value.sum().backward()
            assert torch.isfinite(value).all() and torch.isfinite(chosen.grad).all()  # type: ignore[arg-type]


def test_orpo_where_answers_are_certain_or_hopeless() -> None:
    """Its odds have a difference of nearly equal numbers near certainty, and its gradient a division by one."""
    for chosen, rejected in ((-1e-7, -1e-3), (-1e-3, -1e-7), (-30.0, -0.1), (-0.1, -30.0), (-0.693, -0.694)):
        means = [torch.tensor([value], dtype=torch.double, requires_grad=True) for value in (chosen, rejected)]
        one = torch.ones(1)
        value = reference_free_losses.orpo_loss(*means, one, one, odds_weight=0.3)
        log_odds = chosen - rejected - math.log(-math.expm1(chosen)) + math.log(-math.expm1(rejected))
        assert value.item() == pytest.approx(-chosen + 0.3 * math.log1p(math.exp(-log_odds)), rel=1e-9)
        value.backward()
        assert all(bool(torch.isfinite(mean.grad).all()) for mean in means)  # type: ignore[arg-type]


AT_REFERENCE = {
    "exo": (
        lambda zero: ratio_losses.exo_loss(zero, zero, beta=0.3, label_smoothing=0.01),
        -math.log(2) - math.log(0.01 * 0.99) / 2,
    ),
    "nca": (lambda zero: ratio_losses.nca_loss(zero, zero, beta=0.3), 2 * math.log(2)),
    "sppo": (lambda zero: ratio_losses.sppo_loss(zero, zero, beta=0.25), 4.0),
    "discopop": (
        lambda zero: ratio_losses.discopop_loss(zero, zero, beta=0.3, discopop_tau=0.5),
        (math.log(2) + 1) / 2,
    ),
    "f_dpo": (lambda zero: ratio_losses.f_dpo_loss(zero, zero, beta=0.3, divergence="js"), math.log(2)),
    "cal_dpo": (lambda zero: ratio_losses.cal_dpo_loss(zero, zero, beta=0.3), math.log(2) + 0.5),
    "bco_pair": (lambda zero: ratio_losses.bco_pair_loss(zero, zero, 0.0, beta=0.3), 2 * math.log(2)),
    "bco": (lambda zero: ratio_losses.bco_loss(zero, zero == 0, 0.0, beta=0.3), math.log(2)),
}


@pytest.mark.parametrize("name", AT_REFERENCE)
def test_what_it_is_where_policy_and_reference_are_one(name: str) -> None:
    compute, expected = AT_REFERENCE[name]
    assert compute(torch.zeros(1, dtype=torch.double)).item() == pytest.approx(expected, abs=1e-12)


def test_beta_to_zero_is_ln_2() -> None:
    assert losses.dpo_loss(DW, DL, beta=1e-12).item() == pytest.approx(math.log(2))
