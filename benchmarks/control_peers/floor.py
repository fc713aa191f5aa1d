"""How much arithmetic does a gradient step ask for, at the least?"""

from __future__ import annotations

from cell import ACTION, OBSERVATION, SAMPLED_ACTIONS


def flops(algorithm: str, width: int, batch: int) -> float:
    """Count the multiplications and additions of all matrix products of one step.

    Two hidden layers; two operations a weight and row forward, two for the gradient of the weights,
    two for that of a layer's inputs, which the first layer needs only where a policy climbs a
    critic. Activations, optimizer and sampling are not counted: a step cannot take less.

    Args:
        algorithm: as in the table.
        width: of the hidden layers.
        batch: rows.
    """

    def forward(inputs: int, outputs: int) -> float:
        return 2.0 * batch * (inputs * width + width * width + width * outputs)

    def into(outputs: int) -> float:
        return 2.0 * batch * (width * width + width * outputs)

    def trained(inputs: int, outputs: int) -> float:
        return 2 * forward(inputs, outputs) + into(outputs)

    q, pi = OBSERVATION + ACTION, 2 * ACTION
    climbed = forward(q, 1) + into(1) + 2.0 * batch * width * ACTION

    def sac(critics: int) -> float:
        learnt = critics * (forward(q, 1) + trained(q, 1))
        return forward(OBSERVATION, pi) + learnt + trained(OBSERVATION, pi) + critics * climbed

    if algorithm == "bc":
        return trained(OBSERVATION, ACTION)
    if algorithm == "td3_bc":
        critics = forward(OBSERVATION, ACTION) + 2 * (forward(q, 1) + trained(q, 1))
        return critics + (trained(OBSERVATION, ACTION) + climbed) / 2
    if algorithm == "iql":
        values = forward(OBSERVATION, 1) + trained(OBSERVATION, 1)
        return values + 2 * (forward(q, 1) + trained(q, 1)) + trained(OBSERVATION, pi)
    if algorithm in {"cql", "cal_ql"}:
        proposed = forward(OBSERVATION, pi) + 2 * 3 * SAMPLED_ACTIONS * trained(q, 1)
        return sac(2) + proposed
    return sac({"sac2": 2, "sac10": 10}[algorithm])
