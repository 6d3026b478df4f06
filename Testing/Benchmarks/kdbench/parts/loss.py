"""Our Dice and cross-entropy beside nnU-Net's."""

from __future__ import annotations

from collections.abc import Iterator

from kdbench.runner import Subject
from kdbench.setting import Setting


def stages(setting: Setting) -> Iterator[list[Subject]]:
    """Yield a comparison for each number of classes; nnU-Net's and ours take turns inside of it."""
    scope = setting.scope
    yield [
        Subject(
            name=f"Dice and cross-entropy, {classes} classes",
            function="kdbench.segmentation_loss:compare",
            arguments={"size": scope.patch, "classes": classes, "repeats": scope.repeats},
            labels={"classes": str(classes)},
            facts={**dict(zip("zyx", scope.patch, strict=True)), "classes": classes},
            rounds=setting.rounds,
        )
        for classes in scope.loss_classes
    ]
