"""One pair at a time: what is known of it is what its definition says, and training on it does what it says."""

from __future__ import annotations

import pytest
import torch

from studies import letters, single_pairs
from studies.letters import END


@pytest.mark.slow
def test_a_pair_in_hand_is_as_it_is_said_to_be() -> None:
    model, generator = letters.reference(5), torch.Generator().manual_seed(1)
    chosen, rejected = single_pairs.drawn(model, 20, generator, single_pairs.whole, alike=True)
    assert bool(((chosen.tokens != rejected.tokens).sum(1) == 1).all()) and len(chosen.tokens) == 20
    assert bool((chosen.lengths == rejected.lengths).all()) and not bool((rejected.prompts == END).any())
    same = single_pairs.line_traits(model, chosen, chosen)
    assert float(same["ches"].abs().max()) < 1e-3 and float(same["mean ches"].abs().max()) < 1e-4
    both = single_pairs.line_traits(model, chosen, rejected)
    states = model.model(input_ids=chosen.ids[:, :-1]).last_hidden_state[3, 7 : 7 + int(chosen.lengths[3])].sum(0)
    others = model.model(input_ids=rejected.ids[:, :-1]).last_hidden_state[3, 7 : 7 + int(chosen.lengths[3])].sum(0)
    assert float(both["ches"][3]) == pytest.approx(float(states @ others - states @ states), abs=1e-3)


@pytest.mark.slow
def test_the_lift_of_letters_is_the_first_step_of_their_state() -> None:
    model, generator = letters.reference(5), torch.Generator().manual_seed(2)
    chosen, rejected = single_pairs.drawn(model, 4, generator, single_pairs.first, alike=False)
    lift = single_pairs.letter_traits(model, chosen, rejected)["lift"]
    head = model.lm_head.weight.double()
    state = model.model(input_ids=chosen.prompts).last_hidden_state[:, -1].double().requires_grad_(True)
    logps = torch.log_softmax(state @ head.T, -1)
    one, two = (logps.gather(1, side.tokens[:, :1]).sum() for side in (chosen, rejected))
    (uphill,) = torch.autograd.grad(one - two, state, retain_graph=True)  # what DPO follows, up to a factor
    (own,) = torch.autograd.grad(one, state)
    assert torch.allclose(lift.double(), -(uphill * own).sum(1), atol=1e-5)
