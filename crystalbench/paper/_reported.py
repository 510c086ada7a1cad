"""What the paper reports: tables I to III of Neubauer et al. 2024, on its own data, which are not public.

Percent, pixels, millions of parameters and seconds, as printed. ``std`` is the deviation that stands behind the ±.
"""

from __future__ import annotations

from typing import NamedTuple

PAPER = (
    "Neubauer et al., Multi-scale attention-based instance segmentation for measuring crystals with large size "
    "variation, 2024"
)


class Reported(NamedTuple):
    """A printed figure."""

    mean: float
    std: float | None = None


TABLE_1: dict[tuple[int, str], dict[str, Reported]] = {
    (2, "average"): {"pq": Reported(68.2, 18), "mre_acs": Reported(25.2, 22)},
    (2, "attention"): {"pq": Reported(74.0, 15), "mre_acs": Reported(21.5, 33)},
    (3, "average"): {"pq": Reported(71.3, 17), "mre_acs": Reported(20.4, 21)},
    (3, "attention"): {"pq": Reported(75.8, 14), "mre_acs": Reported(13.0, 20)},
    (4, "average"): {"pq": Reported(70.4, 19), "mre_acs": Reported(17.8, 20)},
    (4, "attention"): {"pq": Reported(77.1, 15), "mre_acs": Reported(11.8, 19)},
}
"""By the number of resize factors N and the fusion."""

# fmt: off
TABLE_2: dict[str, dict[str, Reported]] = {
    method: {
        "pq": Reported(*pq), "aji": Reported(*aji), "mae_acs": Reported(mae), "mre_acs": Reported(*mre),
        "parameters": Reported(parameters), "input_size": Reported(side), "latency_s": Reported(latency),
    }
    for method, pq, aji, mae, mre, parameters, side, latency in (
        ("sima", (77.1, 15), (84.0, 17), 24.3, (11.8, 19), 12.1, 224, 3.94),
        ("cellpose", (72.1, 19), (78.8, 24), 56.6, (19.4, 35), 6.6, 224, 4.96),
        ("cellpose-multiscale", (70.4, 19), (71.6, 28), 52.4, (17.8, 20), 6.6, 224, 3.61),
        ("cellpose-noresize", (55.8, 29), (50.4, 37), 110.4, (33.5, 36), 6.6, 224, 1.86),
        ("boundary", (66.6, 18), (83.0, 12), 39.7, (16.0, 17), 9.7, 512, 0.49),
        ("rtmdet", (65.5, 19), (77.0, 19), 31.5, (12.4, 14), 5.2, 640, 0.08),
        ("maskformer", (51.7, 18), (66.4, 23), 61.2, (21.1, 23), 101.8, 512, 0.21),
        ("oneformer", (70.8, 13), (82.3, 11), 18.3, (10.1, 10), 507.4, 512, 0.12),
    )
}
"""By method, in the paper's order."""

TABLE_3_TRUTH = {1: Reported(72.8, 29), 2: Reported(141.9, 81), 3: Reported(339.6, 192)}
"""ACS of the ground truth by difficulty class."""

TABLE_3: dict[tuple[int, str], dict[str, Reported]] = {
    (number, method): {
        "pq": Reported(*pq), "acs": Reported(*acs), "mae_acs": Reported(mae), "mre_acs": Reported(*mre),
    }
    for number, method, pq, acs, mae, mre in (
        (1, "cellpose", (80.9, 8), (74.3, 29), 2.2, (3.4, 3)),
        (1, "sima", (80.6, 9), (75.8, 29), 3.3, (5.0, 4)),
        (2, "cellpose", (69.4, 15), (186.2, 197), 70.2, (32.1, 50)),
        (2, "sima", (71.7, 15), (171.2, 142), 45.7, (22.3, 29)),
        (3, "cellpose", (66.0, 26), (313.0, 217), 97.5, (22.8, 28)),
        (3, "sima", (78.9, 18), (333.3, 194), 23.9, (8.2, 10)),
    )
}
"""By difficulty class and method."""
# fmt: on

CLDICE_OF_BOUNDARY = Reported(79.99, 9)
"""Section V-B2, on the boundary model."""
