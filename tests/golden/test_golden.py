"""Compare every golden case below ``PETLBENCH_GOLDEN`` (default: this project's own) with our implementation.

A case is checked by the function for its name's longest known prefix. A case that nothing here knows fails.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.golden import (
    blackvip_baselines,
    blackvip_coordinator,
    blackvip_spsa_gc,
    blackvip_synthetic,
    craft_cma,
    craft_prompt,
    craft_refinement,
    pgn_generator,
    pgn_inversion,
    pgn_model,
    pgn_schedule,
    spt_forward,
    spt_sensitivity,
    structured,
    vp_prompter,
    vpt,
)
from tests.golden.case import Case, all_cases

CHECKS: dict[str, Callable[[Case], None]] = {
    "vpt_": vpt.check,
    "lora_vit": structured.check_lora,
    "adapter_vit": structured.check_adapter,
    "spt_forward": spt_forward.check,
    "spt_sensitivity": spt_sensitivity.check,
    "blackvip_baselines": blackvip_baselines.check,
    "blackvip_coordinator": blackvip_coordinator.check,
    "blackvip_spsa_gc": blackvip_spsa_gc.check,
    "blackvip_synthetic": blackvip_synthetic.check,
    "pgn_generator": pgn_generator.check,
    "pgn_inversion": pgn_inversion.check,
    **pgn_model.CHECKS,
    "pgn_schedule": pgn_schedule.check,
    "vp_prompter": vp_prompter.check,
    "craft_refinement": craft_refinement.check,
    "craft_prompt": craft_prompt.check,
    "craft_cma": craft_cma.check,
}


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.folder.name)
def test_golden_case(case: Case) -> None:
    name = case.description["case"]
    prefixes = [prefix for prefix in CHECKS if name.startswith(prefix)]
    assert prefixes, f"no check for the golden case {name}; known prefixes: {', '.join(CHECKS)}"
    CHECKS[max(prefixes, key=len)](case)
