"""`python -m tests.benchmarks.cifar_training` trains on CIFAR-10 as fast as the library does: seconds and accuracy.

A ResNet with wide layers where there is a GPU, else the VGG that the chapters start from; each by its recipe below.
"""

from dataclasses import replace

import torch

from course_lib import checkpoints, data, models, results, training

_VGG = checkpoints.CATALOGUE["cifar10-vgg"]
RECIPES = {
    "cuda": (
        "resnet",
        {"in_channels": 3, "widths": [64, 128, 256], "blocks": [2, 2, 2]},
        replace(_VGG.recipe, epochs=32, batch_size=512, learning_rate=0.4),
    ),
    "cpu": (_VGG.model, _VGG.options, _VGG.recipe),
}
GOALS = {"cuda": "93 % in 60 s", "cpu": "90 % in 30 minutes on two cores"}


def main() -> None:
    place = "cuda" if torch.cuda.is_available() else "cpu"
    name, options, recipe = RECIPES[place]
    cifar = data.load_dataset("cifar10", download=False)
    model = models.build(name, **options).to(place)
    unwatched = replace(cifar, validation=cifar.validation.subset(torch.arange(0)))
    history = training.fit(model, unwatched, recipe)
    print(
        f"{cifar.name}, {results.provenance()['device']}: {sum(history.seconds):.0f} s, validation "
        f"{training.evaluate(model, cifar.validation):.1%}, test {training.evaluate(model, cifar.test):.1%}; "
        f"goal {GOALS[place]}"
    )


if __name__ == "__main__":
    main()
