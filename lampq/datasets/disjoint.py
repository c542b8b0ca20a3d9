"""Which training images serve what: calibration, D and training share none, where there are enough.

All three come from one seeded permutation. Calibration takes its first images (or those of a list). D takes its last
ones, the last first, so that a larger D extends a smaller one. Training, the block-wise methods' own, takes those
between. A plan is then chosen on images that nothing was calibrated or trained on.

What is shared where there are too few images: D has as many as there are, at its end those of calibration. Training
first takes those of calibration as well, and only then those of D, the nearest first. It depends on the size of D
whether or not a run looks at D, so that searched bits and equal bits are trained on the same images.
"""

from collections.abc import Iterable

DRAWN = "disjoint"
"""The rule's name in the identity of D. Rows without it are older: their D began with the calibration images."""


class DisjointSets:
    """Places in the permutation.

    Args:
        images: how many there are.
        calibration: places of the calibration images.
        sample_images: images of D that are asked for.
        apart: whether training leaves calibration images out; if not, they are its first ones.

    Attributes:
        sample: places of D's images, in its order.
    """

    def __init__(self, images: int, calibration: Iterable[int], sample_images: int, apart: bool = True) -> None:
        taken = sorted(set(calibration))
        self._calibration = set(taken)
        self._images = images
        left = images - len(taken)
        backwards = (place for place in range(images - 1, -1, -1) if place not in self._calibration)
        self.sample = [place for _, place in zip(range(min(sample_images, left)), backwards, strict=False)]
        self.sample += taken[::-1][: max(0, sample_images - left)]
        self._apart = apart

    def training(self, count: int) -> list[int]:
        """Places of so many training images (all, where there are fewer), in the permutation's order."""
        sample = set(self.sample)
        ranks: tuple[list[int], list[int], list[int]] = [], [], []
        for place in range(self._images):
            if place in sample:
                ranks[2].append(place)
            else:
                ranks[1 if self._apart and place in self._calibration else 0].append(place)
            if len(ranks[0]) == count:
                break
        return sorted((ranks[0] + ranks[1] + ranks[2])[:count])

    def notes(self, training: int | None = None) -> list[str]:
        """What is shared, a line for D and one for training; nothing where nothing is.

        Args:
            training: images that a method trains on, where it does.
        """
        notes = []
        if shared := len(self._calibration & set(self.sample)):
            notes.append(f"{shared} of the {len(self.sample)} images of the sample set D are calibration images")
        if training is not None:
            places = set(self.training(training))
            ofs = {
                "calibration images": self._calibration if self._apart else set(),
                "images of the sample set D": set(self.sample),
            }
            shared = [f"{len(places & of)} are {name}" for name, of in ofs.items() if places & of]
            if shared:
                notes.append(f"of the {len(places)} training images {' and '.join(shared)}")
        return [f"{note}: there are {self._images} images in all" for note in notes]
