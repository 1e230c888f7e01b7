"""Self-training on the labels of two layers (S2): the surer one of both decides each pixel.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            adversarial
               the same + pseudo + pseudo_aux16 + pseudo_aux32                           ssl
labels       = like configs/ssl.py, from the main output and the 1/32 head

S2's text calls this majority voting; its code takes the most confident layer.
--config.stage.label.pseudo.fusion=mean averages their softmax instead.

    python main.py --config configs/ssl_2layers.py
"""

from configs import ssl


def get_config(arg: str = ""):
    return ssl.get_config(arg, heads=ssl.TWO)
