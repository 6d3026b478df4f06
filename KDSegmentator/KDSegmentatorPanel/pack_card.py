"""What a pack says about itself, as a page for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from KDSegmentatorLib.packs.field_of_view import field_of_view_text
from KDSegmentatorLib.packs.manifest import Evaluation, Manifest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorPanel.translation import tr as _


def card(pack: StudentPack) -> str:
    """Return a pack's card as HTML that Qt's rich text can show."""
    manifest = pack.manifest
    evaluation = manifest.evaluation
    accuracy = f"<p>{_('It was not measured.')}</p>" if evaluation is None else _scores(evaluation, manifest)
    return "".join(
        (
            f"<h3>{escape(manifest.title)}, {escape(manifest.size)}</h3>",
            _facts(pack),
            f"<h4>{_('Intended use')}</h4><p>{escape(manifest.intended_use)}</p>",
            f"<h4>{_('Limits')}</h4><p>{escape(manifest.limits)}</p>",
            f"<h4>{_('Accuracy')}</h4>{accuracy}",
            f"<h4>{_('Licence')}</h4>",
            f"<p>{_('Weights')}: {escape(manifest.weights.license)}. {escape(manifest.weights.text)}</p>",
            f"<p>{_('Data')}: {escape(manifest.data.license)}. {escape(manifest.data.text)}</p>",
        )
    )


def _method(name: str) -> str:
    """Return a method of distillation in words; those of recipes that are not known here keep their name."""
    return {
        "teacher": _("the teacher itself"),
        "plain": _("trained without a teacher"),
        "logit": _("logit distillation"),
        "reco": _("ReCo distillation"),
        "logit-reco": _("logit and ReCo distillation"),
        "cwd": _("channel-wise distillation"),
    }.get(name, name)


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}&nbsp;&nbsp;</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _facts(pack: StudentPack) -> str:
    manifest = pack.manifest
    provenance = manifest.provenance
    size = sum(record.size for record in manifest.files.values())
    formats = ["float32", *(reduced.precision for reduced in manifest.network.reduced_precisions)]
    return _table(
        (
            (_("Pack"), f"{manifest.id} {manifest.version}"),
            (_("Modality"), f"{manifest.modality}, {manifest.body_part.lower()}"),
            (_("Field of view"), field_of_view_text(manifest) or _("unknown")),
            (_("Structures"), str(len(manifest.labels))),
            (_("Parameters"), f"{manifest.network.parameters:,}"),
            (_("Number formats"), ", ".join(formats)),
            (_("On disk"), f"{size / 1e6:.1f} MB"),
            (_("Made by"), f"{_method(provenance.method)}, {provenance.created}"),
            ("SHA-256", pack.manifest_sha256),
            (_("Folder"), str(pack.folder)),
        )
    )


def _scores(evaluation: Evaluation, manifest: Manifest) -> str:
    names = {label.value: label.name for label in manifest.labels}
    mean = evaluation.mean_dice
    teacher = evaluation.teacher_mean_dice
    what = _("{dataset}, {split}; n = {cases}; {mirroring}.").format(
        dataset=evaluation.dataset,
        split=evaluation.split,
        cases=evaluation.cases,
        mirroring=_("with mirroring") if evaluation.mirroring else _("without mirroring"),
    )
    scores = [(_("Mean"), mean), *((names[score.value], score.dice) for score in evaluation.labels)]
    rows = [(name, f"{dice.mean:.3f}", f"[{dice.low:.3f}, {dice.high:.3f}]") for name, dice in scores]
    compared = ""
    if teacher is not None and manifest.size != "x1":
        compared = _("<p>Teacher on the same cases: {teacher}.</p>").format(teacher=f"{teacher:.3f}")
    return f"<p>{escape(what)}</p>{_table([(_('Structure'), 'Dice', _('95 % interval')), *rows])}{compared}"
