"""Self-training on the labels of three layers (S2): the surest one decides each pixel.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            adversarial
               the same + pseudo + pseudo_aux16 + pseudo_aux32                           ssl
labels       = like configs/ssl.py, from the main output, the 1/16 and the 1/32 head

S2's text calls this majority voting; its code takes the most confident layer.
--config.stage.label.pseudo.fusion=majority lets them vote.

    python main.py --config configs/ssl_3layers.py
"""

from configs import ssl


def get_config(arg: str = ""):
    return ssl.get_config(arg, heads=ssl.THREE)
