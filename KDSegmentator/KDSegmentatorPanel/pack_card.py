"""What a pack says about itself, as a page for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from KDSegmentatorLib.packs.field_of_view import field_of_view_text
from KDSegmentatorLib.packs.manifest import Evaluation, Interval, Manifest
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.regions import region_text
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
            *_region(manifest),
            (_("Structures"), str(len(manifest.labels))),
            (_("Parameters"), f"{manifest.network.parameters:,}"),
            (_("Number formats"), ", ".join(formats)),
            (_("On disk"), f"{size / 1e6:.1f} MB"),
            (_("Made by"), f"{_method(provenance.method)}, {provenance.created}"),
            ("SHA-256", pack.manifest_sha256),
            (_("Folder"), str(pack.folder)),
        )
    )


def _region(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what is run before the pack, if anything is."""
    region = manifest.region
    if region is None:
        return []
    text = (
        _("{pack}, on what that finds")
        if region.margin_mm == 0
        else _("{pack}, on what that finds and {margin} mm round it")
    )
    return [(_("Runs after"), text.format(pack=region_text(manifest), margin=f"{region.margin_mm:g}"))]


def _scores(evaluation: Evaluation, manifest: Manifest) -> str:
    """Return Dice, and surface Dice and HD95, which packs of earlier versions do not have."""
    names = {label.value: label.name for label in manifest.labels}
    what = _("{dataset}, {split}; n = {cases}; {mirroring}.").format(
        dataset=evaluation.dataset,
        split=evaluation.split,
        cases=evaluation.cases,
        mirroring=_("with mirroring") if evaluation.mirroring else _("without mirroring"),
    )
    scored = evaluation.labels
    columns: list[tuple[str, int, list[Interval | None]]] = [
        ("Dice", 3, [evaluation.mean_dice, *(score.dice for score in scored)])
    ]
    if evaluation.mean_nsd is not None:
        title = f"NSD ({evaluation.nsd_tolerance_mm:g} mm)"
        columns.append((title, 3, [evaluation.mean_nsd, *(score.nsd for score in scored)]))
    if evaluation.mean_hd95_mm is not None:
        columns.append(("HD95 (mm)", 2, [evaluation.mean_hd95_mm, *(score.hd95_mm for score in scored)]))
    header = [_("Structure"), *(text for title, _digits, _values in columns for text in (title, _("95 % interval")))]
    rows = [
        [name, *(text for _title, digits, values in columns for text in _interval(values[n], digits))]
        for n, name in enumerate((_("Mean"), *(names[score.value] for score in scored)))
    ]
    return f"<p>{escape(what)}</p>{_table([header, *rows])}{_surfaces(evaluation)}{_teacher(evaluation, manifest)}"


def _interval(value: Interval | None, digits: int) -> tuple[str, str]:
    if value is None:
        return "-", ""
    return f"{value.mean:.{digits}f}", f"[{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _surfaces(evaluation: Evaluation) -> str:
    """Return what NSD and HD95 mean here."""
    sentences = []
    if evaluation.mean_nsd is not None:
        parts = _("surface voxels") if evaluation.nsd_surface == "voxels" else _("sub-voxel patches by area")
        sentences.append(
            _("NSD: share of both surfaces ({parts}) within {tolerance} mm of each other.").format(
                parts=parts, tolerance=f"{evaluation.nsd_tolerance_mm:g}"
            )
        )
    if evaluation.hd95_replaced:
        sentences.append(
            _(
                "HD95 counts as the diagonal of the image {count} times, where only one segmentation has a label."
            ).format(count=evaluation.hd95_replaced)
        )
    return f"<p>{escape(' '.join(sentences))}</p>" if sentences else ""


def _teacher(evaluation: Evaluation, manifest: Manifest) -> str:
    if evaluation.teacher_mean_dice is None or manifest.size == "x1":
        return ""
    scores = [f"Dice {evaluation.teacher_mean_dice:.3f}"]
    if evaluation.teacher_mean_nsd is not None:
        scores.append(f"NSD {evaluation.teacher_mean_nsd:.3f}")
    if evaluation.teacher_mean_hd95_mm is not None:
        scores.append(f"HD95 {evaluation.teacher_mean_hd95_mm:.2f} mm")
    return _("<p>Teacher on the same cases: {teacher}.</p>").format(teacher=", ".join(scores))
