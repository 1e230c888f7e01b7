r"""How the public PyTorch code names the weights of each network.

A rule rewrites one of our module paths, "backbone.layer1_0.conv1", into the PyTorch one by a
regular expression that must match all of it; the first rule that matches counts. Paths end in
".weight" and ".bias" for both, and normalisations have ".running_mean" and ".running_var".
"""

import dataclasses
import re

Rules = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Naming:
    r"""One public naming of the weights of a network, or of its trunk alone.

    normalisation: what the weights expect of their input. trunk: pattern of the file names that
    belong to the trunk. unused: names that are known to repeat others or to be in no segmentation
    network. auxiliary: heads that an inference network does not have. requires, forbids: patterns
    of names, one at least or none at all must be in the file, which tell apart namings that share
    their rules. inplace_abn: pattern of the normalisations of effective scale |weight| + 1e-5.
    """

    normalisation: str | None
    rules: Rules
    trunk: str = r"(?!)"
    unused: str = r"(?!)"
    auxiliary: str = r"(?!)"
    requires: str = ""
    forbids: str = r"(?!)"
    inplace_abn: str = r"(?!)"

    def rename(self, module: str) -> str | None:
        """PyTorch path of one of our modules, None where the naming has no such module."""
        for pattern, replacement in self.rules:
            match = re.fullmatch(pattern, module)
            if match:
                return match.expand(replacement)
        return None

    def fits(self, names: frozenset[str]) -> bool:
        """Whether a file with these names can be in this naming."""
        required = any(re.search(self.requires, name) for name in names)
        return required and not any(re.search(self.forbids, name) for name in names)
