"""What every data set gives, whichever it is: four sets with names, identities and images that agree."""

import torch

from lampq.datasets.base import SETS
from lampq.datasets.given import GivenImages
from lampq.datasets.shapes import Shapes
from tests.small_models import CLASSES, MadeUpImages, images, vit_adapter


def data_sets():
    pictures = images(vit_adapter(1), 12)
    labels = torch.arange(8) % CLASSES
    yield Shapes(calibration_images=4, sample_images=8, validation_images=6, batch_size=4), 6
    yield GivenImages(pictures[:4], (pictures[4:], labels)), 0
    yield MadeUpImages(calibration_images=4, sample_images=8, validation_images=6, batch_size=4), 6


def test_names_identities_and_images_agree():
    for dataset, validated in data_sets():
        if not isinstance(dataset, Shapes):  # which are for larger models
            dataset.bind(vit_adapter(1))
        listing = dataset.listing(0, 3)
        assert {which: len(names) for which, names in listing.items()} == {
            **{"calibration": 4, "sample": 8, "validation": validated},
            "training": 3,
        }
        assert all(dataset.identity(which, 0)["images"] == len(listing[which]) for which in SETS)
        assert dataset.identity("training", 0, 3)["images"] == len(dataset.training(0, 3)) == 3
        assert len(dataset.calibration(0)) == 4 and [len(part) for part in dataset.sample(0)] == [8, 8]
        assert sum(len(batch) for batch, _ in dataset.validation()) == dataset.validation_count == validated


def test_what_a_data_set_does_not_have_to_say():
    dataset = Shapes()
    dataset.look_again()
    assert (dataset.notes(), dataset.repeated(), dataset.make(0, None, True, None)) == ([], [], [])
    assert (dataset.task, dataset.judged_by, dataset.image_bytes) == ("classification", "loss", None)


def test_images_of_d_that_a_method_trains_on_are_counted():
    pictures, labels = images(vit_adapter(1), 12), torch.arange(6) % CLASSES
    given = GivenImages(pictures[:8], (pictures[5:11], labels))
    assert [given.sample_trained_on(0, count) for count in (None, 4, 6)] == [3, 0, 1]
    assert GivenImages(pictures).sample_trained_on(0, None) == 0
    made_up = MadeUpImages(calibration_images=4, sample_images=8)  # all sets begin with the same images
    assert [made_up.sample_trained_on(0, count) for count in (None, 6, 20)] == [4, 6, 8]
    assert Shapes(calibration_images=4, sample_images=8).sample_trained_on(0, 20) == 0


def test_given_images_are_known_by_their_values():
    pictures = images(vit_adapter(1), 4)
    known = GivenImages(pictures).identity("calibration", 0)
    assert known == GivenImages([pictures[:2], pictures[2:]]).identity("calibration", 1)
    changed = pictures.clone()
    changed[3, 0, 0, 0] += 1e-6
    assert known != GivenImages(changed).identity("calibration", 0)
