"""The two optimizers: poly SGD for the segmentation network, poly Adam for the discriminators."""

import optax


def poly(learning_rate: float, *, steps: int, power: float) -> optax.Schedule:
    """Poly decay lr * (1 - t/steps)^power per iteration, 0 from `steps` on."""
    return optax.polynomial_schedule(
        init_value=learning_rate, end_value=0.0, power=power, transition_steps=steps
    )


def sgd(schedule: optax.Schedule, *, momentum: float, weight_decay: float):
    """SGD as PyTorch has it: coupled decay before the momentum, the learning rate last."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )


def adam(schedule: optax.Schedule, *, betas: tuple[float, float]) -> optax.GradientTransformation:
    """Adam with the betas every adversarial paper here uses, (.9, .99)."""
    return optax.adam(schedule, b1=betas[0], b2=betas[1])
